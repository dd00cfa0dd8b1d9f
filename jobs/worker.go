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
	"colophon/internal/policy"
	"colophon/internal/retry"
	"colophon/migrations"
	"colophon/model"
)

// Worker runs queued jobs on an engine until it is stopped, and queues those
// again whose workers have died.
type Worker struct {
	pool   *pgxpool.Pool
	store  *events.Store
	engine model.Engine
	rules  func() *policy.Rules
	river  *river.Client[pgx.Tx]
	leases *leases
	name   string
	log    *slog.Logger

	end   context.CancelFunc // of what runs beside River
	ended sync.WaitGroup
}

// NewWorker returns a worker that runs up to slots jobs at once, and holds their
// texts to the rules that are in force when it takes them up.
func NewWorker(pool *pgxpool.Pool, store *events.Store, engine model.Engine, rules func() *policy.Rules, slots int, log *slog.Logger) (*Worker, error) {
	w := &Worker{
		pool: pool, store: store, engine: engine, rules: rules, name: uuid.NewString(), log: log,
		leases: &leases{pool: pool, log: log, held: map[uuid.UUID]context.CancelCauseFunc{}},
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &generate{Worker: w})
	var err error
	w.river, err = river.NewClient(riverpgxv5.New(pool), &river.Config{
		ID:      w.name,
		Schema:  migrations.RiverSchema,
		Logger:  log,
		Workers: workers,
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: slots}},
		// The least time between two fetches: with River's 100 ms, a job that
		// has just missed one waits longer than it runs.
		FetchCooldown: 10 * time.Millisecond,
		// Inserts that follow each other closely are announced once, and one that
		// comes a little later than that is found by looking. River looks each second.
		FetchPollInterval:   250 * time.Millisecond,
		ReindexerIndexNames: []string{}, // reindexing needs ownership, which the app role has not
	})
	if err != nil {
		return nil, fmt.Errorf("open the queue for work: %w", err)
	}
	return w, nil
}

// Name is what the log of events calls this worker.
func (w *Worker) Name() string { return w.name }

// Start begins to work in the background.
func (w *Worker) Start(ctx context.Context) error {
	// Not until ctx ends, but until Stop: jobs are to reach a token's end, and
	// their leases are to be renewed until they have.
	ctx = context.WithoutCancel(ctx)
	if err := w.river.Start(ctx); err != nil {
		return fmt.Errorf("start working: %w", err)
	}
	ctx, w.end = context.WithCancel(ctx)
	w.ended.Go(func() { w.leases.run(ctx) })
	w.ended.Go(func() { periodic.Run(ctx, sweepEvery, w.log, "could not look for expired leases", w.sweep) })
	w.ended.Go(func() {
		periodic.Run(ctx, promoteEvery, w.log, "could not look for owners who wait for long", w.promote)
	})
	w.ended.Go(func() { runEndOverdue(ctx, w.store, w.log) })
	return nil
}

// Stop takes up no further job, lets those that run put what they have on
// record and go back to the queue, and returns when they have or ctx is done.
func (w *Worker) Stop(ctx context.Context) error {
	err := w.river.StopAndCancel(ctx)
	w.end()
	w.ended.Wait()
	if err != nil {
		return fmt.Errorf("stop working: %w", err)
	}
	return nil
}

const (
	// retryElsewhere is how long a job waits that this worker's engine must not continue.
	retryElsewhere = 5 * time.Second

	// retryDatabase is how long a job waits whose attempt the database has broken off.
	retryDatabase = time.Second

	// retryLease is how often a database that does not answer is asked to take a
	// lease back.
	retryLease = 200 * time.Millisecond
)

// generate is the River worker.
type generate struct {
	river.WorkerDefaults[generateArgs]
	*Worker
}

// Timeout lifts River's own limit of a minute.
func (g *generate) Timeout(*river.Job[generateArgs]) time.Duration { return -1 }

// Work runs one attempt at a job. The errors it returns end up in River's
// tables, so they say nothing of prompts and texts.
func (g *generate) Work(ctx context.Context, rj *river.Job[generateArgs]) error {
	job, err := g.store.Job(ctx, rj.Args.Job)
	switch {
	case errors.Is(err, events.ErrNotFound):
		return river.JobCancel(err)
	case err != nil:
		g.log.WarnContext(ctx, "could not read a job; it will be taken up again", "job", rj.Args.Job, "err", err)
		return river.JobSnooze(retryDatabase)
	case job.State.Final():
		return nil
	case job.Erased:
		return river.JobCancel(errors.New("the owner has been erased"))
	}
	info := g.engine.Info()
	if job.Model != info.Name || job.Weights != "" && job.Weights != info.Weights {
		g.log.WarnContext(ctx, "put a job back that needs another model than this worker has",
			"job", job.ID, "needs", job.Model, "needs_weights", job.Weights, "has", info.Name, "has_weights", info.Weights)
		return river.JobSnooze(retryElsewhere)
	}
	a := &attempt{Worker: g.Worker, river: rj, job: job, holder: uuid.New(), rules: g.rules()}
	return a.verdict(ctx, a.run(ctx))
}

// verdict ends an attempt: it puts on record what run has not, gives the lease
// back and says what River is to do.
func (a *attempt) verdict(ctx context.Context, err error) error {
	log := a.log.With("job", a.job.ID, "attempt", a.job.Attempts)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errDeadline):
		if err := a.endOverdue(ctx); err != nil {
			log.WarnContext(ctx, "could not end a job at its deadline; somebody will soon", "err", err)
		}
		return nil
	case errors.Is(err, errLeased):
		// Either that attempt ends the job, or its lease ends.
		return river.JobSnooze(leaseFor)
	case errors.Is(err, events.ErrConflict), errors.Is(err, errSuperseded), errors.Is(err, errLeaseLost):
		// Somebody cancelled the job, or took it up; either way it is not ours.
		log.InfoContext(ctx, "stopped: the job has moved on without this attempt")
		if err := a.giveBack(ctx); err != nil {
			log.WarnContext(ctx, "could not give the lease back; it will expire", "err", err)
		}
		// Whoever has it may die as well: the place in the queue stays until
		// somebody has seen the job's end.
		return river.JobSnooze(leaseFor)
	case ctx.Err() != nil:
		// This worker is stopping: the job goes back, and the attempt does not count.
		if err := a.handOver(ctx, a.rest()...); err != nil {
			log.WarnContext(ctx, "could not record the last tokens; they will be made again", "err", err)
			return river.JobSnooze(0)
		}
		return nil
	}
	failed := events.JobFailed{Attempt: a.job.Attempts, Reason: errEngine.Error()}
	switch {
	case errors.Is(err, errCrashes):
		failed.Reason, failed.Final = errCrashes.Error(), true
	case errors.Is(err, model.ErrParams), errors.Is(err, model.ErrPrompt), errors.Is(err, model.ErrToken), errors.Is(err, model.ErrContext):
		// Trying again does not help.
		failed.Reason, failed.Final = "the model cannot serve this request", true
	case errors.Is(err, errEngine):
		failed.Final = a.river.Attempt >= a.river.MaxAttempts
	default:
		// The database did not do its part: that is not the job's fault, and
		// says nothing of what is on record.
		log.WarnContext(ctx, "an attempt was interrupted; the job will be taken up again", "err", err)
		// A lease that expires instead would count as a crash.
		err := retry.Do(ctx, func() error { return a.giveBack(ctx) }, func(error) (time.Duration, bool) { return retryLease, true })
		if err != nil {
			log.WarnContext(ctx, "could not give the lease back; it will expire", "err", err)
			return river.JobSnooze(0)
		}
		return river.JobSnooze(retryDatabase)
	}
	log.ErrorContext(ctx, "an attempt failed", "err", err)
	if err := a.giveBack(ctx, append(a.rest(), failed)...); err != nil {
		// Then it has not, as far as anybody can tell.
		log.ErrorContext(ctx, "could not record that an attempt failed", "err", err)
		return river.JobSnooze(retryDatabase)
	}
	if failed.Final {
		return river.JobCancel(err)
	}
	return err
}
