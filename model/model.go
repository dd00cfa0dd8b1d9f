// Package model defines text-generation engines and generates text with them.
//
// An [Engine] computes logits from tokens, and [Generate] samples the next token from
// the logits. A text depends only on the prompt, the [Params] and the properties in the
// engine's [Info]. So the same inputs give the same text. An interrupted text can be
// continued from its tokens, and the rest is the same as without the interruption.
//
// The package has no state. An Engine is safe for concurrent use. A [Sequence] must be
// used by only one goroutine at a time.
package model

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Info identifies an engine. Two engines with equal Info give the same bytes.
type Info struct {
	Name    string `json:"name"`               // name of the model, such as "gpt2"
	Weights string `json:"weights"`            // digest of the weights and their format, such as "sha256:248d…/f32"; a network that differs from GPT-2's arithmetic is named too, as in "sha256:248d…/f32+relu"
	Kernel  string `json:"kernel"`             // fingerprint of the engine's arithmetic, such as "avx2-fma/1"
	Context int    `json:"context"`            // largest number of tokens in a sequence, prompt included
	Vocab   int    `json:"vocab"`              // number of token ids
	EOS     int    `json:"eos"`                // id of the token that ends a text, or -1 if there is none
	MoreEOS []int  `json:"more_eos,omitempty"` // ids of the other tokens that end a text
}

// Ends reports whether a token ends a text.
func (i Info) Ends(token int) bool { return token == i.EOS || slices.Contains(i.MoreEOS, token) }

// Digest returns the digest of the weights without their format.
func (i Info) Digest() string {
	digest, _, _ := strings.Cut(i.Weights, "/")
	return digest
}

// CheckTokens returns the error that [Sequence.Next] returns for tokens after a
// sequence of the given length. The error wraps [ErrToken] for an unknown id, and
// [ErrContext] if the tokens do not fit. An empty list of tokens is an error too.
func (i Info) CheckTokens(length int, tokens []int) error {
	switch {
	case len(tokens) == 0:
		return errors.New("no tokens to compute")
	case len(tokens) > i.Context-length:
		return fmt.Errorf("%w: %d tokens, the model has room for %d", ErrContext, length+len(tokens), i.Context)
	}
	return i.checkVocab(tokens)
}

// CheckWanted returns the error that [Sequence.NextEach] returns if n is not from 1 to the
// number of tokens.
func CheckWanted(n int, tokens []int) error {
	if n < 1 || n > len(tokens) {
		return fmt.Errorf("logits after %d of %d tokens wanted", n, len(tokens))
	}
	return nil
}

func (i Info) checkVocab(tokens []int) error {
	for _, t := range tokens {
		if t < 0 || t >= i.Vocab {
			return fmt.Errorf("%w: %d, the model has %d", ErrToken, t, i.Vocab)
		}
	}
	return nil
}

// An Engine computes the logits of token sequences. It is safe for concurrent use.
//
// The bits of the logits depend only on the tokens of their sequence. Other sequences
// make no difference, and neither does the split of the tokens between calls of Next.
type Engine interface {
	Info() Info

	// Encode returns the token ids of text. Text that spells a special token is
	// ordinary text. If the vocabulary lacks a byte of the text, an id is one that
	// [Info.CheckTokens] refuses.
	Encode(text string) []int

	// Decode returns the bytes of all ids, one id after the other. The bytes may end in
	// the middle of a UTF-8 character.
	Decode(ids []int) []byte

	// Open starts an empty sequence. If the engine has no room for another sequence,
	// Open waits until there is room or ctx is done. The engine may reuse what it has
	// computed for earlier sequences of the same scope, which changes the time of a call
	// and never its result. Sequences of the scope "" share nothing.
	Open(ctx context.Context, scope string) (Sequence, error)
}

// PanicError is the error of a sequence whose computation panicked. The engine works on
// with its other sequences. The error has no values, because these may come from a prompt.
type PanicError struct {
	Type  string // Go type of the panic's value
	Stack string // stack of the goroutine that panicked
}

func (e *PanicError) Error() string { return "the engine panicked: " + e.Type }

// A Sequence is a growing list of tokens for which an [Engine] computes logits.
type Sequence interface {
	// Next appends tokens and returns the logits of the token that follows them. The
	// slice has one logit for each token id and is valid until the next call. If
	// [Info.CheckTokens] returns an error for the tokens, Next returns that error.
	// After an error, every later call returns the same error.
	Next(ctx context.Context, tokens ...int) ([]float32, error)

	// NextEach appends tokens like Next, and returns the logits that follow each of the
	// last n of them, with the bits that Next returns after each of them. The slices are
	// valid until the next call. They need memory for n logits of each token id, so long
	// texts are computed in parts. n must be from 1 to the number of tokens.
	NextEach(ctx context.Context, n int, tokens ...int) ([][]float32, error)

	// Expect passes guesses of the tokens that will follow those of the next call. The sequence
	// may compute the logits after some of them in the same step, so that a caller that goes on
	// with a guess gets its logits at once. Guesses make no other difference. Expect keeps no slice.
	// It returns false while the sequence would use no guesses.
	Expect(guesses []Guess) bool

	// Close frees the sequence. It is safe to call twice.
	Close()
}
