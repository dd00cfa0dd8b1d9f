package gpt2

import (
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"colophon/model"
	"colophon/model/kernel"
)

// compute plans and computes a step. It returns the step's panic, or nil. A step that has
// panicked can be computed again, because finish has not counted its tokens.
func (e *Engine) compute(f *forward, only *sequence) (failed *model.PanicError) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case *kernel.Panic:
			failed = &model.PanicError{Type: fmt.Sprintf("%T", v.Value), Stack: string(v.Stack)}
		default:
			failed = &model.PanicError{Type: fmt.Sprintf("%T", v), Stack: string(debug.Stack())}
		}
	}()
	e.plan(f, only)
	f.run()
	return nil
}

// isolate computes the sequences of a step that has panicked, each in a step of its own.
// The sequences that panic again fail, and the others go on.
func (e *Engine) isolate(f *forward) {
	for _, s := range e.suspects() {
		start := time.Now()
		if failed := e.compute(f, s); failed != nil {
			e.fail(s, failed)
			continue
		}
		e.finish(time.Since(start), f.times)
	}
}

// suspects takes back a step that has panicked, and returns its sequences.
func (e *Engine) suspects() []*sequence {
	e.mu.Lock()
	defer e.mu.Unlock()
	var suspects []*sequence
	e.queue = slices.DeleteFunc(e.queue, func(s *sequence) bool {
		inStep := s.inStep > 0
		s.inStep = 0
		switch {
		case s.abandoned && s.closed:
			e.release(s)
		case !s.abandoned && inStep:
			suspects = append(suspects, s)
		}
		return s.abandoned
	})
	if len(suspects) == 0 { // plan panicked before it chose a sequence
		suspects = slices.Clone(e.queue)
	}
	return suspects
}

// fail ends a sequence with an error, unless its caller has left.
func (e *Engine) fail(s *sequence, failed *model.PanicError) {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.Index(e.queue, s)
	if i < 0 {
		return
	}
	e.queue = slices.Delete(e.queue, i, i+1)
	s.inStep = 0
	switch {
	case !s.abandoned:
		s.done <- failed
	case s.closed:
		e.release(s)
	}
}
