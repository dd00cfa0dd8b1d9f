package jobs

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/model"
	"colophon/model/watermark"
)

// outcome is the result of generating a text.
type outcome struct {
	finishReason string
	last         model.Delta // the final delta, which is not released
	err          error
}

// generateText generates the rest of a job's text by all rules: those of the sampler, the
// watermark, the stop strings and the text policy. The parameter mark is the key of the
// watermark, or nil for a text without a mark. generateText passes each delta that the
// holdback buffer releases to release. Workers and replays both run this function, so they
// apply the same rules. If the engine or release panics, the error of the outcome is a
// [model.PanicError].
func generateText(ctx context.Context, e model.Engine, rules *policy.Rules, mark *watermark.Key, job events.Job, release func(model.Delta) error) (out outcome) {
	defer func() {
		if p := recover(); p != nil {
			out.err = &model.PanicError{Type: fmt.Sprintf("%T", p), Stack: string(debug.Stack())}
		}
	}()
	buffer := newHoldback(rules, e, job)
	if !buffer.refused {
		prompt, params := encodePrompt(e.Encode, e.Info().EOS, job.Template, job.Prompt), job.Params
		if mark != nil {
			params.Choose = mark.Chooser(params.Seed, prompt)
		}
		var result model.Result
		result, out.err = model.Generate(ctx, e, prompt, job.Tokens, params, func(d model.Delta) error {
			d, ok, err := buffer.add(d)
			if !ok {
				return err
			}
			return release(d)
		})
		if out.err != nil && !errors.Is(out.err, errRefused) {
			return out
		}
		out = outcome{finishReason: result.FinishReason}
	}
	var refused bool
	if out.last, refused = buffer.end(); refused {
		out.finishReason = model.FinishContentFilter
	}
	return out
}
