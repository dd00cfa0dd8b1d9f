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

const (
	// retainEvery is the interval of the search for jobs whose texts were kept long enough.
	retainEvery = time.Minute

	// unkeptFor is how long after its end a job with EraseAtEnd keeps its texts, for clients
	// that still read them. The search for such jobs has the interval unkeptEvery.
	unkeptFor   = time.Minute
	unkeptEvery = 15 * time.Second

	retainBatch = 100 // maximum number of jobs that one query returns
)

// RunRetention erases the jobs and removes the batches that ended more than the duration age ago
// by the database's clock, and the uploaded files that are older, at once and then once a minute, until ctx is done. Any number of processes may do
// this at the same time. They erase each job once.
func RunRetention(ctx context.Context, store *events.Store, age time.Duration, log *slog.Logger) {
	const failure = "old texts not erased, retrying"
	pass := func(ctx context.Context) error { return eraseOld(ctx, store, age, log) }
	if err := pass(ctx); err != nil && ctx.Err() == nil {
		log.WarnContext(ctx, failure, "err", err)
	}
	periodic.Run(ctx, retainEvery, log, failure, pass)
}

// eraseOld erases the jobs that ended more than the duration age ago, and those with the texts
// of such jobs. It removes files and batches of that age.
func eraseOld(ctx context.Context, store *events.Store, age time.Duration, log *slog.Logger) error {
	all := func(events.Job) bool { return true }
	erased, err := eraseEnded(ctx, store, age, store.Retained, "retention", all)
	copies, failed := eraseEnded(ctx, store, age, store.RetainedCopies, "retention", all)
	if erased, err = erased+copies, errors.Join(err, failed); erased > 0 {
		log.InfoContext(ctx, "old texts erased", "jobs", erased, "older_than", age)
	}
	removed, failed := store.RemoveOldFiles(ctx, age)
	if removed > 0 {
		log.InfoContext(ctx, "old files and batches removed", "number", removed, "older_than", age)
	}
	return errors.Join(err, failed)
}

// eraseUnkept erases the jobs with EraseAtEnd that ended more than the duration age ago. The request
// that waits for such a job erases it at once, unless its process dies.
func (q *Queue) eraseUnkept(ctx context.Context, age time.Duration) error {
	_, err := eraseEnded(ctx, q.store, age, q.store.Unkept, "owner", func(j events.Job) bool { return j.EraseAtEnd })
	return err
}

// eraseEnded erases the jobs that find returns and that ended more than the duration age ago,
// if erasable agrees. It returns their number. The history view names the jobs, and their
// events decide: a row may be wrong. eraseEnded passes over jobs that this process cannot read.
// The parameter by is that of eraseJob.
func eraseEnded(ctx context.Context, store *events.Store, age time.Duration, find func(context.Context, time.Duration, events.Ended, int) ([]events.Ended, error), by string, erasable func(events.Job) bool) (erased int, err error) {
	var unread error // the first reason why a job was passed over
	passed := 0
	now, err := store.Now(ctx)
	if err != nil {
		return 0, err
	}
	for last := (events.Ended{}); ; {
		old, err := find(ctx, age, last, retainBatch)
		if err != nil {
			return erased, err
		}
		if len(old) == 0 {
			break
		}
		for _, ended := range old {
			job, err := store.Job(ctx, ended.Job)
			old := job.State.Final() && job.RetainedFrom().Before(now.Add(-age)) && erasable(job)
			if err == nil && old && job.ErasedAt.IsZero() { // another process may have erased it
				if _, err = eraseJob(ctx, store, job, by); err == nil {
					erased++
				}
			}
			if _, damaged := errors.AsType[*events.Damage](err); damaged || errors.Is(err, events.ErrNotFound) {
				passed++
				if unread == nil {
					unread = err
				}
				continue
			}
			if err != nil {
				return erased, err
			}
		}
		last = old[len(old)-1]
	}
	if unread != nil {
		return erased, fmt.Errorf("%d jobs cannot be read, the first: %w", passed, unread)
	}
	return erased, nil
}
