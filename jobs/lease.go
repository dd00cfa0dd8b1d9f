package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"colophon/events"
)

// River rescues the jobs of a dead worker after an hour. A lease says much
// sooner that a worker is dead: each running job has one, renewed while the
// worker lives, and every worker looks for expired ones and queues their jobs
// again. A lease is a matter of speed only: who may write is decided by the
// versions of the job's stream.
const (
	// leaseFor is how long a worker may be silent before its jobs are others'.
	leaseFor = 6 * time.Second

	renewEvery = 2 * time.Second
	sweepEvery = time.Second
	sweepBatch = 100 // jobs; another sweep is never far

	// maxCrashes is how many workers in a row a job may take down with it
	// without a new token.
	maxCrashes = 5
)

var (
	// errLeased occurs when another attempt has the job's lease.
	errLeased = errors.New("another attempt runs the job")

	// errLeaseLost ends an attempt whose lease has expired.
	errLeaseLost = errors.New("the job's lease was lost")

	// errCrashes occurs when a job has taken down maxCrashes workers.
	errCrashes = errors.New("workers keep dying of the job")
)

// takeLease takes the lease of a job that has got to some number of tokens for
// the attempt holder, or returns errLeased or errCrashes.
func takeLease(ctx context.Context, tx pgx.Tx, job, holder uuid.UUID, tokens int) error {
	var crashes int
	err := tx.QueryRow(ctx, `
		insert into leases as l (job, holder, expires_at, tokens) values ($1, $2, clock_timestamp() + $3, $4)
		on conflict (job) do update set
			holder = excluded.holder, expires_at = excluded.expires_at, tokens = excluded.tokens,
			crashes = case when excluded.tokens > l.tokens then 0 else l.crashes + (l.holder is not null)::int end
		where l.holder is null or l.expires_at < clock_timestamp()
		returning crashes`, job, holder, leaseFor, tokens).Scan(&crashes)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errLeased
	case err != nil:
		return fmt.Errorf("take the lease of job %s: %w", job, err)
	case crashes >= maxCrashes:
		return errCrashes
	}
	return nil
}

// dropLease removes a lease that is the holder's, or nobody's.
func dropLease(ctx context.Context, tx pgx.Tx, job, holder uuid.UUID) error {
	if _, err := tx.Exec(ctx, `delete from leases where job = $1 and (holder = $2 or holder is null)`, job, holder); err != nil {
		return fmt.Errorf("give the lease of job %s back: %w", job, err)
	}
	return nil
}

// leases renews the leases that one worker holds.
type leases struct {
	pool *pgxpool.Pool
	log  *slog.Logger

	mu   sync.Mutex
	held map[uuid.UUID]context.CancelCauseFunc // by holder: ends the attempt
}

// hold renews a lease until release is called; if it is lost, lost is called.
func (l *leases) hold(holder uuid.UUID, lost context.CancelCauseFunc) (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[holder] = lost
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, holder)
	}
}

// run renews until ctx is done. A database that does not answer is asked again:
// attempts go on meanwhile, and find out when they write.
func (l *leases) run(ctx context.Context) {
	every(ctx, renewEvery, func() {
		if err := l.renew(ctx); err != nil && ctx.Err() == nil {
			l.log.WarnContext(ctx, "could not renew the leases of running jobs", "err", err)
		}
	})
}

func (l *leases) renew(ctx context.Context) error {
	l.mu.Lock()
	mine := make(map[uuid.UUID]context.CancelCauseFunc, len(l.held))
	holders := make([]uuid.UUID, 0, len(l.held))
	for holder, lost := range l.held {
		mine[holder] = lost
		holders = append(holders, holder)
	}
	l.mu.Unlock()
	if len(mine) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, leaseFor)
	defer cancel()
	rows, _ := l.pool.Query(ctx, `
		update leases set expires_at = clock_timestamp() + $2 where holder = any($1) returning holder`, holders, leaseFor)
	renewed, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return err
	}
	for _, holder := range renewed {
		delete(mine, holder)
	}
	for _, lost := range mine {
		lost(errLeaseLost)
	}
	return nil
}

// sweep queues the jobs again whose leases have expired.
func (w *Worker) sweep(ctx context.Context) error {
	return pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
			update leases set holder = null, crashes = crashes + 1
			where job in (
				select job from leases where holder is not null and expires_at < clock_timestamp()
				order by expires_at limit $1 for update skip locked)
			returning job`, sweepBatch)
		expired, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return err
		}
		for _, job := range expired {
			w.log.WarnContext(ctx, "queue a job again whose worker has gone silent", "job", job)
			// The place it had in the queue is still its dead worker's.
			if _, err := w.river.InsertTx(ctx, tx, generateArgs{Job: job}, &river.InsertOpts{MaxAttempts: maxAttempts}); err != nil {
				return err
			}
		}
		return nil
	})
}

// every calls fn again and again, with a pause in between, until ctx is done.
func every(ctx context.Context, pause time.Duration, fn func()) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			fn()
		}
	}
}

// start takes the job's lease and puts the start on record.
func (a *attempt) start(ctx context.Context) error {
	info := a.engine.Info()
	return a.write(ctx, func(tx *events.Tx) (events.Job, error) {
		if err := takeLease(ctx, tx, a.job.ID, a.holder, len(a.job.Tokens)); err != nil {
			return a.job, err
		}
		return tx.AppendJob(ctx, a.job, events.JobStarted{
			Attempt:   a.job.Attempts + 1,
			Worker:    a.name,
			FromToken: len(a.job.Tokens),
			Weights:   info.Weights,
			Kernel:    info.Kernel,
		})
	})
}

// giveBack puts facts on record and gives the lease back, also when ctx is done.
// If the job is to be taken up again, it goes before those that were never begun.
func (a *attempt) giveBack(ctx context.Context, facts ...events.Fact) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	return a.write(ctx, func(tx *events.Tx) (events.Job, error) {
		job, err := tx.AppendJob(ctx, a.job, facts...)
		if err != nil {
			return job, err
		}
		if _, err := tx.Exec(ctx, `update river.river_job set priority = 1 where id = $1`, a.river.ID); err != nil {
			return job, err
		}
		return job, dropLease(ctx, tx, job.ID, a.holder)
	})
}
