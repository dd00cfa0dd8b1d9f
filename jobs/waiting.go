package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events"
	"colophon/internal/pg"
)

// Waiting describes the outstanding jobs that need the same weights and that no worker
// runs.
type Waiting struct {
	Model   string
	Weights string // digest; empty if any weights may run the jobs
	Jobs    int
	Oldest  time.Time // time at which the oldest of the jobs was accepted
}

// outstanding is an SQL condition on rows of the history view. It holds for jobs that
// have not ended and that no worker runs.
const outstanding = `
	(state = 'queued' or state = 'running' and not exists (select from leases where job = history.job and expires_at > clock_timestamp()))`

// FindWaiting returns the outstanding jobs that no worker runs, grouped by the weights
// that they need.
func FindWaiting(ctx context.Context, pool *pgxpool.Pool) ([]Waiting, error) {
	rows, _ := pool.Query(ctx, `
		select model, weights, count(*)::integer, min(created_at) from history where `+outstanding+` group by model, weights order by model, weights`)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Waiting])
	if err != nil {
		return nil, fmt.Errorf("count the waiting jobs: %w", err)
	}
	return found, nil
}

// Reassign lets the waiting jobs that need one set of weights (from) run with another set
// (to). It returns the number of jobs that it has changed, and the number of jobs that it
// has left because they have started.
func Reassign(ctx context.Context, pool *pgxpool.Pool, store *events.Store, from, to string) (reassigned, started int, err error) {
	err = eachWaiting(ctx, pool, store, from, func(job events.Job) error {
		_, err := store.AppendJob(ctx, job, events.JobReassigned{Weights: to, By: "command"})
		switch {
		case err == nil:
			reassigned++
		case errors.Is(err, events.ErrIllegal):
			started++
			err = nil
		case errors.Is(err, events.ErrConflict): // a worker has started the job, or its owner has cancelled it
			err = nil
		}
		return err
	})
	return reassigned, started, err
}

// CancelWaiting cancels the waiting jobs that need the given weights, and returns their
// number.
func CancelWaiting(ctx context.Context, pool *pgxpool.Pool, store *events.Store, weights string) (cancelled int, err error) {
	err = eachWaiting(ctx, pool, store, weights, func(job events.Job) error {
		_, err := cancel(ctx, store, job, events.JobCancelled{By: "command", Reason: "no worker has the job's weights"})
		if err == nil {
			cancelled++
		}
		return err
	})
	return cancelled, err
}

// waitingBatch is the number of jobs that eachWaiting reads at a time.
const waitingBatch = 500

// eachWaiting calls fn with each waiting job that needs the given weights. The error of one
// job does not keep fn from the other jobs, unless the database is unavailable.
func eachWaiting(ctx context.Context, pool *pgxpool.Pool, store *events.Store, weights string, fn func(events.Job) error) error {
	var failed error
	for last := (uuid.UUID{}); ; {
		rows, _ := pool.Query(ctx, `
			select job from history where weights = $1 and job > $2 and `+outstanding+` order by job limit $3`, weights, last, waitingBatch)
		ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return errors.Join(failed, fmt.Errorf("find the waiting jobs: %w", err))
		}
		for _, id := range ids {
			job, err := store.Job(ctx, id)
			if err == nil && !job.State.Final() {
				err = fn(job)
			}
			failed = errors.Join(failed, err)
			if ctx.Err() != nil || pg.Unavailable(err) {
				return failed
			}
		}
		if len(ids) < waitingBatch {
			return failed
		}
		last = ids[len(ids)-1]
	}
}
