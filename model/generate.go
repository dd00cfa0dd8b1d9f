package model

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

var (
	// ErrContext is returned for more tokens than fit into the context of the engine.
	ErrContext = errors.New("too many tokens for the context")

	// ErrToken is returned for a token id that is not in the engine's vocabulary.
	ErrToken = errors.New("no such token")

	// ErrPrompt is returned for a prompt without tokens.
	ErrPrompt = errors.New("prompt has no tokens")
)

// These are the reasons why a generation finishes.
const (
	FinishStop   = "stop"   // the end-of-text token or a stop string was generated
	FinishLength = "length" // MaxTokens tokens were generated

	// FinishContentFilter is the reason to report if a caller of Generate ends a text
	// because of its content. Generate itself never returns it.
	FinishContentFilter = "content_filter"
)

// A Delta is a piece of the output of a generation. It has tokens and the text that
// they add.
type Delta struct {
	Tokens   []int
	Text     string
	Logprobs []TokenLogprobs // those of each of the tokens; nil if the parameters ask for none
}

// Result says how a generation ended.
type Result struct {
	FinishReason     string
	PromptTokens     int
	CompletionTokens int // number of generated tokens, including those in past
}

// Generate continues a prompt and passes the continuation to emit, delta by delta.
//
// Generation ends after p.MaxTokens tokens, at an end-of-text token of the engine, or
// when the text contains one of p.Stop. The end-of-text token is not among the emitted
// tokens and adds no text. If the text contains several stop strings, the stop string
// that ends first counts. If several stop strings end at the same position, the longest
// of them counts. The text ends before this stop string, but the emitted tokens include
// those that spell it.
//
// Before p.MinTokens tokens, only p.MaxTokens ends the text. The sampler does not choose the
// end-of-text token before. A stop string that ends in the text of the first p.MinTokens
// tokens is ordinary text for ever. A stop string that begins there and ends later counts, as
// in vLLM. So the text may be shorter than that of the first p.MinTokens tokens.
//
// The text of all deltas together is the [Text] of their decoded tokens, up to a stop
// string. A delta is emitted as soon as later tokens cannot change its text. A delta
// ends between two tokens, at the end of a character. No stop string can begin in one
// delta and end in a later delta. Only the last delta may end at another position. emit
// may keep the slice of tokens.
//
// To continue an interrupted generation, set past to the tokens already emitted.
// Generate then emits exactly the deltas that would have followed these tokens without
// the interruption.
//
// An error wraps [ErrParams], [ErrPrompt], [ErrToken] or [ErrContext] if an argument is
// invalid. Any other error comes from ctx, the engine or emit. After such an error, the
// generation can be continued.
func Generate(ctx context.Context, e Engine, prompt, past []int, p Params, emit func(Delta) error) (Result, error) {
	result := Result{PromptTokens: len(prompt), CompletionTokens: len(past)}
	info := e.Info()
	sampler, err := NewSampler(p, prompt, append([]int{info.EOS}, info.MoreEOS...)...)
	if err != nil {
		return result, err
	}
	if err := check(info, prompt, past, p); err != nil {
		return result, err
	}
	held := newHoldback(p.Stop, p.MinTokens)
	if held.resume(past, e.Decode, len(past) >= p.MaxTokens) {
		result.FinishReason = FinishStop
		return result, nil
	}
	if len(past) >= p.MaxTokens {
		result.FinishReason = FinishLength
		return result, nil
	}
	seq, err := e.Open(ctx, p.Scope)
	if err != nil {
		return result, err
	}
	defer seq.Close()
	next := append(slices.Clone(prompt), past...)
	generated := slices.Clone(past)
	guesses := newDrafter(sampler, info.Ends, prompt, past)
	useful := seq.Expect(nil)
	for result.FinishReason == "" {
		if err := ctx.Err(); err != nil {
			return result, err
		}
		if useful {
			useful = seq.Expect(guesses.draft(p.MaxTokens - result.CompletionTokens - 1))
		} else {
			useful = seq.Expect(nil)
		}
		logits, err := seq.Next(ctx, next...)
		if err != nil {
			return result, err
		}
		token, err := sampler.Sample(logits, generated)
		if err != nil {
			return result, err
		}
		if info.Ends(token) {
			result.FinishReason = FinishStop
			break
		}
		var probs *TokenLogprobs
		if n := p.Logprobs; n != nil {
			probs = new(Logprobs(logits, token, *n))
		}
		next, generated = append(next[:0], token), append(generated, token)
		guesses.add(token, useful)
		result.CompletionTokens++
		switch {
		case held.add(token, e.Decode(next), probs):
			result.FinishReason = FinishStop
		case result.CompletionTokens == p.MaxTokens:
			result.FinishReason = FinishLength
		default:
			if d, ok := held.certain(); ok {
				if err := emit(d); err != nil {
					return result, err
				}
			}
		}
	}
	d, ok, found := held.finish()
	if found {
		result.FinishReason = FinishStop
	}
	if ok {
		err = emit(d)
	}
	return result, err
}

// check returns an error if the engine cannot continue the prompt with the past tokens.
func check(info Info, prompt, past []int, p Params) error {
	if len(prompt) == 0 {
		return ErrPrompt
	}
	for _, tokens := range [][]int{prompt, past} {
		if err := info.checkVocab(tokens); err != nil {
			return err
		}
	}
	if err := info.CheckBias(p.LogitBias); err != nil {
		return err
	}
	if len(prompt) > info.Context-min(p.MaxTokens, info.Context) {
		return fmt.Errorf("%w: %d of the prompt and %d to generate, the model has room for %d",
			ErrContext, len(prompt), p.MaxTokens, info.Context)
	}
	return nil
}
