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

// DefaultJobTime is the default time limit from a job's acceptance to its end.
//
// Every job that has not ended is cancelled at its deadline. The worker that runs it
// does so. If no worker runs it, any worker or queue does, because all of them search
// for overdue jobs. Deadlines are compared with the database's clock; a process's own
// clock only measures the time that is left.
const DefaultJobTime = 10 * time.Minute

// errDeadline ends an attempt at a job whose deadline has passed.
var errDeadline = errors.New("the job's deadline has passed")

// deadlinePassed returns the fact that ends a job at its deadline.
func deadlinePassed() events.JobCancelled {
	return events.JobCancelled{By: "service", Reason: "the deadline has passed"}
}

// runEndOverdue searches for overdue jobs and ends them, until ctx is done.
func runEndOverdue(ctx context.Context, store *events.Store, t timing, log *slog.Logger) {
	periodic.Run(ctx, t.endOverdue, log, "overdue jobs not ended, retrying", func(ctx context.Context) error {
		return endOverdue(ctx, store, t.overdueGrace)
	})
}

// endOverdue ends overdue jobs. Running ones get the additional time grace.
func endOverdue(ctx context.Context, store *events.Store, grace time.Duration) error {
	late, err := store.Overdue(ctx, grace, sweepBatch)
	// Other processes end the same jobs. A random order makes conflicts rare.
	rand.Shuffle(len(late), func(i, j int) { late[i], late[j] = late[j], late[i] })
	for _, id := range late {
		job, errJob := store.Job(ctx, id)
		if errJob == nil {
			_, errJob = cancel(ctx, store, job, deadlinePassed())
		}
		err = errors.Join(err, errJob) // go on, so that one broken job does not block the others
		if ctx.Err() != nil {
			break
		}
	}
	return err
}

// endOverdue ends the attempt's job and records the tokens that it has generated.
func (a *attempt) endOverdue(ctx context.Context) error {
	err := a.release(ctx, append(a.unrecorded(), deadlinePassed())...)
	if !errors.Is(err, events.ErrConflict) {
		return err
	}
	// Either an append that the deadline interrupted was committed after all, or
	// another process has ended the job. In the first case a search for overdue jobs
	// ends it.
	return a.release(ctx)
}

// cancel cancels a job and returns its new state. A final job stays as it is.
//
// The worker of a running job may append first, which is a conflict. cancel then tries
// again. A job's events are bounded, so the conflicts end. After a conflict cancel
// reads only the new events: reading the whole stream would take longer than a fast
// worker takes between two appends, and cancel would always come too late.
func cancel(ctx context.Context, store *events.Store, job events.Job, fact events.JobCancelled) (events.Job, error) {
	id := job.ID
	for !job.State.Final() {
		after, err := store.AppendJob(ctx, job, fact)
		if err == nil {
			return after, nil
		}
		if !errors.Is(err, events.ErrConflict) {
			return job, fmt.Errorf("cancel job %s: %w", id, err)
		}
		if job, err = catchUp(ctx, store, job); err != nil {
			return job, fmt.Errorf("cancel job %s: %w", id, err)
		}
	}
	return job, nil
}

// catchUp applies the events that have been appended since job was read.
func catchUp(ctx context.Context, store *events.Store, job events.Job) (events.Job, error) {
	latest, err := store.Read(ctx, events.JobStream(job.ID), job.Version)
	for _, e := range latest {
		if err != nil {
			break
		}
		job, err = job.Apply(e)
	}
	return job, err
}
