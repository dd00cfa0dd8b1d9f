package gpt2

import (
	"context"
	"errors"
	"slices"
)

// A sequence implements [model.Sequence]. What the computing goroutine shares
// with the caller's is guarded by the engine's mutex; the logits belong to the
// one from Next to done and to the other from done to Next.
type sequence struct {
	engine *Engine
	logits []float32
	done   chan error // the outcome of Next
	err    error      // why Next may not be called any more

	cache    cache
	tokens   []int  // those of the last call of Next
	fed      int    // how many of them have been computed
	rows     int    // how many of them are being computed
	finished uint64 // the step that computed the last of them
	running  bool   // it has had logits
	gone     bool   // nobody waits for them any more
	closed   bool
}

// Next implements [model.Sequence].
func (s *sequence) Next(ctx context.Context, tokens ...int) ([]float32, error) {
	if s.err == nil {
		s.err = s.next(ctx, tokens)
	}
	if s.err != nil {
		return nil, s.err
	}
	return s.logits, nil
}

func (s *sequence) next(ctx context.Context, tokens []int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.submit(tokens); err != nil {
		return err
	}
	select {
	case err := <-s.done:
		return err
	case <-ctx.Done():
		s.engine.withdraw(s)
		return ctx.Err()
	}
}

// submit puts tokens into the queue.
func (s *sequence) submit(tokens []int) error {
	e := s.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case s.closed:
		return errors.New("sequence is closed")
	case e.closed:
		return ErrClosed
	}
	if err := e.info.CheckTokens(s.cache.tokens, tokens); err != nil {
		return err
	}
	s.tokens, s.fed = append(s.tokens[:0], tokens...), 0
	e.queue = append(e.queue, s)
	e.back(s)
	return nil
}

// back counts a sequence that the last step finished as no longer due, and
// wakes the computing goroutine.
func (e *Engine) back(s *sequence) {
	if s.finished > 0 && s.finished == e.step {
		e.due--
		s.finished = 0
	}
	e.signal()
}

// withdraw gives up on the tokens in the queue. A step that has some of them is
// not disturbed: finish then does the rest.
func (e *Engine) withdraw(s *sequence) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.drop(s)
}

func (e *Engine) drop(s *sequence) {
	s.gone = true
	if s.rows == 0 {
		e.queue = slices.DeleteFunc(e.queue, func(q *sequence) bool { return q == s })
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
	e.drop(s)
	e.back(s)
	if s.rows == 0 {
		e.release(s)
	}
}
