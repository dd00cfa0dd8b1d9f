package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"colophon/events"
	"colophon/model"
)

// Worker runs queued jobs on an engine until it is stopped.
type Worker struct {
	store  *events.Store
	engine model.Engine
	river  *river.Client[pgx.Tx]
	name   string
	log    *slog.Logger
}

// NewWorker returns a worker that runs up to slots jobs at once.
func NewWorker(pool *pgxpool.Pool, store *events.Store, engine model.Engine, slots int, log *slog.Logger) (*Worker, error) {
	w := &Worker{store: store, engine: engine, name: uuid.NewString(), log: log}
	workers := river.NewWorkers()
	river.AddWorker(workers, &generate{Worker: w})
	var err error
	w.river, err = river.NewClient(riverpgxv5.New(pool), &river.Config{
		ID:      w.name,
		Schema:  Schema,
		Logger:  log,
		Workers: workers,
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: slots}},
		// The least time between two fetches: with River's 100 ms, a job that
		// has just missed one waits longer than it runs.
		FetchCooldown:       10 * time.Millisecond,
		ReindexerIndexNames: []string{}, // reindexing needs ownership, which the app role has not
	})
	if err != nil {
		return nil, fmt.Errorf("open the queue for work: %w", err)
	}
	return w, nil
}

// Start begins to work in the background.
func (w *Worker) Start(ctx context.Context) error {
	// River stops when its context ends, by cancelling the jobs: Stop decides when.
	if err := w.river.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("start working: %w", err)
	}
	return nil
}

// Stop takes up no further job, lets those that run put what they have on
// record and go back to the queue, and returns when they have or ctx is done.
func (w *Worker) Stop(ctx context.Context) error {
	if err := w.river.StopAndCancel(ctx); err != nil {
		return fmt.Errorf("stop working: %w", err)
	}
	return nil
}

// retryElsewhere is how long a job waits that this worker's engine must not continue.
const retryElsewhere = 5 * time.Second

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
		return err
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
	a := &attempt{Worker: g.Worker, river: rj, job: job}
	return a.verdict(ctx, a.run(ctx))
}

// verdict puts the outcome of an attempt on record, as far as the attempt has
// not done so itself, and says what River is to do.
func (a *attempt) verdict(ctx context.Context, err error) error {
	log := a.log.With("job", a.job.ID, "attempt", a.river.Attempt)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, events.ErrConflict), errors.Is(err, errSuperseded):
		// Somebody cancelled the job, or took it up; either way it is not ours.
		log.InfoContext(ctx, "stopped: the job has moved on without this attempt")
		return nil
	case ctx.Err() != nil:
		// This worker is stopping: the job goes back, and the attempt does not count.
		return river.JobSnooze(0)
	}
	log.ErrorContext(ctx, "an attempt failed", "err", err)
	// Trying again does not help a request that the model cannot serve.
	hopeless := errors.Is(err, model.ErrParams) || errors.Is(err, model.ErrPrompt) || errors.Is(err, model.ErrToken) || errors.Is(err, model.ErrContext)
	failed := events.JobFailed{Attempt: a.river.Attempt, Reason: "the model could not be run", Final: hopeless || a.river.Attempt >= a.river.MaxAttempts}
	if hopeless {
		failed.Reason = "the model cannot serve this request"
	}
	if err2 := a.append(ctx, failed); err2 != nil {
		log.ErrorContext(ctx, "could not record that an attempt failed", "err", err2)
	}
	if failed.Final {
		return river.JobCancel(err)
	}
	return err
}
