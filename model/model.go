// Package model says what a text generator is and turns one into text.
//
// An [Engine] maps token sequences to logits; [Generate] samples from them.
// Everything a text depends on is in the prompt, the [Params] and the engine's
// [Info]: there is no hidden randomness, so the same inputs give the same text,
// and a text that was interrupted can be continued from the tokens it already
// has without changing one of those that follow.
//
// The package has no state. An Engine is safe for concurrent use; a [Sequence]
// belongs to one goroutine at a time.
package model

import (
	"context"
	"errors"
	"fmt"
)

// Params decide, together with the prompt and the weights, every token of a text.
type Params struct {
	MaxTokens   int      `json:"max_tokens"`  // most tokens to generate, at least 1
	Temperature float64  `json:"temperature"` // 0 always takes the likeliest token
	TopK        int      `json:"top_k"`       // sample from the k likeliest tokens; 0 means all
	TopP        float64  `json:"top_p"`       // sample from the likeliest tokens that add up to p; 1 means all
	Seed        uint64   `json:"seed"`        // selects one of the possible texts
	Stop        []string `json:"-"`           // the text ends before the first of these; not in JSON because it is the user's text
}

// Info identifies an engine closely enough to tell whether another one would
// give the same bytes.
type Info struct {
	Name    string `json:"name"`    // what people call the model, such as "gpt2"
	Weights string `json:"weights"` // digest of the weights and the type they are computed in, such as "sha256:248d…/f32"
	Kernel  string `json:"kernel"`  // fingerprint of the arithmetic, such as "go/amd64"
	Context int    `json:"context"` // most tokens in a sequence, prompt included
	Vocab   int    `json:"vocab"`   // number of token ids
	EOS     int    `json:"eos"`     // the id that ends a text, or -1
}

// CheckTokens returns the error that [Sequence.Next] owes for tokens that are to
// follow a sequence of the given length: it wraps [ErrToken] for an id that the
// engine does not have, or [ErrContext] for more tokens than fit.
func (i Info) CheckTokens(length int, tokens []int) error {
	switch {
	case len(tokens) == 0:
		return errors.New("no tokens to compute")
	case len(tokens) > i.Context-length:
		return fmt.Errorf("%w: %d tokens, the model has room for %d", ErrContext, length+len(tokens), i.Context)
	}
	return i.checkVocab(tokens)
}

func (i Info) checkVocab(tokens []int) error {
	for _, t := range tokens {
		if t < 0 || t >= i.Vocab {
			return fmt.Errorf("%w: %d, the model has %d", ErrToken, t, i.Vocab)
		}
	}
	return nil
}

// An Engine computes what may come next in token sequences.
//
// The logits of a sequence depend on its tokens alone: not on how they were
// split between calls of Next, and not on what other sequences are computed at
// the same time.
type Engine interface {
	Info() Info

	// Encode returns the token ids of text. Text that spells a special token
	// is ordinary text.
	Encode(text string) []int

	// Decode returns the bytes that ids stand for, one id after the other; they
	// may end in the middle of a UTF-8 character.
	Decode(ids []int) []byte

	// Open starts an empty sequence. It waits, until ctx is done, when the
	// engine has no room for another one.
	Open(ctx context.Context) (Sequence, error)
}

// A Sequence is a row of tokens that grows at its end.
type Sequence interface {
	// Next appends tokens and returns the logits, one per token id, of the
	// token that follows them. The slice is valid until the next call.
	// [Info.CheckTokens] says which tokens are refused. After an error, every
	// later call returns that error.
	Next(ctx context.Context, tokens ...int) ([]float32, error)

	// Close frees what the sequence holds. It is safe to call twice.
	Close()
}
