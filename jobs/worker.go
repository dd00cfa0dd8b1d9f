package jobs

import (
	"cmp"
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
	"colophon/internal/periodic"
	"colophon/internal/policy"
	"colophon/internal/retry"
	"colophon/migrations"
	"colophon/model"
	"colophon/model/watermark"
)

// Worker runs queued jobs on an engine until it is stopped. It also queues the jobs of
// dead workers again.
type Worker struct {
	pool   *pgxpool.Pool
	store  *events.Store
	engine model.Engine
	rules  func() *policy.Rules
	river  *river.Client[pgx.Tx]
	kinds  *river.Workers        // what river runs, by the kind of queue entry
	insert *river.Client[pgx.Tx] // for new queue entries
	leases *leases
	steps  clockSteps
	timing timing
	name   string
	log    *slog.Logger
	rarely rarely // for records of jobs that are put back

	// SharePrefixes lets the jobs of all owners share what the engine has computed for texts
	// that begin alike. Otherwise only jobs of the same owner do. It must be set before
	// Start.
	SharePrefixes bool

	delivers bool // Deliver was called

	cancel     context.CancelFunc // ends the goroutines of background
	background sync.WaitGroup
}

// NewWorker returns a worker that runs up to slots jobs at a time. The worker filters a
// job's text by the rules that are in force when it starts the job.
func NewWorker(pool *pgxpool.Pool, store *events.Store, engine model.Engine, rules func() *policy.Rules, slots int, log *slog.Logger) (*Worker, error) {
	log = quiet(log)
	w := &Worker{
		pool: pool, store: store, engine: engine, rules: rules, timing: defaultTiming(), name: uuid.NewString(), log: log,
		leases: &leases{pool: pool, log: log, held: map[uuid.UUID]context.CancelCauseFunc{}},
	}
	var err error
	if w.insert, err = newInserter(pool, log); err != nil {
		return nil, err
	}
	if w.river, err = w.newFetcher(slots, pollEvery); err != nil {
		return nil, err
	}
	return w, nil
}

// pollEvery is the interval at which a worker looks for new queue entries whose
// announcement was lost. River's default interval is a second.
const pollEvery = 250 * time.Millisecond

// newFetcher returns a client that fetches and runs up to slots jobs at a time.
func (w *Worker) newFetcher(slots int, pollEvery time.Duration) (*river.Client[pgx.Tx], error) {
	w.kinds = river.NewWorkers()
	river.AddWorker(w.kinds, &generate{Worker: w})
	client, err := river.NewClient(newQuietDriver(w.pool), &river.Config{
		ID:      w.name,
		Schema:  migrations.RiverSchema,
		Logger:  w.log,
		Workers: w.kinds,
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: slots}},
		// FetchCooldown is the shortest time between two fetches. With River's default
		// of 100 ms, a job that has just missed a fetch would wait longer than it runs.
		FetchCooldown:       10 * time.Millisecond,
		FetchPollInterval:   pollEvery,
		ReindexerIndexNames: []string{}, // none, because the worker's database role may not reindex tables
		Test:                river.TestConfig{Time: riverClock{w.store.Clock()}},
	})
	if err != nil {
		return nil, fmt.Errorf("create the queue client: %w", err)
	}
	return client, nil
}

// Name returns the worker's name in job.started events.
func (w *Worker) Name() string { return w.name }

// Start starts the worker in the background. The worker runs until Stop is called, even
// if ctx ends earlier.
func (w *Worker) Start(ctx context.Context) error {
	// The end of ctx would end jobs and lease renewals at once. Stop lets each job
	// finish its current token, and the worker renews the job's lease until then.
	ctx = context.WithoutCancel(ctx)
	if err := w.store.Clock().Ensure(ctx, w.pool); err != nil {
		return fmt.Errorf("start the worker: %w", err)
	}
	if err := w.river.Start(ctx); err != nil {
		return fmt.Errorf("start the worker: %w", err)
	}
	ctx, w.cancel = context.WithCancel(ctx)
	w.background.Go(func() { w.leases.run(ctx, w.timing.renew) })
	w.background.Go(func() {
		periodic.Run(ctx, w.timing.sweep, w.log, "search for expired leases failed, retrying", w.sweep)
	})
	w.background.Go(func() { periodic.Run(ctx, ageEvery, w.log, "priority ageing failed, retrying", w.age) })
	w.background.Go(func() { runEndOverdue(ctx, w.store, w.timing, w.log) })
	if w.delivers {
		w.background.Go(func() { w.runQueueDue(ctx) })
	}
	return nil
}

// Stop stops a started worker. The worker starts no further job. Running jobs stop
// after the current token, record their tokens and go back to the queue. Stop returns
// when all running jobs have stopped or ctx is done.
func (w *Worker) Stop(ctx context.Context) error {
	err := w.river.StopAndCancel(ctx)
	w.cancel()
	w.background.Wait()
	if err != nil {
		return fmt.Errorf("stop the worker: %w", err)
	}
	return nil
}

const (
	// retryElsewhere is the delay before the next attempt at a job that this worker's
	// model cannot run.
	retryElsewhere = maxDelay

	// retryDatabase is the delay before the next attempt at a job after a database
	// error.
	retryDatabase = time.Second

	// retryRelease is the interval at which the release of a lease is tried again.
	retryRelease = 200 * time.Millisecond
)

// generate implements river.Worker.
type generate struct {
	river.WorkerDefaults[generateArgs]
	*Worker
}

// Timeout removes River's default limit of one minute for a job. It also turns off River's
// rescue, which would queue a job again after an hour, by the process's clock.
func (g *generate) Timeout(*river.Job[generateArgs]) time.Duration { return -1 }

// Work runs one attempt at a job. The errors that it returns contain no prompts and no
// texts, because River stores them.
func (g *generate) Work(ctx context.Context, rj *river.Job[generateArgs]) error {
	job, err := g.store.Job(ctx, rj.Args.Job)
	switch {
	case errors.Is(err, events.ErrNotFound):
		return river.JobCancel(err)
	case errors.Is(err, events.ErrDamaged):
		return river.JobCancel(err) // store.Job has put the job's stream in quarantine
	case err != nil:
		if d, ok := errors.AsType[*events.Damage](err); ok {
			return g.putBackUnreadable(ctx, rj, d)
		}
		g.log.WarnContext(ctx, "job not read, retrying", "job", rj.Args.Job, "err", err)
		return river.JobSnooze(retryDatabase)
	case job.State.Final():
		return nil
	case job.Erased:
		return river.JobCancel(errors.New("the owner has been erased"))
	}
	known, gone := g.knownText(ctx, job)
	if gone != nil && !errors.Is(gone, errTextGone) {
		g.log.WarnContext(ctx, "job not read, retrying", "job", job.ID, "err", gone)
		return river.JobSnooze(retryDatabase)
	}
	info := g.engine.Info()
	if job.Model != info.Name || !job.RunsOn(info.Weights) || !known.runsOn(info) {
		needs := cmp.Or(job.Weights, job.AcceptedFor)
		if known != nil {
			needs = known.weights + " on " + known.kernel
		}
		if due, others := g.rarely.due(job.Model + " " + needs); due {
			g.log.WarnContext(ctx, "job needs another model, put back",
				"job", job.ID, "needs", job.Model, "needs_weights", needs, "has", info.Name, "has_weights", info.Weights, "not_logged", others)
		}
		return river.JobSnooze(retryElsewhere)
	}
	if job.TokensBy != "" && job.TokensBy != info.Kernel {
		waited, err := g.interruptedFor(ctx, rj, job)
		switch {
		case err != nil:
			g.log.WarnContext(ctx, "time in the queue not read, retrying", "job", job.ID, "err", err)
			return river.JobSnooze(retryDatabase)
		case waited < g.timing.sameKernel:
			return river.JobSnooze(g.timing.retryKernel)
		}
		g.log.WarnContext(ctx, "no worker with the same arithmetic, job continued with other bits", "job", job.ID, "began_with", job.TokensBy, "has", info.Kernel)
	}
	mark, err := watermarkKey(ctx, g.store.FindWatermarkKey, job)
	switch {
	case errors.Is(err, errWatermarkScheme):
		if due, others := g.rarely.due(job.Watermark.Parameters); due {
			g.log.WarnContext(ctx, "job needs another watermark, put back",
				"job", job.ID, "needs", job.Watermark.Parameters, "has", watermark.Parameters, "not_logged", others)
		}
		return river.JobSnooze(retryElsewhere)
	case errors.Is(err, events.ErrWatermarkUnreadable):
		return g.putBackUnreadable(ctx, rj, &events.Damage{Stream: events.JobStream(job.ID), Owner: job.Owner, Reason: events.ErrWatermarkUnreadable.Error()})
	case err != nil && !errors.Is(err, errWatermarkKey):
		g.log.WarnContext(ctx, "job not read, retrying", "job", job.ID, "err", err)
		return river.JobSnooze(retryDatabase)
	}
	a := &attempt{Worker: g.Worker, river: rj, job: job, holder: uuid.New(), rules: g.rules(), known: known, mark: mark}
	if err = cmp.Or(err, gone); err == nil {
		err = a.run(ctx)
	}
	return a.finish(ctx, err)
}

// interruptedFor returns the time for which a started job has waited in the queue, by the
// database's clock. The queue entry may be older than the job's last event, because another
// attempt has put it back. It may be younger, because a dead worker's job was queued again.
func (g *generate) interruptedFor(ctx context.Context, rj *river.Job[generateArgs], job events.Job) (waited time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	err = g.pool.QueryRow(ctx, `
		select clock_timestamp() - greatest(created_at, $2) from `+migrations.RiverJobs+` where id = $1`, rj.ID, job.ChangedAt).Scan(&waited)
	return waited, err
}

// finish ends an attempt. err is the error that run returned. finish records the tokens
// and the failure that run has not recorded, drops the lease, and returns the result
// for River.
func (a *attempt) finish(ctx context.Context, err error) error {
	log := a.log.With("job", a.job.ID, "attempt", a.job.Attempts)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, events.ErrDamaged):
		log.WarnContext(ctx, "job damaged, attempt stopped")
		if err := a.release(ctx); err != nil {
			log.WarnContext(ctx, "lease not released, left to expire", "err", err)
		}
		return river.JobCancel(err)
	case errors.Is(err, errDeadline):
		if err := a.endOverdue(ctx); err != nil {
			log.WarnContext(ctx, "job not ended at its deadline, left to the next search", "err", err)
		}
		return nil
	case errors.Is(err, errLeased):
		// After this delay, the other attempt may have ended the job, or the other
		// attempt's lease may have expired.
		return river.JobSnooze(a.timing.retryLeased)
	case errors.Is(err, events.ErrConflict), errors.Is(err, errJobFinal), errors.Is(err, errLeaseLost):
		// The job was cancelled, or another attempt has taken it over.
		log.InfoContext(ctx, "attempt superseded, stopped")
		if err := a.release(ctx); err != nil {
			log.WarnContext(ctx, "lease not released, left to expire", "err", err)
		}
		// The other attempt may die too, so the queue entry stays until a worker has
		// seen the job's end.
		return river.JobSnooze(a.timing.retryLeased)
	case ctx.Err() != nil:
		// The worker is stopping. The attempt does not count as failed.
		if err := a.handOver(ctx, a.unrecorded()...); err != nil {
			log.WarnContext(ctx, "last tokens not recorded, to be generated again", "err", err)
			return river.JobSnooze(0)
		}
		return nil
	}
	failed := events.JobFailed{Attempt: a.job.Attempts, Reason: errEngine.Error()}
	switch {
	case errors.Is(err, errCrashes):
		failed.Reason, failed.Final = errCrashes.Error(), true
	case errors.Is(err, errWatermarkKey):
		failed.Reason, failed.Final = errWatermarkKey.Error(), true
	case errors.Is(err, errTextGone):
		failed.Reason, failed.Final = errTextGone.Error(), true
	case errors.Is(err, errOtherText):
		failed.Reason, failed.Final = errOtherText.Error(), true
	case errors.Is(err, model.ErrParams), errors.Is(err, model.ErrPrompt), errors.Is(err, model.ErrToken), errors.Is(err, model.ErrContext):
		// Another attempt would fail in the same way.
		failed.Reason, failed.Final = "the model cannot serve this request", true
	case errors.Is(err, errEngine):
		failed.Final = a.river.Attempt >= a.river.MaxAttempts
	default:
		// A database error does not count as a failed attempt. The attempt's last facts
		// may or may not be on record.
		log.WarnContext(ctx, "attempt interrupted, job to be continued", "err", err)
		// An expired lease would count as a crash, so the lease is released.
		err := retry.Do(ctx, func() error { return a.release(ctx) }, func(error) (time.Duration, bool) { return retryRelease, true })
		if err != nil {
			log.WarnContext(ctx, "lease not released, left to expire", "err", err)
			return river.JobSnooze(0)
		}
		return river.JobSnooze(retryDatabase)
	}
	level := slog.LevelError
	if errors.Is(err, errTextGone) {
		level = slog.LevelInfo // the owner has erased the text
	}
	log.Log(ctx, level, "attempt failed", "err", err)
	if err := a.release(ctx, append(a.unrecorded(), failed)...); err != nil {
		log.ErrorContext(ctx, "failed attempt not recorded, retrying", "err", err)
		return river.JobSnooze(retryDatabase)
	}
	if failed.Final {
		return river.JobCancel(err)
	}
	return err
}
