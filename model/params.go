package model

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"unicode/utf8"
)

// Params are the sampling parameters of a text. [Params.Validate] checks that they are
// valid, and [Sampler] says in which order they apply. In JSON, a parameter that changes
// nothing is left out, except those that were in the first release.
type Params struct {
	MaxTokens   int     `json:"max_tokens"`  // largest number of tokens to generate, at least 1
	Temperature float64 `json:"temperature"` // divisor of the logits; 0 always takes the likeliest token
	TopK        int     `json:"top_k"`       // sample from the k likeliest tokens; 0 means all
	TopP        float64 `json:"top_p"`       // sample from the likeliest tokens whose probabilities add up to p; 1 means all
	Seed        uint64  `json:"seed"`        // seed of the random numbers that choose tokens

	PresencePenalty   float64         `json:"presence_penalty,omitempty"`   // subtracted from the logits of tokens that the text has, -2 to 2; 0 changes nothing
	FrequencyPenalty  float64         `json:"frequency_penalty,omitempty"`  // subtracted from the logit of a token for each time that the text has it, -2 to 2; 0 changes nothing
	RepetitionPenalty float64         `json:"repetition_penalty,omitempty"` // makes tokens of the prompt and the text less likely if above 1, MinRepetitionPenalty to 2; 0 and 1 change nothing
	MinP              float64         `json:"min_p,omitempty"`              // sample from the tokens with at least this share of the highest probability, 0 to 1; 0 means all
	LogitBias         map[int]float64 `json:"logit_bias,omitempty"`         // added to the logits of tokens by their ids, -100 to 100 each; at most MaxLogitBias entries
	MinTokens         int             `json:"min_tokens,omitempty"`         // number of tokens before which neither the end-of-text token nor a stop string ends the text, at most MaxTokens

	Logprobs *int `json:"logprobs,omitempty"` // number of alternatives whose log probabilities the text has, beside those of its own tokens, 0 to MaxLogprobs; nil for a text without any

	Stop   []string `json:"-"` // the text ends before the first of these strings; not in JSON, because they are the user's text
	Choose Chooser  `json:"-"` // chooses tokens in place of the random numbers, if not nil; never asked with temperature 0
	Scope  string   `json:"-"` // an engine may reuse what it has computed for texts of the same scope; "" for none
}

const (
	// MaxLogitBias is the largest number of entries of logit_bias. It is the number that
	// OpenAI's clients count on. The record of a job has all entries, about 20 kB of them.
	MaxLogitBias = 1024

	// MinRepetitionPenalty is the smallest repetition penalty. With it, a logit becomes 100
	// times as large, which is far from the limit of float32 for any model.
	MinRepetitionPenalty = 0.01

	// MaxRepetitionPenalty is the largest repetition penalty. The published value is 1.2, and
	// at 2 texts fall apart already.
	MaxRepetitionPenalty = 2
)

// ErrParams is returned for invalid Params.
var ErrParams = errors.New("invalid parameters")

// Validate returns an error that wraps [ErrParams] and names the first invalid
// field. It does not know the vocabulary; see [Info.CheckBias].
func (p Params) Validate() error {
	within := func(x, low, high float64) bool { return x >= low && x <= high } // false for NaN
	switch {
	case p.MaxTokens < 1:
		return fmt.Errorf("%w: max_tokens is %d, want at least 1", ErrParams, p.MaxTokens)
	case !within(p.Temperature, 0, math.MaxFloat64):
		return fmt.Errorf("%w: temperature is %g, want 0 or more", ErrParams, p.Temperature)
	case p.TopK < 0:
		return fmt.Errorf("%w: top_k is %d, want 0 or more", ErrParams, p.TopK)
	case !within(p.TopP, 0, 1):
		return fmt.Errorf("%w: top_p is %g, want 0 to 1", ErrParams, p.TopP)
	case !within(p.PresencePenalty, -2, 2):
		return fmt.Errorf("%w: presence_penalty is %g, want -2 to 2", ErrParams, p.PresencePenalty)
	case !within(p.FrequencyPenalty, -2, 2):
		return fmt.Errorf("%w: frequency_penalty is %g, want -2 to 2", ErrParams, p.FrequencyPenalty)
	case p.RepetitionPenalty != 0 && !within(p.RepetitionPenalty, MinRepetitionPenalty, MaxRepetitionPenalty):
		return fmt.Errorf("%w: repetition_penalty is %g, want %g to %d", ErrParams, p.RepetitionPenalty, MinRepetitionPenalty, MaxRepetitionPenalty)
	case !within(p.MinP, 0, 1):
		return fmt.Errorf("%w: min_p is %g, want 0 to 1", ErrParams, p.MinP)
	case len(p.LogitBias) > MaxLogitBias:
		return fmt.Errorf("%w: logit_bias has %d entries, want at most %d", ErrParams, len(p.LogitBias), MaxLogitBias)
	case p.Logprobs != nil && (*p.Logprobs < 0 || *p.Logprobs > MaxLogprobs):
		return fmt.Errorf("%w: logprobs is %d, want 0 to %d", ErrParams, *p.Logprobs, MaxLogprobs)
	case p.MinTokens < 0 || p.MinTokens > p.MaxTokens:
		return fmt.Errorf("%w: min_tokens is %d, want 0 to max_tokens, which is %d", ErrParams, p.MinTokens, p.MaxTokens)
	}
	for _, token := range slices.Sorted(maps.Keys(p.LogitBias)) {
		if b := p.LogitBias[token]; token < 0 || !within(b, -100, 100) {
			return fmt.Errorf("%w: logit_bias has %g for token %d, want -100 to 100 for an id", ErrParams, b, token)
		}
	}
	for _, s := range p.Stop {
		if s == "" || !utf8.ValidString(s) {
			return fmt.Errorf("%w: a stop string is empty or not UTF-8", ErrParams)
		}
	}
	return nil
}

// CheckBias returns an error that wraps [ErrParams] if a bias is for a token that the engine
// does not have.
func (i Info) CheckBias(bias map[int]float64) error {
	for _, token := range slices.Sorted(maps.Keys(bias)) {
		if token < 0 || token >= i.Vocab {
			return fmt.Errorf("%w: logit_bias is for token %d, the model has %d", ErrParams, token, i.Vocab)
		}
	}
	return nil
}
