package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"colophon/events"
	"colophon/internal/flight"
	"colophon/internal/periodic"
	"colophon/internal/policy"
	"colophon/migrations"
	"colophon/model"
)

// maxAttempts is how often a job is tried whose attempts fail.
const maxAttempts = 3

// MaxSeed is the largest seed: the largest integer that every JSON reader
// understands exactly.
const MaxSeed = 1<<53 - 1

// generateArgs is what the queue knows of a job. Prompts and texts stay in
// package events, out of queue tables, dashboards and logs.
type generateArgs struct {
	Job uuid.UUID `json:"job"`
}

func (generateArgs) Kind() string { return "generate" }

// NoRoomError occurs when a prompt leaves no room for a single new token.
type NoRoomError struct {
	PromptTokens int
	Limit        int
	LimitName    string // "max_length" or "the model's context"
}

// Code returns the error's code.
func (*NoRoomError) Code() string { return "no_room" }

func (e *NoRoomError) Error() string {
	return fmt.Sprintf("the prompt has %d tokens, which leaves no room under %s of %d tokens", e.PromptTokens, e.LimitName, e.Limit)
}

// Request is what a client asks for.
type Request struct {
	Prompt       string
	MaxLength    int     // most tokens of prompt and completion together; ignored if MaxNewTokens is set
	MaxNewTokens int     // most tokens of the completion; 0 leaves it to MaxLength
	Temperature  float64 // as in model.Params, the fields below too
	TopK         int
	TopP         float64
	Seed         *uint64 // nil draws one
	Stop         []string

	CancelAfter time.Duration          // how long the job may take, if that is less than Limits.JobTime; 0 leaves it to that
	Key         *events.IdempotencyKey // nil makes a job of each request
}

// Model is what a queue has to know of the model that its workers run.
type Model struct {
	Name    string
	Context int                     // in tokens
	Encode  func(text string) []int // safe for concurrent use
}

// Queue accepts and cancels jobs. It is safe for concurrent use.
type Queue struct {
	pool   *pgxpool.Pool
	store  *events.Store
	river  *river.Client[pgx.Tx]
	model  Model
	rules  func() *policy.Rules
	limits Limits
	turns  turns
	depth  depth
	log    *slog.Logger

	pace  atomic.Pointer[pace] // the latest
	paces flight.Group[pace]
}

// NewQueue returns a queue for jobs that are to be run with the model, whose
// prompts keep the rules that are in force when they come, and which takes on as
// much as the limits allow.
func NewQueue(pool *pgxpool.Pool, store *events.Store, m Model, rules func() *policy.Rules, limits Limits, log *slog.Logger) (*Queue, error) {
	if limits.JobTime == 0 {
		limits.JobTime = DefaultJobTime
	}
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Schema: migrations.RiverSchema,
		Logger: log,
		// How long a further insert may go unannounced to the workers: River's
		// default of 100 ms is most of the time that a short job takes.
		FetchCooldown: time.Millisecond,
	})
	if err != nil {
		return nil, fmt.Errorf("open the queue: %w", err)
	}
	return &Queue{
		pool: pool, store: store, river: client, model: m, rules: rules, limits: limits, log: log,
		turns: turns{of: map[uuid.UUID]*turn{}},
		depth: depth{limit: limits.Queued, count: store.Queued},
		paces: flight.Group[pace]{Timeout: paceTimeout},
	}, nil
}

// forgetEvery is how often old idempotency keys and budgets are looked for.
const forgetEvery = time.Minute

// Run looks after what the queue has accepted until ctx is done: jobs past their
// deadlines that no worker has, idempotency keys that are a day old, budgets of
// days that are over, and owners who are to be erased.
func (q *Queue) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { runEndOverdue(ctx, q.store, q.log) })
	running.Go(func() {
		periodic.Run(ctx, eraseEvery, q.log, "could not erase what a closed account has left; it is tried again", q.eraseClosed)
	})
	running.Go(func() {
		periodic.Run(ctx, forgetEvery, q.log, "could not remove what is too old to count", func(ctx context.Context) error {
			return errors.Join(q.store.ForgetKeys(ctx), q.store.ForgetBudgets(ctx))
		})
	})
}

// Submit accepts a job, or returns a policy.Refusal for a prompt against the
// rules, a NoRoomError for one that is too long, vault.ErrErased for an owner
// that is no more, or, where a limit is reached, ErrQueueFull, an
// OutstandingError or a BudgetError. A request under a key that has been used
// returns the job that it made then, as it is now; or events.ErrKeyReused, or
// events.ErrInFlight.
func (q *Queue) Submit(ctx context.Context, owner uuid.UUID, r Request) (events.Job, error) {
	job, err := q.accept(ctx, owner, r)
	if err != nil && r.Key != nil {
		// Whatever is in the way of it now, the first time may have been another.
		if first, err := q.accepted(ctx, *r.Key); !errors.Is(err, events.ErrNotFound) {
			return first, err
		}
	}
	return job, err
}

// accepted returns the job that a request under the key has made.
func (q *Queue) accepted(ctx context.Context, key events.IdempotencyKey) (events.Job, error) {
	stream, err := q.store.Opened(ctx, key)
	if err != nil {
		return events.Job{}, err
	}
	return q.store.Job(ctx, stream.ID())
}

// accept makes a job.
func (q *Queue) accept(ctx context.Context, owner uuid.UUID, r Request) (events.Job, error) {
	rules := q.rules()
	prompt, err := rules.Prompt(r.Prompt)
	if err != nil {
		return events.Job{}, err
	}
	promptTokens := len(q.model.Encode(prompt))
	maxTokens, err := q.room(r, promptTokens)
	if err != nil {
		return events.Job{}, err
	}
	seed := rand.Uint64N(MaxSeed + 1)
	if r.Seed != nil {
		seed = *r.Seed
	}
	accepted := events.JobAccepted{
		Prompt: prompt,
		Stop:   r.Stop,
		Params: model.Params{
			MaxTokens:   maxTokens,
			Temperature: r.Temperature,
			TopK:        r.TopK,
			TopP:        r.TopP,
			Seed:        seed,
		},
		PromptTokens: promptTokens,
		Model:        q.model.Name,
		Policy:       rules.Version(),
	}
	done, err := q.turns.wait(ctx, owner)
	if err != nil {
		return events.Job{}, err
	}
	defer done()
	if err := q.depth.enter(ctx); err != nil {
		return events.Job{}, err
	}
	var job events.Job
	err = q.store.Write(ctx, func(tx *events.Tx) error {
		if err := q.admit(ctx, tx, owner, q.jobTime(r), &accepted); err != nil {
			return err
		}
		// Not before the transaction has its connection: ids are to have the
		// order in which jobs are accepted, whoever waits how long for one.
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		if r.Key != nil {
			if err := tx.Claim(ctx, *r.Key, owner, events.JobStream(id)); err != nil {
				return err
			}
		}
		if job, err = tx.AppendJob(ctx, events.Job{ID: id, Owner: owner}, accepted); err != nil {
			return err
		}
		_, err = q.river.InsertTx(ctx, tx.Tx, generateArgs{Job: id}, &river.InsertOpts{MaxAttempts: maxAttempts, Priority: accepted.Priority})
		if err != nil {
			return err
		}
		return q.confirm(ctx, tx, job)
	})
	q.depth.leave(err == nil)
	if err != nil {
		return events.Job{}, fmt.Errorf("submit a job: %w", err)
	}
	return job, nil
}

// jobTime returns how long a job may take.
func (q *Queue) jobTime(r Request) time.Duration {
	if r.CancelAfter > 0 {
		return min(r.CancelAfter, q.limits.JobTime)
	}
	return q.limits.JobTime
}

// room returns how many tokens may be generated.
func (q *Queue) room(r Request, promptTokens int) (int, error) {
	inContext := q.model.Context - promptTokens
	if inContext < 1 {
		return 0, &NoRoomError{promptTokens, q.model.Context, "the model's context"}
	}
	if r.MaxNewTokens > 0 {
		return min(r.MaxNewTokens, inContext), nil
	}
	if r.MaxLength <= promptTokens {
		return 0, &NoRoomError{promptTokens, r.MaxLength, "max_length"}
	}
	return min(r.MaxLength-promptTokens, inContext), nil
}

// Cancel ends a job and returns it as it then is. A job that is final already
// stays as it is.
func (q *Queue) Cancel(ctx context.Context, job events.Job, by events.JobCancelled) (events.Job, error) {
	return cancel(ctx, q.store, job, by)
}
