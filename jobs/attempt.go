package jobs

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"colophon/events"
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

// errSuperseded ends an attempt whose job became final elsewhere.
var errSuperseded = errors.New("the job is final")

// attempt is one worker's go at a job.
type attempt struct {
	*Worker
	river *river.Job[generateArgs]
	job   events.Job // as this attempt has last seen or made it
}

// append adds facts to the job's stream.
func (a *attempt) append(ctx context.Context, facts ...events.Fact) error {
	return a.store.Write(ctx, func(tx *events.Tx) error {
		after, err := tx.AppendJob(ctx, a.job, facts...)
		if err == nil {
			a.job = after
		}
		return err
	})
}

// run takes the job from where it stands to its end.
func (a *attempt) run(ctx context.Context) error {
	info := a.engine.Info()
	err := a.append(ctx, events.JobStarted{
		Attempt:   a.river.Attempt,
		Worker:    a.name,
		FromToken: len(a.job.Tokens),
		Weights:   info.Weights,
		Kernel:    info.Kernel,
	})
	if err != nil {
		return err
	}
	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go a.watch(working, a.job, stop)
	deltas := make(chan model.Delta, ahead)
	ended := make(chan outcome, 1)
	go func(job events.Job) {
		defer close(deltas)
		ended <- a.generate(working, job, deltas)
	}(a.job)
	rest, err := a.record(working, deltas)
	stop(err) // nothing more is wanted of the generator
	out := <-ended
	switch {
	case err != nil:
		return err
	case out.err != nil:
		return a.interrupted(ctx, context.Cause(working), rest, out.err)
	}
	return a.complete(ctx, rest, out.result)
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
	result model.Result
	err    error
}

func (a *attempt) generate(ctx context.Context, job events.Job, deltas chan<- model.Delta) (out outcome) {
	defer func() {
		if p := recover(); p != nil {
			a.log.ErrorContext(ctx, "the engine panicked", "job", job.ID, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			out.err = errors.New("the engine panicked")
		}
	}()
	prompt := a.engine.Encode(job.Prompt)
	result, err := model.Generate(ctx, a.engine, prompt, job.Tokens, job.Params, func(d model.Delta) error {
		select {
		case deltas <- d:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return outcome{result, err}
}

// record appends deltas in batches as they come, and returns those that remain
// when they end.
func (a *attempt) record(ctx context.Context, deltas <-chan model.Delta) (events.JobAdvanced, error) {
	var batch events.JobAdvanced
	due := time.NewTimer(0) // the first token does not wait
	defer due.Stop()
	for late := false; ; {
		select {
		case <-due.C:
			late = true
		case d, ok := <-deltas:
			if !ok {
				return batch, nil
			}
			batch.Tokens = append(batch.Tokens, d.Tokens...)
			batch.Text += d.Text
		}
		if len(batch.Tokens) < batchTokens && !(late && len(batch.Tokens) > 0) {
			continue
		}
		if err := a.append(ctx, batch); err != nil {
			return batch, err
		}
		batch, late = events.JobAdvanced{}, false
		due.Reset(batchEvery)
	}
}

// interrupted puts the tokens that are there on record, so that the next
// attempt need not generate them again.
func (a *attempt) interrupted(ctx context.Context, cause error, rest events.JobAdvanced, err error) error {
	if errors.Is(cause, errSuperseded) {
		return cause
	}
	if len(rest.Tokens) > 0 {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
		defer cancel()
		err = errors.Join(err, a.append(last, rest))
	}
	return err
}

// complete puts the rest of the text and the job's end on record, and takes the
// job out of the queue, all in one transaction.
func (a *attempt) complete(ctx context.Context, rest events.JobAdvanced, result model.Result) error {
	return a.store.Write(ctx, func(tx *events.Tx) error {
		job := a.job
		if len(rest.Tokens) > 0 {
			var err error
			if job, err = tx.AppendJob(ctx, job, rest); err != nil {
				return err
			}
		}
		end := time.Now()
		completed := events.JobCompleted{
			FinishReason: result.FinishReason,
			Usage: events.Usage{
				PromptTokens:     job.PromptTokens,
				CompletionTokens: len(job.Tokens),
				TotalTokens:      job.PromptTokens + len(job.Tokens),
			},
			Timings: events.Timings{
				QueuedMS: job.StartedAt.Sub(job.AcceptedAt).Milliseconds(),
				TotalMS:  end.Sub(job.AcceptedAt).Milliseconds(),
			},
		}
		if !job.FirstTokenAt.IsZero() {
			completed.Timings.FirstTokenMS = job.FirstTokenAt.Sub(job.AcceptedAt).Milliseconds()
		}
		job, err := tx.AppendJob(ctx, job, completed)
		if err != nil {
			return err
		}
		if _, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx.Tx, a.river); err != nil {
			return err
		}
		a.job = job
		return nil
	})
}
