package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/model"
)

// schema is the Postgres schema of River's tables; migrations make it.
const schema = "river"

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
}

// Model is what a queue has to know of the model that its workers run.
type Model struct {
	Name    string
	Context int                     // in tokens
	Encode  func(text string) []int // safe for concurrent use
}

// Queue accepts and cancels jobs. It is safe for concurrent use.
type Queue struct {
	store  *events.Store
	river  *river.Client[pgx.Tx]
	model  Model
	limits Limits
	turns  turns
	depth  depth
}

// NewQueue returns a queue for jobs that are to be run with the model, which
// takes on as much as the limits allow.
func NewQueue(pool *pgxpool.Pool, store *events.Store, m Model, limits Limits, log *slog.Logger) (*Queue, error) {
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Schema: schema,
		Logger: log,
		// How long a further insert may go unannounced to the workers: River's
		// default of 100 ms is most of the time that a short job takes.
		FetchCooldown: time.Millisecond,
	})
	if err != nil {
		return nil, fmt.Errorf("open the queue: %w", err)
	}
	return &Queue{
		store: store, river: client, model: m, limits: limits,
		turns: turns{of: map[uuid.UUID]*turn{}},
		depth: depth{limit: limits.Queued, count: store.Queued},
	}, nil
}

// Submit accepts a job, or returns a policy.Refusal for a prompt against the
// rules, a NoRoomError for one that is too long, vault.ErrErased for an owner
// that is no more, or, where a limit is reached, ErrQueueFull, an
// OutstandingError or a BudgetError.
func (q *Queue) Submit(ctx context.Context, owner uuid.UUID, r Request) (events.Job, error) {
	prompt, err := policy.Prompt(r.Prompt)
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
		Policy:       policy.Version,
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
		if err := q.admit(ctx, tx, owner, &accepted); err != nil {
			return err
		}
		// Not before the transaction has its connection: ids are to have the
		// order in which jobs are accepted, whoever waits how long for one.
		id, err := uuid.NewV7()
		if err != nil {
			return err
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

// cancelTries is how often a cancel is tried against a job that keeps advancing.
const cancelTries = 20

// Cancel ends a job and returns it as it then is. A job that is final already
// stays as it is.
func (q *Queue) Cancel(ctx context.Context, job events.Job, by events.JobCancelled) (events.Job, error) {
	var err error
	for range cancelTries {
		if job.State.Final() {
			return job, nil
		}
		if job, err = q.store.AppendJob(ctx, job, by); err == nil {
			return job, nil
		}
		if !errors.Is(err, events.ErrConflict) {
			break
		}
		if job, err = q.store.Job(ctx, job.ID); err != nil {
			break
		}
	}
	return job, fmt.Errorf("cancel job %s: %w", job.ID, err)
}
