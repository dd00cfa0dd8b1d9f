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

// Limits bounds the jobs that a queue accepts. A zero field means no limit, except that
// a zero JobTime means DefaultJobTime.
type Limits struct {
	Outstanding int // maximum number of queued and running jobs of one owner
	Queued      int // maximum number of queued jobs of all owners together, without jobs that wait for other weights than new jobs get
	Tokens      int // maximum number of tokens, in prompts and completions, per owner and day (UTC)

	JobTime time.Duration // maximum time from a job's acceptance to its end
}

// ErrQueueFull is returned when the limit of queued jobs is reached.
var ErrQueueFull = errcode.New("queue_full", "the queue is full")

// OutstandingError is returned when an owner's limit of outstanding jobs is reached.
type OutstandingError struct{ Limit int }

// Code returns the error's code for programs.
func (*OutstandingError) Code() string { return "too_many_jobs" }

func (e *OutstandingError) Error() string {
	return fmt.Sprintf("%d jobs are queued or running, the most that one user may have", e.Limit)
}

// BudgetError is returned when a job may use more tokens than its owner, or the API key that
// submits it, has left for the day.
type BudgetError struct {
	Key    bool          // the budget is that of the API key
	Limit  int           // tokens that the owner or the key may use per day
	Left   int           // tokens left today
	Needed int           // tokens of the prompt plus the maximum number of new tokens
	Reset  time.Duration // time until the next day begins (UTC)
}

// Code returns the error's code for programs. A job that exceeds a whole day's budget
// has its own code, because waiting for another day does not help.
func (e *BudgetError) Code() string {
	if e.Needed > e.Limit {
		return "over_token_budget"
	}
	return "token_budget_spent"
}

// RetryAfter returns the time until the next day's budget begins. It returns 0 if the
// job exceeds a whole day's budget.
func (e *BudgetError) RetryAfter() time.Duration {
	if e.Needed > e.Limit {
		return 0
	}
	return e.Reset
}

func (e *BudgetError) Error() string {
	of := ""
	if e.Key {
		of = " of the API key"
	}
	return fmt.Sprintf("the job may use %d tokens, but only %d of today's %d%s are left", e.Needed, e.Left, e.Limit, of)
}

// reserve sets the API keys, priorities, token reservations and deadlines of the jobs of a
// group, and returns the number of tokens that the group needs. It returns an OutstandingError
// or a BudgetError if the jobs would exceed a limit. Concurrent submits can pass reserve
// together and exceed a limit, so the caller must call checkQuota before the commit.
func (q *Queue) reserve(ctx context.Context, tx *events.Tx, owner uuid.UUID, group []draft) (needed int, err error) {
	by := group[0].request
	load, err := tx.Load(ctx, owner, by.APIKey, max(q.limits.Outstanding, manyJobs))
	if err != nil {
		return 0, err
	}
	now := q.store.Clock().Now().Truncate(time.Microsecond)
	for i := range group {
		job := &group[i].fact
		// The event of the acceptance gets a later time of the same clock. So the deadline
		// is never later than the job's time after the acceptance.
		job.APIKey, job.Priority, job.Deadline = by.APIKey, priority(load), now.Add(q.jobTime(group[i].request.CancelAfter))
		ofBatch := by.Batch != (events.BatchLine{})
		if ofBatch {
			job.Priority, job.Deadline = lowestPriority, by.Expires
		}
		if q.limits.Tokens > 0 || by.APIKeyTokens > 0 {
			job.Reserved = events.Reservation{Day: load.At.Format(time.DateOnly), Tokens: job.PromptTokens + job.Params.MaxTokens}
		}
		if !ofBatch {
			load.Outstanding++
			load.Priority = job.Priority
		}
		load.Spent += job.Reserved.Tokens
		load.KeySpent += job.Reserved.Tokens
		needed += job.Reserved.Tokens
	}
	return needed, q.limits.allow(load, needed, by.APIKeyTokens)
}

// checkQuota checks the limits again after the events of a group were appended in tx. The
// group needs the given number of tokens, and was submitted by the request by. checkQuota also
// takes a lock for the owner, so no other job of the owner can be accepted before tx ends.
func (q *Queue) checkQuota(ctx context.Context, tx *events.Tx, owner uuid.UUID, by Request, needed int) error {
	if q.limits.Outstanding == 0 && q.limits.Tokens == 0 && by.APIKeyTokens == 0 {
		return nil
	}
	load, err := tx.LockLoad(ctx, owner, by.APIKey, q.limits.Outstanding+1)
	if err != nil {
		return err
	}
	return q.limits.allow(load, needed, by.APIKeyTokens)
}

// allow returns an error if an owner's load exceeds the limits. The load must already
// include the new jobs, which need the given number of tokens. If keyTokens is not 0, it is
// the daily budget of the API key that submits the jobs.
func (l Limits) allow(load events.Load, needed, keyTokens int) error {
	if l.Outstanding > 0 && load.Outstanding > l.Outstanding {
		return &OutstandingError{l.Outstanding}
	}
	if l.Tokens > 0 && load.Spent > l.Tokens {
		return &BudgetError{false, l.Tokens, max(0, l.Tokens-load.Spent+needed), needed, tomorrow(load).Sub(load.At)}
	}
	if keyTokens > 0 && load.KeySpent > keyTokens {
		return &BudgetError{true, keyTokens, max(0, keyTokens-load.KeySpent+needed), needed, tomorrow(load).Sub(load.At)}
	}
	return nil
}

// tomorrow returns the beginning of the day (UTC) after that of a load.
func tomorrow(load events.Load) time.Time {
	return load.At.Truncate(24 * time.Hour).Add(24 * time.Hour)
}

// Budget is the token budget of an owner or an API key on the current day (UTC).
type Budget struct {
	Limit int       // tokens that may be used per day
	Spent int       // tokens that the jobs of the day have used or reserved
	Reset time.Time // the time at which the next day begins
}

// Budget returns an owner's token budget. The result ok is false if the queue limits no
// tokens.
func (q *Queue) Budget(ctx context.Context, owner uuid.UUID) (b Budget, ok bool, err error) {
	if q.limits.Tokens == 0 {
		return b, false, nil
	}
	load, err := q.store.Load(ctx, owner, uuid.UUID{}, 0)
	if err != nil {
		return b, false, err
	}
	return Budget{q.limits.Tokens, load.Spent, tomorrow(load)}, true, nil
}

// KeyBudget returns the budget of an owner's API key that may use limit tokens per day.
func (q *Queue) KeyBudget(ctx context.Context, owner, key uuid.UUID, limit int) (Budget, error) {
	load, err := q.store.Load(ctx, owner, key, 0)
	if err != nil {
		return Budget{}, err
	}
	return Budget{limit, load.KeySpent, tomorrow(load)}, nil
}

// If an owner has someJobs outstanding jobs, the owner's next job gets priority 3. If
// the owner has manyJobs outstanding jobs, the next job gets priority 4.
const (
	someJobs = 8
	manyJobs = 64

	lowestPriority = 4
)

// priority returns the River priority of an owner's next job, from 1 to 4. River takes
// lower numbers first. The next job never precedes an earlier job of the same owner.
func priority(load events.Load) int {
	p := lowestPriority
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
	// ageAfter is the waiting time after which an owner's oldest job gets priority 1.
	// Without ageing, the jobs of other owners could precede this job forever.
	ageAfter = 30 * time.Second
	ageEvery = 10 * time.Second
)

// age gives the oldest job of each owner priority 1 when the job has waited for ageAfter.
// River then takes the job after the other jobs with priority 1. age skips an owner who
// has a running job or a waiting job of priority 1. It does nothing while all waiting
// jobs have the same priority.
func (w *Worker) age(ctx context.Context) error {
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
			order by owner, priority, id)`, ageAfter)
	return err
}
