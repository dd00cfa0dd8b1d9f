package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"colophon/events"
	"colophon/internal/periodic"
)

// DefaultJobTime is the default time limit from a job's acceptance to its end.
//
// Every job that has not ended is cancelled at its deadline. The worker that runs the
// job cancels it. If no worker runs the job, any worker or queue cancels it, because
// all of them search for overdue jobs. Deadlines are compared with the database's
// clock. A process's own clock only measures the remaining time.
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
		return endOverdue(ctx, store, t)
	})
}

// endOverdue ends overdue jobs. It ends a running job only after the additional time
// t.overdueGrace, so that the job's own worker can end the job first. It sets a job aside
// that this process cannot read, after the time t.unreadableGrace, so that a process that can
// read the job ends it first.
func endOverdue(ctx context.Context, store *events.Store, t timing) error {
	late, err := store.Overdue(ctx, t.overdueGrace, sweepBatch)
	for _, id := range late { // in a random order, because other processes end the same jobs
		job, errJob := store.Job(ctx, id)
		if errJob == nil {
			_, errJob = cancel(ctx, store, job, deadlinePassed())
		}
		if d, ok := errors.AsType[*events.Damage](errJob); ok { // after it is set aside, store.Overdue no longer returns the job
			if errors.Is(d, events.ErrDamaged) {
				errJob = store.SetAside(ctx, d)
			} else {
				errJob = store.SetAsideOverdue(ctx, d, t.unreadableGrace)
			}
		}
		err = errors.Join(err, errJob) // continue, so that one broken job does not block the other jobs
		if ctx.Err() != nil {
			break
		}
	}
	return err
}

// endOverdue ends the attempt's job and records the tokens that the attempt has
// generated.
func (a *attempt) endOverdue(ctx context.Context) error {
	err := a.release(ctx, append(a.unrecorded(), deadlinePassed())...)
	if !errors.Is(err, events.ErrConflict) {
		return err
	}
	// The conflict has two possible causes. Either an append that the deadline
	// interrupted was committed after all, or another process has ended the job. In the
	// first case a later search for overdue jobs ends the job.
	return a.release(ctx)
}

// cancel cancels a job and returns its new state. It does not change a final job.
func cancel(ctx context.Context, store *events.Store, job events.Job, fact events.JobCancelled) (events.Job, error) {
	after, err := appendTo(ctx, store, job, func(latest events.Job) []events.Fact {
		if latest.State.Final() {
			return nil
		}
		return []events.Fact{fact}
	})
	if err != nil {
		return after, fmt.Errorf("cancel job %s: %w", job.ID, err)
	}
	return after, nil
}

// appendTo appends the facts that end returns for the latest state of a job, if any, and
// returns the job's new state.
//
// The worker of a running job may append an event first. Then appendTo gets a conflict and
// tries again. The number of a job's events is limited, so the conflicts end. After a
// conflict, appendTo reads only the new events. A read of the whole stream takes longer than
// a fast worker takes between two appends. With such reads, a cancellation would always come
// too late.
func appendTo(ctx context.Context, store *events.Store, job events.Job, end func(latest events.Job) []events.Fact) (events.Job, error) {
	for {
		facts := end(job)
		if len(facts) == 0 {
			return job, nil
		}
		after, err := store.AppendJob(ctx, job, facts...)
		if err == nil {
			return after, nil
		}
		if !errors.Is(err, events.ErrConflict) {
			return job, err
		}
		if job, err = catchUp(ctx, store, job); err != nil {
			return job, err
		}
	}
}

// catchUp reads the events that were appended after job was read, and applies them to
// job. If one of them is damaged, the error is events.ErrDamaged.
func catchUp(ctx context.Context, store *events.Store, job events.Job) (events.Job, error) {
	latest, err := store.Read(ctx, events.JobStream(job.ID), job.Version)
	for _, e := range latest {
		if err != nil {
			break
		}
		job, err = job.Apply(e)
	}
	if errors.Is(err, events.ErrIllegal) {
		return store.Job(ctx, job.ID)
	}
	return job, err
}
