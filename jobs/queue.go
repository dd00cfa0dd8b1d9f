package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
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
)

// maxAttempts is the number of failed attempts after which a job fails.
const maxAttempts = 3

// generateArgs is the content of a queue entry. Prompts and texts stay in package
// events, so that queue tables, dashboards and logs never contain them.
type generateArgs struct {
	Job uuid.UUID `json:"job"`
}

func (generateArgs) Kind() string { return "generate" }

// Request is a client's request for a job.
type Request struct {
	Prompt       string
	LongPrompt   bool     // allow a prompt of more than policy.MaxPrompt characters
	Template     string   // chat template that made the prompt, or empty; with TemplateEOS, Turns replaces Prompt
	Turns        []string // turns of a conversation, only with TemplateEOS
	MaxLength    int      // maximum number of tokens in the prompt and the completion together, ignored if MaxNewTokens is set
	MaxNewTokens int      // maximum number of tokens in the completion, or 0 to apply MaxLength
	Temperature  float64  // model.Params documents this field and the following fields
	TopK         int
	TopP         float64
	Seed         *uint64 // if nil, a random seed is drawn
	Stop         []string
	Record       json.RawMessage // what the operation must know later, see events.JobAccepted.Request; may be nil
	EraseAtEnd   bool            // erase the job when it has ended
	Response     string          // see events.JobAccepted.Response
	Watermark    bool            // mark the text, which a temperature of 0 prevents

	PresencePenalty   float64
	FrequencyPenalty  float64
	RepetitionPenalty float64
	MinP              float64
	LogitBias         map[int]float64
	Logprobs          *int
	MinTokens         int // at most MaxNewTokens if that is set; lowered to the number of tokens for which there is room

	APIKey       uuid.UUID // the owner's API key that submits the job, or zero
	APIKeyTokens int       // maximum number of tokens that the jobs of APIKey may use per day (UTC); 0 means no limit

	// Batch is the line of a batch that asks for the job, or zero. Such a job has the lowest
	// priority, does not count as outstanding, and is cancelled at the time Expires.
	Batch   events.BatchLine
	Expires time.Time

	CancelAfter time.Duration          // if not 0, shortens Limits.JobTime for this job
	Key         *events.IdempotencyKey // if nil, a repeated request makes another job
}

// Model describes the model that the workers run.
type Model struct {
	Name    string
	Weights string                    // digest of the weights, such as "sha256:248d…"; empty if any weights may run the jobs
	Context int                       // in tokens
	Vocab   int                       // number of token ids
	Encode  func(text string) []int   // safe for concurrent use
	Decode  func(tokens []int) []byte // safe for concurrent use
}

// Tokens returns the tokens of a text. The error is ErrNoToken if the model cannot read the
// text.
func (m Model) Tokens(text string) ([]int, error) {
	tokens := m.Encode(text)
	return tokens, m.check(tokens)
}

// check returns ErrNoToken if a token is not one of the model.
func (m Model) check(tokens []int) error {
	for _, id := range tokens {
		if id < 0 || id >= m.Vocab {
			return ErrNoToken
		}
	}
	return nil
}

// Queue accepts and cancels jobs. It is safe for concurrent use.
type Queue struct {
	// Watermark marks the texts of all jobs, also of requests without a watermark. It must
	// be set before the queue is used.
	Watermark bool

	pool    *pgxpool.Pool
	store   *events.Store
	river   *river.Client[pgx.Tx]
	model   Model
	rules   func() *policy.Rules
	limits  Limits
	submits *ownerSemaphore
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
		submits: newOwnerSemaphore(submitsPerOwner),
		depth:   newDepthLimit(limits.Queued),
		timing:  defaultTiming(),
	}, nil
}

// forgetEvery is the interval at which old idempotency keys and budgets are removed.
const forgetEvery = time.Minute

// Run does the queue's background work until ctx is done. It measures the queue once a
// second, ends overdue jobs that have no worker, finishes the erasure of closed owners, erases
// ended jobs that are not to be kept, and removes old idempotency keys, budgets and messages of
// webhooks. If the number of queued jobs is limited, Submit
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
		periodic.Run(ctx, unkeptEvery, q.log, "texts that are not to be kept not erased, retrying", func(ctx context.Context) error { return q.eraseUnkept(ctx, unkeptFor) })
	})
	running.Go(func() {
		periodic.Run(ctx, forgetEvery, q.log, "old idempotency keys, budgets and messages not removed, retrying", func(ctx context.Context) error {
			return errors.Join(q.store.ForgetIdempotencyKeys(ctx), q.store.ForgetBudgets(ctx), q.store.ForgetDeliveries(ctx))
		})
	})
}

// Submit accepts a job and returns it.
//
// Submit returns a policy.Refusal for a prompt that breaks the rules. The refusal is then on
// record in the owner's account, with the rule and without the prompt. It returns a
// NoRoomError for a prompt that is too long, ErrMinTokens or an UnknownTokenError for
// parameters that do not fit, and vault.ErrErased for an erased owner.
// If a limit is reached, Submit returns ErrQueueFull, an OutstandingError or a
// BudgetError.
//
// If an earlier request had the same idempotency key, Submit returns that request's job
// in its current state. For a request with a key, Submit can also return
// events.ErrKeyReused or events.ErrInFlight.
func (q *Queue) Submit(ctx context.Context, owner uuid.UUID, r Request) (events.Job, error) {
	jobs, err := q.SubmitGroup(ctx, owner, r.Key, []Request{r})
	if err != nil {
		return events.Job{}, err
	}
	return jobs[0], nil
}

// recordRefusal puts a refusal on record. The calls of one owner at a time are bounded as
// those that accept a job.
func (q *Queue) recordRefusal(ctx context.Context, owner uuid.UUID, fact events.PolicyRefused) error {
	release, err := q.submits.acquire(ctx, owner)
	if err != nil {
		return err
	}
	defer release()
	err = q.store.Write(ctx, func(tx *events.Tx) error { return tx.AppendAccount(ctx, owner, fact) })
	if err != nil {
		return fmt.Errorf("record a refused prompt: %w", err)
	}
	return nil
}

// jobTime returns the time from a job's acceptance to its deadline.
func (q *Queue) jobTime(cancelAfter time.Duration) time.Duration {
	if cancelAfter > 0 {
		return min(cancelAfter, q.limits.JobTime)
	}
	return q.limits.JobTime
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
