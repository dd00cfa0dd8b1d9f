package jobs

import (
	"context"
	"fmt"
	"slices"

	"colophon/model"
)

// foresight is an engine that knows which tokens will be sampled, if the record is right. Its
// sequence computes several recorded tokens at once, which is faster than one by one and
// gives the same bits. A token that differs from the record ends the sequence with a
// wrongToken error, so no logits that follow a wrong token are used.
type foresight struct {
	model.Engine
	recorded []int // tokens that follow those of the first call of Next
	ahead    int   // number of positions computed at once, at least 1
}

// wrongToken is the error for a sampled token that is not the recorded one.
type wrongToken struct{ index int }

func (e *wrongToken) Error() string { return fmt.Sprintf("token %d is not the recorded one", e.index) }

// Open implements [model.Engine].
func (f *foresight) Open(ctx context.Context, scope string) (model.Sequence, error) {
	s, err := f.Engine.Open(ctx, scope)
	if err != nil {
		return nil, err
	}
	// The engine refuses tokens that are not in its vocabulary. The sampler does not choose
	// them either, so the first of them is found to differ.
	usable := f.recorded
	if i := slices.IndexFunc(usable, func(token int) bool { return token < 0 || token >= f.Info().Vocab }); i >= 0 {
		usable = usable[:i]
	}
	return &foreseen{Sequence: s, foresight: f, usable: usable, at: -1}, nil
}

// foreseen is a sequence of a foresight.
type foreseen struct {
	model.Sequence
	*foresight
	usable []int       // recorded tokens that can be computed
	at     int         // index of the recorded token that the next call of Next must have; -1 before the first call
	logits [][]float32 // logits of the next positions, the next one first
}

// Next implements [model.Sequence]. The first call has the prompt, and each other call has
// one token.
func (s *foreseen) Next(ctx context.Context, tokens ...int) ([]float32, error) {
	if s.at >= 0 && s.at < len(s.recorded) && tokens[0] != s.recorded[s.at] {
		return nil, &wrongToken{s.at}
	}
	s.at++
	if len(s.logits) == 0 {
		// The given tokens are computed, and recorded tokens after them. Each position is
		// the one after a token, so the position of the last given token is among them.
		more := s.usable[min(s.at, len(s.usable)):]
		more = more[:min(s.ahead-1, len(more))]
		var err error
		if s.logits, err = s.NextEach(ctx, 1+len(more), slices.Concat(tokens, more)...); err != nil {
			return nil, err
		}
	}
	next := s.logits[0]
	s.logits = s.logits[1:]
	return next, nil
}

// Expect implements [model.Sequence]. The recorded tokens are better than guesses.
func (s *foreseen) Expect([]model.Guess) bool { return false }
