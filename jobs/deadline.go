package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"colophon/events"
	"colophon/internal/periodic"
)

// A job ends at its deadline, whatever it has come to. The worker that runs it
// stops then; a job that nobody runs, for want of workers or because its own has
// died, is ended by whoever looks next, which all workers and queues do. The
// clock is the database's: that of a process only measures what is left.
const (
	// DefaultJobTime is the most time from a job's acceptance to its end.
	DefaultJobTime = 10 * time.Minute

	// overdueGrace is how long past its deadline a job is left to its worker.
	overdueGrace = 2 * time.Second

	overdueEvery = time.Second
)

// errDeadline ends an attempt at a job whose deadline has passed.
var errDeadline = errors.New("the job's deadline has passed")

// overdue is how a job ends that has not ended in time.
func overdue() events.JobCancelled {
	return events.JobCancelled{By: "service", Reason: "the deadline has passed"}
}

// runEndOverdue ends jobs that are past their deadlines until ctx is done.
func runEndOverdue(ctx context.Context, store *events.Store, log *slog.Logger) {
	periodic.Run(ctx, overdueEvery, log, "could not end jobs that are past their deadlines", func(ctx context.Context) error {
		return endOverdue(ctx, store)
	})
}

func endOverdue(ctx context.Context, store *events.Store) error {
	late, err := store.Overdue(ctx, overdueGrace, sweepBatch)
	// Other processes end them too: in an order of its own each finds some to end.
	rand.Shuffle(len(late), func(i, j int) { late[i], late[j] = late[j], late[i] })
	for _, id := range late {
		job, errJob := store.Job(ctx, id)
		if errJob == nil {
			_, errJob = cancel(ctx, store, job, overdue())
		}
		err = errors.Join(err, errJob) // a job that cannot be ended does not hold up the others
		if ctx.Err() != nil {
			break
		}
	}
	return err
}

// endOverdue ends the attempt's job, with what it has come to.
func (a *attempt) endOverdue(ctx context.Context) error {
	err := a.giveBack(ctx, append(a.rest(), overdue())...)
	if !errors.Is(err, events.ErrConflict) {
		return err
	}
	// An append that the deadline cut short is on record after all, or somebody
	// else has ended the job; if it is neither, it is ended as others' are.
	return a.giveBack(ctx)
}

// cancelTries is how often a cancel is tried against a job that keeps advancing.
const cancelTries = 20

// cancel ends a job and returns it as it then is. A job that is final already
// stays as it is.
func cancel(ctx context.Context, store *events.Store, job events.Job, by events.JobCancelled) (events.Job, error) {
	var err error
	id := job.ID
	for range cancelTries {
		if job.State.Final() {
			return job, nil
		}
		if job, err = store.AppendJob(ctx, job, by); err == nil {
			return job, nil
		}
		if !errors.Is(err, events.ErrConflict) {
			break
		}
		if job, err = store.Job(ctx, id); err != nil {
			break
		}
	}
	return job, fmt.Errorf("cancel job %s: %w", id, err)
}
