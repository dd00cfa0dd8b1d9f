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
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"colophon/events"
	"colophon/internal/periodic"
	"colophon/migrations"
)

// River rescues the jobs of a dead worker after an hour. A lease says much
// sooner that a worker is dead: each running job has one, renewed while the
// worker lives, and every worker looks for jobs that the queue calls running and
// that have none, and queues them again. A lease is a matter of speed only: who
// may write is decided by the versions of the job's stream.
const (
	// leaseFor is how long a worker may be silent before its jobs are others':
	// it outlives three renewals that are late or lost.
	leaseFor = 3 * time.Second

	renewEvery   = 750 * time.Millisecond
	renewTimeout = time.Second // then the next try has another connection
	sweepEvery   = 500 * time.Millisecond
	sweepTimeout = 5 * time.Second
	sweepBatch   = 100 // jobs; another sweep is never far

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
// the attempt holder and returns the time; or it returns errLeased or errCrashes.
func takeLease(ctx context.Context, tx pgx.Tx, job, holder uuid.UUID, tokens int) (now time.Time, err error) {
	var crashes int
	err = tx.QueryRow(ctx, `
		insert into leases as l (job, holder, expires_at, tokens) values ($1, $2, clock_timestamp() + $3, $4)
		on conflict (job) do update set
			holder = excluded.holder, expires_at = excluded.expires_at, tokens = excluded.tokens,
			crashes = case when excluded.tokens > l.tokens then 0 else l.crashes + 1 end
		where l.expires_at < clock_timestamp()
		returning crashes, clock_timestamp()`, job, holder, leaseFor, tokens).Scan(&crashes, &now)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return now, errLeased
	case err != nil:
		return now, fmt.Errorf("take the lease of job %s: %w", job, err)
	case crashes >= maxCrashes:
		return now, errCrashes
	}
	return now, nil
}

// dropLease removes a lease, if it is still the holder's.
func dropLease(ctx context.Context, tx pgx.Tx, job, holder uuid.UUID) error {
	if _, err := tx.Exec(ctx, `delete from leases where job = $1 and holder = $2`, job, holder); err != nil {
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

// run renews until ctx is done, and tries again after an error: attempts go on
// meanwhile, and notice a lost lease when they write.
func (l *leases) run(ctx context.Context) {
	periodic.Run(ctx, renewEvery, l.log, "could not renew the leases of running jobs", l.renew)
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
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
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

// sweep queues the jobs again that the queue calls running and that nobody has a
// lease of: their workers have gone silent. Whether they were already at work
// with a lease, not yet, or no longer makes no difference. Of jobs that have
// ended meanwhile it removes what their workers have left.
func (w *Worker) sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	return pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		// The place in the queue is closed and not used again: its worker may
		// live after all, and speak about it. Of a silence that was Postgres's
		// own, while it started, workers are not to blame.
		rows, _ := tx.Query(ctx, `
			with orphans as (
				update `+migrations.RiverJobs+` set state = 'cancelled', finalized_at = clock_timestamp()
				where id in (
					select id from `+migrations.RiverJobs+`
					where state = 'running' and kind = $1 and attempted_at < clock_timestamp() - $2::interval
						and pg_postmaster_start_time() < clock_timestamp() - $2::interval
						and not exists (select from leases where job = (args->>'job')::uuid and expires_at > clock_timestamp())
					order by id limit $3 for update skip locked)
				returning (args->>'job')::uuid as job, attempt, max_attempts)
			select job, attempt, max_attempts from orphans
			where not exists (select from history where history.job = orphans.job and state not in ('queued', 'running'))`,
			generateArgs{}.Kind(), leaseFor, sweepBatch)
		orphans, err := pgx.CollectRows(rows, pgx.RowToStructByPos[place])
		if err != nil {
			return fmt.Errorf("look for jobs without a worker: %w", err)
		}
		for _, p := range orphans {
			w.log.WarnContext(ctx, "queue a job again whose worker has gone silent", "job", p.Job)
			if err := w.requeue(ctx, tx, p); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, `
			delete from leases where expires_at < clock_timestamp()
				and exists (select from history where history.job = leases.job and state not in ('queued', 'running'))`)
		if err != nil {
			return fmt.Errorf("remove the leases of jobs that have ended: %w", err)
		}
		return nil
	})
}

// place is a place in the queue that a job has had.
type place struct {
	Job         uuid.UUID
	Attempt     int // 1 is the first
	MaxAttempts int
}

// requeue gives a job another place in the queue, with the attempts that it had
// left when it got the one that is closed. It goes before those that were never
// begun.
func (w *Worker) requeue(ctx context.Context, tx pgx.Tx, was place) error {
	_, err := w.river.InsertTx(ctx, tx, generateArgs{Job: was.Job}, &river.InsertOpts{
		MaxAttempts: max(1, was.MaxAttempts-was.Attempt+1),
	})
	if err != nil {
		return fmt.Errorf("queue job %s again: %w", was.Job, err)
	}
	return nil
}

// start takes the job's lease and puts the start on record; it returns
// errDeadline if there is no time left for it.
func (a *attempt) start(ctx context.Context) error {
	info := a.engine.Info()
	ctx = context.WithoutCancel(ctx) // see append
	return a.write(ctx, func(tx *events.Tx) (events.Job, error) {
		now, err := takeLease(ctx, tx, a.job.ID, a.holder, len(a.job.Tokens))
		if err != nil {
			return a.job, err
		}
		if !a.job.Deadline.IsZero() {
			left := a.job.Deadline.Sub(now)
			if left <= 0 {
				return a.job, errDeadline
			}
			a.ends = time.Now().Add(left)
		}
		return tx.AppendJob(ctx, a.job, events.JobStarted{
			Attempt:   a.job.Attempts + 1,
			Worker:    a.name,
			FromToken: len(a.job.Tokens),
			Weights:   info.Weights,
			Kernel:    info.Kernel,
			Policy:    a.rules.Version(),
		})
	})
}

// giveBack puts facts on record and gives the lease back, also when ctx is done.
// If the job is to be taken up again, it goes before those that were never begun.
func (a *attempt) giveBack(ctx context.Context, facts ...events.Fact) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	return a.write(ctx, func(tx *events.Tx) (events.Job, error) {
		if _, err := tx.Exec(ctx, `update `+migrations.RiverJobs+` set priority = 1 where id = $1`, a.river.ID); err != nil {
			return a.job, err
		}
		return a.drop(ctx, tx, facts)
	})
}

// handOver does the same and, in the same transaction, exchanges the job's place
// in the queue for one that any worker may take at once.
func (a *attempt) handOver(ctx context.Context, facts ...events.Fact) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	return a.write(ctx, func(tx *events.Tx) (events.Job, error) {
		job, err := a.drop(ctx, tx, facts)
		if err != nil {
			return job, err
		}
		if _, err = river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx.Tx, a.river); err != nil {
			return job, err
		}
		return job, a.requeue(ctx, tx, place{job.ID, a.river.Attempt, a.river.MaxAttempts})
	})
}

func (a *attempt) drop(ctx context.Context, tx *events.Tx, facts []events.Fact) (events.Job, error) {
	job, err := tx.AppendJob(ctx, a.job, facts...)
	if err != nil {
		return job, err
	}
	return job, dropLease(ctx, tx, job.ID, a.holder)
}
