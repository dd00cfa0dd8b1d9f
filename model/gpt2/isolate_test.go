package gpt2

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"colophon/model"
	"colophon/model/kernel"
)

// TestPanicEndsOnlyItsSequence computes texts beside sequences whose token makes the step
// panic. These sequences must fail, and the texts must get the same bits as alone.
func TestPanicEndsOnlyItsSequence(t *testing.T) {
	c := smallShape()
	for _, threads := range []int{1, 3} {
		e := randomEngine(t, c, Options{Threads: threads, Sequences: 8})
		const poison = 1 << 20 // the engine accepts this token id, but the network has no embedding for it, so the step panics
		e.info.Vocab = poison + 1
		rnd := rand.New(rand.NewPCG(7, uint64(threads)))
		var wg sync.WaitGroup
		for range 6 {
			ids := randomIDs(rnd, 40, c.Vocab)
			wg.Go(func() {
				s, err := e.Open(t.Context(), "")
				if err != nil {
					t.Error(err)
					return
				}
				defer s.Close()
				for i := 0; i < len(ids); {
					n := min(1+i%5, len(ids)-i)
					logits, err := s.Next(t.Context(), ids[i:i+n]...)
					if err != nil {
						t.Errorf("a text beside a panic: %v", err)
						return
					}
					if i += n; i == len(ids) {
						if want := alone(t, e, ids); !bitsEqual(logits[:c.Vocab], want[len(ids)-1][:c.Vocab]) {
							t.Error("a text beside a panic has other logits")
						}
					}
				}
			})
		}
		for i := range 10 {
			s, err := e.Open(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			ids := append(randomIDs(rnd, i, c.Vocab), poison)
			for range 2 {
				_, err = s.Next(t.Context(), ids...)
				failed, ok := errors.AsType[*model.PanicError](err)
				if !ok || !strings.Contains(failed.Stack, "embed") && !strings.Contains(failed.Stack, "Output") || strings.Contains(err.Error(), fmt.Sprint(poison)) {
					t.Errorf("%d threads: %v, want a panic without its values", threads, err)
				}
			}
			s.Close()
		}
		wg.Wait()
		e.mu.Lock()
		if e.decoding != 0 || len(e.queue) != 0 || len(e.slots) != 0 {
			t.Errorf("%d decoding, %d queued and %d open sequences are left", e.decoding, len(e.queue), len(e.slots))
		}
		e.mu.Unlock()
	}
}

// TestPanicReleasesAbandonedSequences lets the callers of a step leave before the step
// panics. The slots and pages of their sequences must be free afterwards.
func TestPanicReleasesAbandonedSequences(t *testing.T) {
	n, err := load(randomCheckpoint(smallShape(), 1), kernel.F16, 1)
	if err != nil {
		t.Fatal(err)
	}
	e := newEngine(n, nil, Options{Sequences: 4}) // the test computes its steps
	e.info.Vocab = 1 << 21
	pool := kernel.NewPool(1)
	defer pool.Close()
	f := newForward(n, pool, 4+maxPromptTokens, 4)
	open := func(ids ...int) *sequence {
		s, err := e.Open(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.(*sequence).submit(1, ids); err != nil {
			t.Fatal(err)
		}
		return s.(*sequence)
	}
	left, closed, bad, good := open(1), open(1, 2), open(1<<20), open(3)
	e.plan(f, nil)
	left.abandon()
	closed.Close()
	e.isolate(f)
	if err := <-good.done; err != nil {
		t.Error(err)
	}
	if _, ok := errors.AsType[*model.PanicError](<-bad.done); !ok {
		t.Error("the poisoned sequence did not fail")
	}
	for _, s := range []*sequence{left, bad, good} {
		s.Close()
	}
	if len(e.queue) != 0 || len(e.slots) != 0 || slices.ContainsFunc([]*sequence{left, closed, bad, good}, func(s *sequence) bool { return len(s.cache.pages) > 0 }) {
		t.Errorf("%d queued and %d open sequences are left", len(e.queue), len(e.slots))
	}
}
