package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/model"
	"colophon/model/watermark"
)

const (
	// Tokens are recorded in batches. A batch is recorded when it has batchTokens
	// tokens or when batchEvery has passed since the previous batch. The first token is
	// recorded at once.
	batchTokens = 8
	batchEvery  = 100 * time.Millisecond

	// aheadDeltas is the number of deltas that can wait while a batch is recorded.
	aheadDeltas = 8 * batchTokens

	// releaseTimeout bounds the transaction that ends an attempt early.
	releaseTimeout = 2 * time.Second
)

var (
	// errJobFinal ends an attempt at a job that another process has ended.
	errJobFinal = errors.New("the job is final")

	// errEngine marks errors of the model, as opposed to errors of the database.
	errEngine = errors.New("the model failed")
)

// attempt is one worker's attempt to run a job.
type attempt struct {
	*Worker
	river    *river.Job[generateArgs]
	job      events.Job         // the state that this attempt last read or wrote
	holder   uuid.UUID          // identifies this attempt as the holder of the lease
	deadline time.Time          // the job's deadline on this process's clock, or zero if the job has no deadline
	rules    *policy.Rules      // the rules that filter the generated text
	known    *known             // the text that the job computes again; nil for a job with a text of its own
	mark     *watermark.Key     // the key that marks the text; nil for a text without a mark
	pending  events.JobAdvanced // tokens and text that are generated but not recorded
}

// unrecorded returns a fact with the tokens that are generated but not recorded. It
// returns nil if there are no such tokens. An attempt that ends early records this
// fact, so that the next attempt does not generate these tokens again.
func (a *attempt) unrecorded() []events.Fact {
	if len(a.pending.Tokens) == 0 {
		return nil
	}
	return []events.Fact{a.pending}
}

// append appends facts to the job's stream, even if ctx is done. If ctx interrupted the
// transaction, the attempt would not know whether the facts are on record.
func (a *attempt) append(ctx context.Context, facts ...events.Fact) (err error) {
	a.job, err = a.store.AppendJob(context.WithoutCancel(ctx), a.job, facts...)
	return err
}

// write runs fn in one transaction. After the commit, the job that fn returned
// becomes the attempt's job.
func (a *attempt) write(ctx context.Context, fn func(*events.Tx) (events.Job, error)) error {
	var after events.Job
	err := a.store.Write(ctx, func(tx *events.Tx) error {
		var err error
		after, err = fn(tx)
		return err
	})
	if err == nil {
		a.job = after
	}
	return err
}

// run starts the job, generates the rest of its text and completes it.
func (a *attempt) run(ctx context.Context) error {
	if err := a.start(ctx); err != nil {
		return err
	}
	limited, done := ctx, func() {}
	if !a.deadline.IsZero() {
		limited, done = context.WithDeadlineCause(ctx, a.deadline, errDeadline)
	}
	defer done()
	working, stop := context.WithCancelCause(limited)
	defer stop(nil)
	defer a.leases.hold(a.holder, stop)()
	go a.watch(working, a.job, stop)
	deltas := make(chan model.Delta, aheadDeltas)
	ended := make(chan outcome, 1)
	go func(job events.Job) {
		defer close(deltas)
		ended <- a.generate(working, job, deltas)
	}(a.job)
	err := a.record(working, deltas)
	stop(err) // makes generate return
	out := <-ended
	cause := context.Cause(working)
	switch {
	case errors.Is(cause, errDeadline) && (err != nil || out.err != nil):
		return errDeadline
	case err != nil:
		return err
	case errors.Is(cause, errJobFinal), errors.Is(cause, errLeaseLost):
		return cause
	case out.err != nil:
		return fmt.Errorf("%w: %w", errEngine, out.err)
	}
	return a.complete(ctx, out)
}

// watch follows the job and stops the attempt when another process cancels or fails
// the job.
func (a *attempt) watch(ctx context.Context, job events.Job, stop context.CancelCauseFunc) {
	for batch, err := range a.store.Follow(ctx, events.JobStream(job.ID), job.Version, time.Minute) {
		if err != nil {
			return // the attempt has ended, or the attempt's next append will return the same error
		}
		for _, e := range batch {
			switch e.Fact.(type) {
			case events.JobCancelled, events.JobFailed:
				stop(errJobFinal)
				return
			case events.JobCompleted:
				return
			}
		}
	}
}

// generate runs the model and sends each delta that the holdback buffer releases on the
// channel deltas. It returns the last delta in the outcome.
func (a *attempt) generate(ctx context.Context, job events.Job, deltas chan<- model.Delta) outcome {
	job.Params.Scope = job.Owner.String()
	if a.SharePrefixes {
		job.Params.Scope = "all owners"
	}
	out := generateText(ctx, a.known.engine(a.engine, job), a.rules, a.mark, job, func(d model.Delta) error {
		select {
		case deltas <- d:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if _, ok := errors.AsType[*wrongToken](out.err); ok {
		out.err = fmt.Errorf("%w: %w", errOtherText, out.err)
	}
	if p, ok := errors.AsType[*model.PanicError](out.err); ok {
		a.log.ErrorContext(ctx, "engine panicked", "job", job.ID, "panic", p.Type, "stack", p.Stack)
	}
	return out
}

// record receives deltas until the channel is closed, and appends them to the job's
// stream in batches. It leaves the last incomplete batch in a.pending.
func (a *attempt) record(ctx context.Context, deltas <-chan model.Delta) error {
	timer := time.NewTimer(0) // expires at once, so that the first token is recorded without delay
	defer timer.Stop()
	for due := false; ; {
		select {
		case <-timer.C:
			due = true
		case d, ok := <-deltas:
			if !ok {
				return nil
			}
			a.pending.Tokens = append(a.pending.Tokens, d.Tokens...)
			a.pending.Text += d.Text
			a.pending.Logprobs = append(a.pending.Logprobs, d.Logprobs...)
		}
		if n := len(a.pending.Tokens); n == 0 || n < batchTokens && !due {
			continue
		}
		if err := a.append(ctx, a.pending); err != nil {
			return err
		}
		a.pending, due = events.JobAdvanced{}, false
		timer.Reset(batchEvery)
	}
}

// complete runs one transaction that ends the attempt. The transaction records the rest
// of the text and the job's completion, drops the lease and completes the queue entry.
func (a *attempt) complete(ctx context.Context, out outcome) error {
	ctx = context.WithoutCancel(ctx) // the comment on attempt.append gives the reason
	rest := events.JobAdvanced{
		Tokens: slices.Concat([]int{}, a.pending.Tokens, out.last.Tokens), // the empty list makes the JSON [] instead of null if there are no tokens
		Text:   a.pending.Text + out.last.Text,

		Logprobs: slices.Concat(a.pending.Logprobs, out.last.Logprobs),
	}
	return a.write(ctx, func(tx *events.Tx) (events.Job, error) {
		job := a.job
		var err error
		if len(rest.Tokens) > 0 || rest.Text != "" {
			if job, err = tx.AppendJob(ctx, job, rest); err != nil {
				return job, err
			}
		}
		if job, err = tx.AppendJob(ctx, job, completed(job, out.finishReason, a.store.Clock().Now())); err != nil {
			return job, err
		}
		if err := dropLease(ctx, tx.Tx, job.ID, a.holder); err != nil {
			return job, err
		}
		_, err = river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx.Tx, a.river)
		return job, err
	})
}

// completed returns the fact that completes a job now. All tokens of the job must be on
// record. A duration is never negative, not even for events of earlier releases, whose
// times are not always in order.
func completed(job events.Job, finishReason string, now time.Time) events.JobCompleted {
	since := func(at time.Time) int64 { return max(0, at.Sub(job.AcceptedAt).Milliseconds()) }
	c := events.JobCompleted{
		FinishReason: finishReason,
		Usage: events.Usage{
			PromptTokens:     job.PromptTokens,
			CompletionTokens: len(job.Tokens),
			TotalTokens:      job.PromptTokens + len(job.Tokens),
		},
		Timings: events.Timings{
			QueuedMS: since(job.StartedAt),
			TotalMS:  since(later(now, job.ChangedAt)),
		},
	}
	if !job.FirstTokenAt.IsZero() {
		c.Timings.FirstTokenMS = since(job.FirstTokenAt)
	}
	return c
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
