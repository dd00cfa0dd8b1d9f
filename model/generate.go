package model

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

var (
	// ErrContext is returned when more tokens are asked for than fit the
	// context of the engine.
	ErrContext = errors.New("too many tokens for the context")

	// ErrToken is returned for a token id that the engine does not have.
	ErrToken = errors.New("no such token")

	// ErrPrompt is returned for a prompt without tokens.
	ErrPrompt = errors.New("prompt has no tokens")
)

// The reasons why a generation finished.
const (
	FinishStop   = "stop"   // the end-of-text token, or a stop string
	FinishLength = "length" // as many tokens as were asked for

	// FinishContentFilter is not Generate's: who takes its deltas found that the
	// text must not go on.
	FinishContentFilter = "content_filter"
)

// A Delta is a piece of a generation: tokens, and the text that they add.
type Delta struct {
	Tokens []int
	Text   string
}

// Result says how a generation ended.
type Result struct {
	FinishReason     string
	PromptTokens     int
	CompletionTokens int // those of all deltas, with the ones of the past
}

// Generate continues a prompt, passing what it generates to emit piece by piece.
//
// It ends when p.MaxTokens tokens have been generated, or with the end-of-text
// token of the engine, which is neither among the tokens nor in the text, or
// when the text contains one of p.Stop. Of several stop strings, the one whose
// end comes first counts, and of several that end there, the longest; the text
// then ends before it, while the tokens include those that spell it.
//
// The tokens of all deltas, decoded by [Text] up to a stop string, are the text
// of all deltas. A delta is emitted as soon as its text is certain: it ends
// between two tokens where a character ends and no stop string can have begun.
// Only the last delta may end elsewhere. Its slice of tokens is emit's to keep.
//
// A generation that was interrupted is continued by passing the tokens of the
// deltas emitted so far as past. What is then emitted is exactly what an
// uninterrupted generation would have emitted after them.
//
// Errors wrap [ErrParams], [ErrPrompt], [ErrToken] or [ErrContext] if what was
// asked for is at fault; otherwise they come from ctx, from the engine or from
// emit, and what has been emitted can be continued. The engine's Decode must
// give the bytes of its ids one after the other.
func Generate(ctx context.Context, e Engine, prompt, past []int, p Params, emit func(Delta) error) (Result, error) {
	result := Result{PromptTokens: len(prompt), CompletionTokens: len(past)}
	sampler, err := NewSampler(p)
	if err != nil {
		return result, err
	}
	info := e.Info()
	if err := check(info, prompt, past, p); err != nil {
		return result, err
	}
	out := newOutput(p.Stop)
	if out.resume(e.Decode(past), len(past) >= p.MaxTokens) {
		result.FinishReason = FinishStop
		return result, nil
	}
	if len(past) >= p.MaxTokens {
		result.FinishReason = FinishLength
		return result, nil
	}
	seq, err := e.Open(ctx)
	if err != nil {
		return result, err
	}
	defer seq.Close()
	next := append(slices.Clone(prompt), past...)
	for result.FinishReason == "" {
		if err := ctx.Err(); err != nil {
			return result, err
		}
		logits, err := seq.Next(ctx, next...)
		if err != nil {
			return result, err
		}
		token, err := sampler.Sample(logits, result.CompletionTokens)
		if err != nil {
			return result, err
		}
		if token == info.EOS {
			result.FinishReason = FinishStop
			break
		}
		next = append(next[:0], token)
		result.CompletionTokens++
		switch {
		case out.add(token, e.Decode(next)):
			result.FinishReason = FinishStop
		case result.CompletionTokens == p.MaxTokens:
			result.FinishReason = FinishLength
		default:
			if d, ok := out.certain(); ok {
				if err := emit(d); err != nil {
					return result, err
				}
			}
		}
	}
	d, ok, found := out.finish()
	if found {
		result.FinishReason = FinishStop
	}
	if ok {
		err = emit(d)
	}
	return result, err
}

func check(info Info, prompt, past []int, p Params) error {
	if len(prompt) == 0 {
		return ErrPrompt
	}
	for _, tokens := range [][]int{prompt, past} {
		if err := info.checkVocab(tokens); err != nil {
			return err
		}
	}
	if len(prompt) > info.Context-min(p.MaxTokens, info.Context) {
		return fmt.Errorf("%w: %d of the prompt and %d to generate, the model has room for %d",
			ErrContext, len(prompt), p.MaxTokens, info.Context)
	}
	return nil
}
