package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/errcode"
	"colophon/migrations"
)

// Limits says how much a queue takes on. The zero value of each is no limit, but
// that of JobTime is DefaultJobTime.
type Limits struct {
	Outstanding int // jobs of one owner that are queued or running
	Queued      int // jobs of all owners that are queued
	Tokens      int // of prompts and completions, for one owner and day (UTC)

	JobTime time.Duration // from a job's acceptance to its end
}

// ErrQueueFull occurs when as many jobs are queued as may be.
var ErrQueueFull = errcode.New("queue_full", "the queue is full")

// OutstandingError occurs when an owner has as many jobs outstanding as one may have.
type OutstandingError struct{ Limit int }

// Code returns the error's code.
func (*OutstandingError) Code() string { return "too_many_jobs" }

func (e *OutstandingError) Error() string {
	return fmt.Sprintf("%d jobs are queued or running, which is as many as one user may have", e.Limit)
}

// BudgetError occurs when a job might take more tokens than its owner has left
// for the day.
type BudgetError struct {
	Limit  int           // a day's tokens
	Left   int           // of them, in tokens
	Needed int           // tokens of the prompt and the most that may follow
	Reset  time.Duration // until the next day
}

// Code returns the error's code: it tells jobs that fit no day's budget from those
// that fit another day's.
func (e *BudgetError) Code() string {
	if e.Needed > e.Limit {
		return "over_token_budget"
	}
	return "token_budget_spent"
}

// RetryAfter returns the time until the next budget, or 0 if no budget would do.
func (e *BudgetError) RetryAfter() time.Duration {
	if e.Needed > e.Limit {
		return 0
	}
	return e.Reset
}

func (e *BudgetError) Error() string {
	return fmt.Sprintf("the job may take %d tokens, and %d of the %d for today are left", e.Needed, e.Left, e.Limit)
}

// admit fills in what the load of its owner says of a job's priority and
// reservation, and its deadline, or returns an OutstandingError or a BudgetError.
func (q *Queue) admit(ctx context.Context, tx *events.Tx, owner uuid.UUID, jobTime time.Duration, job *events.JobAccepted) error {
	load, err := tx.Load(ctx, owner, max(q.limits.Outstanding, manyJobs))
	if err != nil {
		return err
	}
	job.Priority, job.Deadline = priority(load), load.At.Add(jobTime)
	if q.limits.Tokens > 0 {
		job.Reserved = events.Reservation{Day: load.At.Format(time.DateOnly), Tokens: job.PromptTokens + job.Params.MaxTokens}
	}
	load.Outstanding++
	load.Spent += job.Reserved.Tokens
	return q.limits.allow(load, job.Reserved.Tokens)
}

// confirm says whether a job that was admitted still finds room, now that it is
// counted itself and no other job of its owner can be between this and the end of tx.
func (q *Queue) confirm(ctx context.Context, tx *events.Tx, job events.Job) error {
	if q.limits.Outstanding == 0 && q.limits.Tokens == 0 {
		return nil
	}
	load, err := tx.LockLoad(ctx, job.Owner, q.limits.Outstanding+1)
	if err != nil {
		return err
	}
	return q.limits.allow(load, job.Reserved.Tokens)
}

// allow returns an error if a load is too much with a job that needs so many tokens.
func (l Limits) allow(load events.Load, needed int) error {
	if l.Outstanding > 0 && load.Outstanding > l.Outstanding {
		return &OutstandingError{l.Outstanding}
	}
	if l.Tokens > 0 && load.Spent > l.Tokens {
		tomorrow := load.At.Truncate(24 * time.Hour).Add(24 * time.Hour)
		return &BudgetError{l.Tokens, max(0, l.Tokens-load.Spent+needed), needed, tomorrow.Sub(load.At)}
	}
	return nil
}

// An owner with so many jobs outstanding has some, or many.
const (
	someJobs = 8
	manyJobs = 64
)

// priority returns the River priority of an owner's next job, 1 to 4: River
// takes a job of a lower number first. It is never put before an earlier job of
// the same owner.
func priority(load events.Load) int {
	p := 4
	switch n := load.Outstanding; {
	case n == 0:
		p = 1
	case n < someJobs:
		p = 2
	case n < manyJobs:
		p = 3
	}
	return max(p, load.Priority)
}

const (
	// Owners who have waited for so long, with none of their jobs taken, are
	// given the first priority for one of them, so that those who go before
	// them do not do so for ever.
	promoteAfter = 30 * time.Second
	promoteEvery = 10 * time.Second
)

// promote moves the oldest job of every such owner to the end of the jobs of
// the first priority. While all that wait are of one priority it looks no further.
func (w *Worker) promote(ctx context.Context) error {
	_, err := w.pool.Exec(ctx, `
		with waiting as (
			select r.id, r.priority, r.scheduled_at, h.owner
			from `+migrations.RiverJobs+` r join history h on h.job = (r.args->>'job')::uuid
			where r.state = 'available' and h.state = 'queued' and (
				select min(priority) < max(priority) from `+migrations.RiverJobs+` where state = 'available' and queue = 'default')
		)
		update `+migrations.RiverJobs+` set priority = 1, scheduled_at = clock_timestamp()
		where state = 'available' and priority > 1 and id in (
			select distinct on (owner) id from waiting w
			where priority > 1 and scheduled_at < clock_timestamp() - $1::interval
				and not exists (select from waiting o where o.owner = w.owner and o.priority = 1)
				and not exists (select from history h where h.owner = w.owner and h.state = 'running')
			order by owner, id)`, promoteAfter)
	return err
}
