package jobs

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/model"
)

const (
	// Tokens are put on record in batches: when so many have come, or when the
	// last batch is so long ago. The first token does not wait.
	batchTokens = 8
	batchEvery  = 100 * time.Millisecond

	// ahead is how many batches' tokens may be generated while a batch is being
	// written.
	ahead = 8 * batchTokens

	// lastWords is how long a stopping worker tries to put on record what it has.
	lastWords = 2 * time.Second
)

var (
	// errSuperseded ends an attempt whose job became final elsewhere.
	errSuperseded = errors.New("the job is final")

	// errEngine says that it was the model that failed, and not the database.
	errEngine = errors.New("the model could not be run")
)

// attempt is one worker's go at a job.
type attempt struct {
	*Worker
	river   *river.Job[generateArgs]
	job     events.Job         // as this attempt has last seen or made it
	holder  uuid.UUID          // under which it has the lease
	ends    time.Time          // the job's deadline by this process's clock, or zero
	rules   *policy.Rules      // that its text is held to
	pending events.JobAdvanced // what has been generated and is not on record
}

// rest returns what is to be put on record of an attempt that ends early, so
// that the next one need not generate it again.
func (a *attempt) rest() []events.Fact {
	if len(a.pending.Tokens) == 0 {
		return nil
	}
	return []events.Fact{a.pending}
}

// append adds facts to the job's stream. A transaction that was begun is not
// broken off when ctx ends: nobody would know what has become of it.
func (a *attempt) append(ctx context.Context, facts ...events.Fact) (err error) {
	a.job, err = a.store.AppendJob(context.WithoutCancel(ctx), a.job, facts...)
	return err
}

// write runs fn in one transaction; the job that fn returns is the attempt's
// once that has committed, and not before.
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

// run takes the job from where it stands to its end.
func (a *attempt) run(ctx context.Context) error {
	if err := a.start(ctx); err != nil {
		return err
	}
	inTime, done := ctx, func() {}
	if !a.ends.IsZero() {
		inTime, done = context.WithDeadlineCause(ctx, a.ends, errDeadline)
	}
	defer done()
	working, stop := context.WithCancelCause(inTime)
	defer stop(nil)
	defer a.leases.hold(a.holder, stop)()
	go a.watch(working, a.job, stop)
	deltas := make(chan model.Delta, ahead)
	ended := make(chan outcome, 1)
	go func(job events.Job) {
		defer close(deltas)
		ended <- a.generate(working, job, deltas)
	}(a.job)
	err := a.record(working, deltas)
	stop(err) // nothing more is wanted of the generator
	out := <-ended
	cause := context.Cause(working)
	switch {
	case errors.Is(cause, errDeadline) && (err != nil || out.err != nil):
		return errDeadline
	case err != nil:
		return err
	case errors.Is(cause, errSuperseded), errors.Is(cause, errLeaseLost):
		return cause
	case out.err != nil:
		return fmt.Errorf("%w: %w", errEngine, out.err)
	}
	return a.complete(ctx, out)
}

// watch stops the attempt once the job is final by somebody else's doing.
func (a *attempt) watch(ctx context.Context, job events.Job, stop context.CancelCauseFunc) {
	for batch, err := range a.store.Follow(ctx, events.JobStream(job.ID), job.Version, time.Minute) {
		if err != nil {
			return // the attempt is over, or its next append will meet the same error
		}
		for _, e := range batch {
			switch e.Fact.(type) {
			case events.JobCancelled, events.JobFailed:
				stop(errSuperseded)
				return
			case events.JobCompleted:
				return
			}
		}
	}
}

// outcome is how generating ended.
type outcome struct {
	finishReason string
	last         model.Delta // of the text, after all other deltas
	err          error
}

func (a *attempt) generate(ctx context.Context, job events.Job, deltas chan<- model.Delta) (out outcome) {
	defer func() {
		if p := recover(); p != nil {
			a.log.ErrorContext(ctx, "the engine panicked", "job", job.ID, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			out.err = errors.New("the engine panicked")
		}
	}()
	held := newOutput(a.rules, a.engine, job)
	if !held.refused {
		var result model.Result
		result, out.err = model.Generate(ctx, a.engine, a.engine.Encode(job.Prompt), job.Tokens, job.Params, func(d model.Delta) error {
			d, any, err := held.add(d)
			if !any {
				return err
			}
			select {
			case deltas <- d:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if out.err != nil && !errors.Is(out.err, errRefused) {
			return out
		}
		out = outcome{finishReason: result.FinishReason}
	}
	var refused bool
	if out.last, refused = held.end(); refused {
		out.finishReason = model.FinishContentFilter
	}
	return out
}

// record appends deltas in batches as they come, and leaves those that remain
// when they end.
func (a *attempt) record(ctx context.Context, deltas <-chan model.Delta) error {
	due := time.NewTimer(0) // the first token does not wait
	defer due.Stop()
	for late := false; ; {
		select {
		case <-due.C:
			late = true
		case d, ok := <-deltas:
			if !ok {
				return nil
			}
			a.pending.Tokens = append(a.pending.Tokens, d.Tokens...)
			a.pending.Text += d.Text
		}
		if n := len(a.pending.Tokens); n == 0 || n < batchTokens && !late {
			continue
		}
		if err := a.append(ctx, a.pending); err != nil {
			return err
		}
		a.pending, late = events.JobAdvanced{}, false
		due.Reset(batchEvery)
	}
}

// complete puts the rest of the text and the job's end on record, and takes the
// job out of the queue, all in one transaction.
func (a *attempt) complete(ctx context.Context, out outcome) error {
	ctx = context.WithoutCancel(ctx) // see append
	rest := events.JobAdvanced{
		Tokens: slices.Concat([]int{}, a.pending.Tokens, out.last.Tokens), // [] and not null if there are none
		Text:   a.pending.Text + out.last.Text,
	}
	return a.write(ctx, func(tx *events.Tx) (events.Job, error) {
		job := a.job
		var err error
		if len(rest.Tokens) > 0 || rest.Text != "" {
			if job, err = tx.AppendJob(ctx, job, rest); err != nil {
				return job, err
			}
		}
		if job, err = tx.AppendJob(ctx, job, completed(job, out.finishReason)); err != nil {
			return job, err
		}
		if err := dropLease(ctx, tx.Tx, job.ID, a.holder); err != nil {
			return job, err
		}
		_, err = river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx.Tx, a.river)
		return job, err
	})
}

// completed is the end of a job whose tokens are all on record.
func completed(job events.Job, finishReason string) events.JobCompleted {
	c := events.JobCompleted{
		FinishReason: finishReason,
		Usage: events.Usage{
			PromptTokens:     job.PromptTokens,
			CompletionTokens: len(job.Tokens),
			TotalTokens:      job.PromptTokens + len(job.Tokens),
		},
		Timings: events.Timings{
			QueuedMS: job.StartedAt.Sub(job.AcceptedAt).Milliseconds(),
			TotalMS:  time.Since(job.AcceptedAt).Milliseconds(),
		},
	}
	if !job.FirstTokenAt.IsZero() {
		c.Timings.FirstTokenMS = job.FirstTokenAt.Sub(job.AcceptedAt).Milliseconds()
	}
	return c
}
