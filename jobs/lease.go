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

// Leases let other workers continue the jobs of a dead worker within seconds. Each
// running job has a lease, which its worker renews. Every worker searches for jobs that
// have no valid lease although River lists them as running. The worker queues these jobs
// again. River's own rescue of such jobs is off (see generate.Timeout).
//
// Leases do not decide whether an attempt may write. The version check of the job's
// stream decides that.
const (
	// leaseTime is the duration of a lease. If a worker is silent for this time,
	// another worker queues its jobs again. A lease survives three late or lost
	// renewals.
	leaseTime = 3 * time.Second

	renewTimeout = time.Second // time limit of one renewal, after which the next renewal uses another connection
	sweepTimeout = 5 * time.Second
	sweepBatch   = 100 // maximum number of jobs that one search handles

	// maxCrashes is the number of counted crashes after which a job fails. A new token
	// resets the count. A worker's crash counts for the unfinished job that the worker
	// had started last, and for no other job. From the second counted crash on, the job
	// waits after each (see timing.crashWaits), so that a cause outside the job can pass.
	maxCrashes = 5
)

var (
	// errLeased is returned when another attempt has the job's lease, or when the job
	// waits after a crash.
	errLeased = errors.New("another attempt runs the job, or the job waits after a crash")

	// errLeaseLost ends an attempt whose lease has expired.
	errLeaseLost = errors.New("the job's lease was lost")

	// errCrashes is returned when maxCrashes crashes have been counted for the job.
	errCrashes = errors.New("too many workers crashed while running the job")
)

// takeLease takes the lease of the attempt's job and returns the database's time. It
// returns errLeased if another attempt's lease is valid or the job waits after a crash. It
// returns errCrashes after maxCrashes crashes.
func (a *attempt) takeLease(ctx context.Context, tx pgx.Tx) (now time.Time, err error) {
	var crashes int
	err = tx.QueryRow(ctx, `
		insert into leases as l (job, holder, worker, expires_at, tokens) values ($1, $2, $3, clock_timestamp() + $4, $5)
		on conflict (job) do update set
			holder = excluded.holder, worker = excluded.worker, started = excluded.started,
			expires_at = excluded.expires_at, tokens = excluded.tokens, suspect = false,
			crashes = case when excluded.tokens > l.tokens then 0 else l.crashes + l.suspect::integer end
		where l.expires_at + case when l.suspect and excluded.tokens <= l.tokens
			then coalesce(($6::interval[])[l.crashes + 1], '0') else '0' end < clock_timestamp()
		returning crashes, clock_timestamp()`,
		a.job.ID, a.holder, a.name, leaseTime, len(a.job.Tokens), a.timing.crashWaits).Scan(&crashes, &now)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return now, errLeased
	case err != nil:
		return now, fmt.Errorf("take the lease of job %s: %w", a.job.ID, err)
	case crashes >= maxCrashes:
		return now, errCrashes
	}
	return now, nil
}

// dropLease removes a job's lease if holder still has the lease.
func dropLease(ctx context.Context, tx pgx.Tx, job, holder uuid.UUID) error {
	if _, err := tx.Exec(ctx, `delete from leases where job = $1 and holder = $2`, job, holder); err != nil {
		return fmt.Errorf("drop the lease of job %s: %w", job, err)
	}
	return nil
}

// leases renews the leases of one worker.
type leases struct {
	pool *pgxpool.Pool
	log  *slog.Logger

	mu   sync.Mutex
	held map[uuid.UUID]context.CancelCauseFunc // cancel functions of the running attempts, by holder
}

// hold makes run renew a lease until release is called. If the lease is lost, run calls
// lost with errLeaseLost.
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

// run renews the leases until ctx is done. After an error, run tries again at the next
// interval. Meanwhile the attempts continue. An attempt notices a lost lease when it
// writes.
func (l *leases) run(ctx context.Context, interval time.Duration) {
	periodic.Run(ctx, interval, l.log, "leases not renewed, retrying", l.renew)
}

func (l *leases) renew(ctx context.Context) error {
	l.mu.Lock()
	mine := make(map[uuid.UUID]context.CancelCauseFunc, len(l.held))
	holders := make([]string, 0, len(l.held))
	for holder, lost := range l.held {
		mine[holder] = lost
		holders = append(holders, holder.String())
	}
	l.mu.Unlock()
	if len(mine) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	// All leases get the same time, so that a worker's leases expire in the order in which
	// it took them (see suspect).
	rows, _ := l.pool.Query(ctx, `
		update leases set expires_at = statement_timestamp() + $2 where holder = any($1::uuid[]) returning holder`, holders, leaseTime)
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

// sweep queues the jobs of silent workers again. River lists such a job as running, but
// the job has no valid lease. The worker may even have died before it took the lease.
// If the job has ended meanwhile, sweep only closes the job's queue entry and removes
// the job's lease.
func (w *Worker) sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	if err := w.lookAtClock(ctx, w.pool); err != nil {
		return err
	}
	if w.steps.back() {
		if err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error { return mendTimes(ctx, tx) }); err != nil {
			return err
		}
	}
	if w.steps.forward() {
		return nil
	}
	requeued := 0
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		// The old queue entry is closed and not reused, because the silent worker may
		// still be alive and may update the entry. Leases that expired while Postgres
		// restarted do not count as lost. A start time of Postgres in the future shows
		// only that the clock was set back.
		rows, _ := tx.Query(ctx, `
			with orphans as (
				update `+migrations.RiverJobs+` set state = 'cancelled', finalized_at = clock_timestamp()
				where id in (
					select id from `+migrations.RiverJobs+`
					where state = 'running' and kind = $1 and attempted_at < clock_timestamp() - $2::interval
						and pg_postmaster_start_time() not between clock_timestamp() - $2::interval and clock_timestamp()
						and not exists (select from leases where job = (args->>'job')::uuid and expires_at > clock_timestamp())
					order by id limit $3 for update skip locked)
				returning (args->>'job')::uuid as job, attempt, max_attempts)
			select job, attempt, max_attempts from orphans
			where not exists (select from history where history.job = orphans.job and state not in ('queued', 'running'))`,
			generateArgs{}.Kind(), leaseTime, sweepBatch)
		orphans, err := pgx.CollectRows(rows, pgx.RowToStructByPos[queueEntry])
		if err != nil {
			return fmt.Errorf("find jobs without a worker: %w", err)
		}
		if len(orphans) > 0 {
			// The clock may have been set forward since the first look.
			if err := w.lookAtClock(ctx, tx); err != nil {
				return err
			}
			if w.steps.forward() {
				return errClockSet
			}
		}
		if err := suspect(ctx, tx, orphans); err != nil {
			return err
		}
		for _, entry := range orphans {
			w.log.WarnContext(ctx, "worker went silent, job queued again", "job", entry.Job)
			if err := w.requeue(ctx, tx, entry); err != nil {
				return err
			}
			requeued++
		}
		_, err = tx.Exec(ctx, `
			delete from leases where expires_at < clock_timestamp()
				and exists (select from history where history.job = leases.job and state not in ('queued', 'running'))`)
		if err != nil {
			return fmt.Errorf("remove the leases of final jobs: %w", err)
		}
		return nil
	})
	if errors.Is(err, errClockSet) {
		return nil
	}
	if err == nil && requeued > 0 {
		w.store.Announce(newEntry)
	}
	return err
}

// queueEntry is a job's closed entry in River's queue.
type queueEntry struct {
	Job         uuid.UUID
	Attempt     int // number of the interrupted attempt, from 1
	MaxAttempts int
}

// suspect marks the leases of the given jobs that their workers took last. The job of
// such a lease may have crashed the worker. If the lease that a worker took last is still
// valid, suspect marks none of the worker's leases.
func suspect(ctx context.Context, tx pgx.Tx, orphans []queueEntry) error {
	jobs := make([]string, len(orphans)) // as strings, because not every query mode of pgx encodes a slice of UUIDs
	for i, entry := range orphans {
		jobs[i] = entry.Job.String()
	}
	_, err := tx.Exec(ctx, `
		update leases l set suspect = true
		where job = any($1::text[]::uuid[]) and not exists (select from leases o where o.worker = l.worker and o.started > l.started)`, jobs)
	if err != nil {
		return fmt.Errorf("mark the jobs that may have crashed a worker: %w", err)
	}
	return nil
}

// requeue inserts a new queue entry for a job whose entry is closed. The new entry
// allows as many attempts as the closed entry had left. The interrupted attempt does
// not count as used. The new entry has priority 1, so it precedes jobs that were never
// started. After the commit, the caller must announce newEntry.
func (w *Worker) requeue(ctx context.Context, tx pgx.Tx, closed queueEntry) error {
	_, err := w.insert.InsertTx(ctx, tx, generateArgs{Job: closed.Job}, &river.InsertOpts{
		MaxAttempts: max(1, closed.MaxAttempts-closed.Attempt+1),
	})
	if err != nil {
		return fmt.Errorf("queue job %s again: %w", closed.Job, err)
	}
	return nil
}

// start takes the job's lease and records the start. It returns errDeadline if the
// job's deadline has passed.
func (a *attempt) start(ctx context.Context) error {
	info := a.engine.Info()
	ctx = context.WithoutCancel(ctx) // the comment on attempt.append gives the reason
	return a.write(ctx, func(tx *events.Tx) (events.Job, error) {
		now, err := a.takeLease(ctx, tx)
		if err != nil {
			return a.job, err
		}
		if !a.job.Deadline.IsZero() {
			left := a.job.Deadline.Sub(now)
			if left <= 0 {
				return a.job, errDeadline
			}
			a.deadline = time.Now().Add(left)
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

// release records facts and drops the lease, even if ctx is done. It also gives the
// queue entry priority 1, so that the job precedes jobs that were never started, and the
// age of a new entry (see generate.interruptedFor).
func (a *attempt) release(ctx context.Context, facts ...events.Fact) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	return a.write(ctx, func(tx *events.Tx) (events.Job, error) {
		if _, err := tx.Exec(ctx, `update `+migrations.RiverJobs+` set priority = 1, created_at = clock_timestamp() where id = $1`, a.river.ID); err != nil {
			return a.job, err
		}
		return a.appendAndDropLease(ctx, tx, facts)
	})
}

// handOver records facts and drops the lease, even if ctx is done. In the same
// transaction it replaces the job's queue entry with a new entry. Any worker can take
// the new entry at once.
func (a *attempt) handOver(ctx context.Context, facts ...events.Fact) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	return a.write(ctx, func(tx *events.Tx) (events.Job, error) {
		job, err := a.appendAndDropLease(ctx, tx, facts)
		if err != nil {
			return job, err
		}
		if _, err = river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx.Tx, a.river); err != nil {
			return job, err
		}
		tx.Announce(newEntry)
		return job, a.requeue(ctx, tx, queueEntry{job.ID, a.river.Attempt, a.river.MaxAttempts})
	})
}

func (a *attempt) appendAndDropLease(ctx context.Context, tx *events.Tx, facts []events.Fact) (events.Job, error) {
	job, err := tx.AppendJob(ctx, a.job, facts...)
	if err != nil {
		return job, err
	}
	return job, dropLease(ctx, tx, job.ID, a.holder)
}
