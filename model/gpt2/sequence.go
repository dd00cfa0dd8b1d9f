package gpt2

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"colophon/model"
)

// A sequence implements [model.Sequence]. The engine's mutex guards the fields that the
// computing goroutine and the caller share. From submit until the computing goroutine
// sends on done, only that goroutine may use logits. At all other times, only the caller
// may.
type sequence struct {
	engine *Engine
	logits [][]float32 // as many as a call has wanted so far, each of shape [Vocab]
	done   chan error  // receives the error of each call of NextEach that needs a step, or nil
	err    error       // the first error of NextEach, which every later call returns too

	cache        cache
	prefix       *prefix       // last shared page of the cache, or the root of the scope; nil if the sequence uses no prefix cache
	tail         []int         // tokens in the cache after the shared pages; unused if prefix is nil
	tokens       []int         // tokens passed to the last call of NextEach
	wanted       int           // number of the last of these tokens whose logits the caller wants
	computed     int           // number of elements of tokens that are in the cache
	inStep       int           // number of elements of tokens that the current step computes
	guesses      []model.Guess // of the tokens after those of the next call
	draft        []int         // draft tokens of the last step
	accepted     int           // number of these tokens that the sequence has gone on with
	finishedStep uint64        // number of the step that computed the last element of tokens
	decoding     bool          // true if a call that wanted only the last logits has returned
	abandoned    bool          // true if the caller no longer waits for logits
	closed       bool
}

// Next implements [model.Sequence].
func (s *sequence) Next(ctx context.Context, tokens ...int) ([]float32, error) {
	logits, err := s.NextEach(ctx, 1, tokens...)
	if err != nil {
		return nil, err
	}
	return logits[0], nil
}

// NextEach implements [model.Sequence].
func (s *sequence) NextEach(ctx context.Context, n int, tokens ...int) ([][]float32, error) {
	if s.err == nil {
		s.err = s.next(ctx, n, tokens)
	}
	if s.err != nil {
		return nil, s.err
	}
	return s.logits[s.accepted:][:n], nil
}

func (s *sequence) next(ctx context.Context, n int, tokens []int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if ready, err := s.submit(n, tokens); ready || err != nil {
		return err
	}
	select {
	case err := <-s.done:
		return err
	case <-ctx.Done():
		s.abandon()
		return ctx.Err()
	}
}

// submit queues the sequence with tokens to compute. The caller wants the logits of the last
// n of them. If these logits are there already, submit returns true.
func (s *sequence) submit(n int, tokens []int) (ready bool, err error) {
	e := s.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case s.closed:
		return false, errors.New("sequence is closed")
	case e.closed:
		return false, ErrClosed
	}
	if err := cmp.Or(e.info.CheckTokens(s.cache.tokens, tokens), model.CheckWanted(n, tokens)); err != nil {
		return false, err
	}
	if s.goesOn(tokens) {
		return true, nil
	}
	s.takeBack()
	for len(s.logits) < n {
		s.logits = append(s.logits, make([]float32, e.info.Vocab))
	}
	s.tokens, s.computed, s.wanted = append(s.tokens[:0], tokens...), 0, n
	e.queue = append(e.queue, s)
	s.returned()
	return false, nil
}

// returned tells the computing goroutine that the sequence is no longer expected to
// call Next. The engine's mutex must be held.
func (s *sequence) returned() {
	e := s.engine
	if s.finishedStep > 0 && s.finishedStep == e.step {
		e.expected--
		s.finishedStep = 0
	}
	e.signal()
}

// abandon marks the sequence as abandoned and removes its tokens from the queue. If the
// current step computes some of these tokens, finish removes them after the step.
func (s *sequence) abandon() {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	s.unqueue()
}

// unqueue marks the sequence as abandoned and removes it from the queue, unless
// the current step computes it. The engine's mutex must be held.
func (s *sequence) unqueue() {
	s.abandoned = true
	if s.inStep == 0 {
		s.engine.queue = slices.DeleteFunc(s.engine.queue, func(q *sequence) bool { return q == s })
	}
}

// Close implements [model.Sequence].
func (s *sequence) Close() {
	e := s.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.unqueue()
	s.returned()
	if s.inStep == 0 {
		e.release(s)
	}
}
