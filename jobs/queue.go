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

	"colophon/events"
	"colophon/internal/periodic"
	"colophon/internal/policy"
	"colophon/model"
)

// maxAttempts is the number of failed attempts after which a job fails.
const maxAttempts = 3

// MaxSeed is the largest seed. A JSON parser that reads numbers as float64 represents
// every integer up to MaxSeed exactly.
const MaxSeed = 1<<53 - 1

// generateArgs is the content of a queue entry. Prompts and texts stay in package
// events, so that queue tables, dashboards and logs never contain them.
type generateArgs struct {
	Job uuid.UUID `json:"job"`
}

func (generateArgs) Kind() string { return "generate" }

// NoRoomError is returned when a prompt leaves no room for a new token.
type NoRoomError struct {
	PromptTokens int
	Limit        int
	LimitName    string // name of the limit, which is "max_length" or "the model's context"
}

// Code returns the error's code for programs.
func (*NoRoomError) Code() string { return "no_room" }

func (e *NoRoomError) Error() string {
	return fmt.Sprintf("the prompt has %d tokens, which leaves no room under %s of %d tokens", e.PromptTokens, e.LimitName, e.Limit)
}

// Request is a client's request for a job.
type Request struct {
	Prompt       string
	MaxLength    int     // maximum number of tokens in the prompt and the completion together, ignored if MaxNewTokens is set
	MaxNewTokens int     // maximum number of tokens in the completion, or 0 to apply MaxLength
	Temperature  float64 // model.Params documents this field and the following fields
	TopK         int
	TopP         float64
	Seed         *uint64 // if nil, a random seed is drawn
	Stop         []string

	CancelAfter time.Duration          // if not 0, shortens Limits.JobTime for this job
	Key         *events.IdempotencyKey // if nil, a repeated request makes another job
}

// Model describes the model that the workers run.
type Model struct {
	Name    string
	Weights string                  // digest of the weights, such as "sha256:248d…"; empty if any weights may run the jobs
	Context int                     // in tokens
	Encode  func(text string) []int // safe for concurrent use
}

// Queue accepts and cancels jobs. It is safe for concurrent use.
type Queue struct {
	pool    *pgxpool.Pool
	store   *events.Store
	river   *river.Client[pgx.Tx]
	model   Model
	rules   func() *policy.Rules
	limits  Limits
	submits ownerSemaphore
	depth   *depthLimit
	timing  timing
	log     *slog.Logger

	rate atomic.Pointer[serviceRate] // latest measured service rate
}

// NewQueue returns a queue of jobs for the given model. The queue checks each prompt
// against the rules in force at its submission, and accepts jobs within the limits.
func NewQueue(pool *pgxpool.Pool, store *events.Store, m Model, rules func() *policy.Rules, limits Limits, log *slog.Logger) (*Queue, error) {
	log = quiet(log)
	if limits.JobTime == 0 {
		limits.JobTime = DefaultJobTime
	}
	client, err := newInserter(pool, log)
	if err != nil {
		return nil, err
	}
	return &Queue{
		pool: pool, store: store, river: client, model: m, rules: rules, limits: limits, log: log,
		submits: ownerSemaphore{owners: map[uuid.UUID]*slots{}},
		depth:   newDepthLimit(limits.Queued),
		timing:  defaultTiming(),
	}, nil
}

// forgetEvery is the interval at which old idempotency keys and budgets are removed.
const forgetEvery = time.Minute

// Run does the queue's background work until ctx is done. It measures the queue once a
// second, ends overdue jobs that have no worker, finishes the erasure of closed owners, and
// removes old idempotency keys and budgets. If the number of queued jobs is limited, Submit
// waits until Run has counted them for the first time.
func (q *Queue) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { q.runRefresh(ctx) })
	running.Go(func() { runEndOverdue(ctx, q.store, q.timing, q.log) })
	running.Go(func() {
		periodic.Run(ctx, eraseEvery, q.log, "erasure of a closed account failed, retrying", q.eraseClosed)
	})
	running.Go(func() {
		periodic.Run(ctx, forgetEvery, q.log, "old idempotency keys and budgets not removed, retrying", func(ctx context.Context) error {
			return errors.Join(q.store.ForgetIdempotencyKeys(ctx), q.store.ForgetBudgets(ctx))
		})
	})
}

// Submit accepts a job and returns it.
//
// Submit returns a policy.Refusal for a prompt that breaks the rules. It returns a
// NoRoomError for a prompt that is too long, and vault.ErrErased for an erased owner.
// If a limit is reached, Submit returns ErrQueueFull, an OutstandingError or a
// BudgetError.
//
// If an earlier request had the same idempotency key, Submit returns that request's job
// in its current state. For a request with a key, Submit can also return
// events.ErrKeyReused or events.ErrInFlight.
func (q *Queue) Submit(ctx context.Context, owner uuid.UUID, r Request) (events.Job, error) {
	job, err := q.accept(ctx, owner, r)
	if err != nil && r.Key != nil {
		// Even if this request fails, an earlier request with the same key may have
		// succeeded.
		if first, err := q.jobUnder(ctx, *r.Key); !errors.Is(err, events.ErrNotFound) {
			return first, err
		}
	}
	return job, err
}

// jobUnder returns the job that the first request with the given key has made.
func (q *Queue) jobUnder(ctx context.Context, key events.IdempotencyKey) (events.Job, error) {
	stream, err := q.store.Opened(ctx, key)
	if err != nil {
		return events.Job{}, err
	}
	return q.store.Job(ctx, stream.ID())
}

// accept checks a request and makes a new job. It returns events.ErrClaimed if an
// earlier request has used the key.
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
		Weights:      q.model.Weights,
		Policy:       rules.Version(),
	}
	release, err := q.submits.acquire(ctx, owner)
	if err != nil {
		return events.Job{}, err
	}
	defer release()
	if err := q.depth.reserve(ctx); err != nil {
		return events.Job{}, err
	}
	var job events.Job
	err = q.store.Write(ctx, func(tx *events.Tx) error {
		if err := q.reserve(ctx, tx, owner, q.jobTime(r), &accepted); err != nil {
			return err
		}
		// The id is made after the wait for a connection, so that ids sort in the order
		// of acceptance.
		id := q.store.NewID()
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
		tx.Announce(newEntry)
		return q.checkQuota(ctx, tx, job)
	})
	q.depth.settle(err == nil)
	if err != nil {
		return events.Job{}, fmt.Errorf("submit a job: %w", err)
	}
	return job, nil
}

// jobTime returns the time from a job's acceptance to its deadline.
func (q *Queue) jobTime(r Request) time.Duration {
	if r.CancelAfter > 0 {
		return min(r.CancelAfter, q.limits.JobTime)
	}
	return q.limits.JobTime
}

// room returns the number of tokens that the job may generate, or a NoRoomError.
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

// WaitsForModel reports whether a job is queued for other weights than those of new jobs.
// Such a job waits until a worker has its weights.
func (q *Queue) WaitsForModel(job events.Job) bool {
	needs := job.Needs()
	return job.State == events.Queued && needs != "" && q.model.Weights != "" && needs != q.model.Weights
}

// Cancel cancels a job and returns its new state. It does not change a final job.
// Cancel also succeeds if the job has advanced since the caller read it.
func (q *Queue) Cancel(ctx context.Context, job events.Job, fact events.JobCancelled) (events.Job, error) {
	return cancel(ctx, q.store, job, fact)
}
