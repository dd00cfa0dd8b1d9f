package gpt2

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"colophon/model/kernel"
)

// TestEveryPageHasOnePlace opens, cuts off, closes and forgets sequences of three owners at the
// same time. Their logits must stay those of the text. In the end, each page must be free or in
// the cache, and in one place only: a page with two users would mix the texts of two owners.
//
// security: ASVS 15.4.2
func TestEveryPageHasOnePlace(t *testing.T) {
	e := cachingEngine(t, 3)
	texts := someTexts(t, smallShape(), kernel.Int8)
	scopes := []string{"", "one", "two", "three"}
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			for range 12 {
				scope, x := scopes[rnd.IntN(len(scopes))], texts[rnd.IntN(len(texts))]
				ctx, cancel := context.WithCancel(t.Context())
				switch rnd.IntN(5) {
				case 0:
					cancel()
				case 1:
					timer := time.AfterFunc(time.Duration(rnd.IntN(2000))*time.Microsecond, cancel)
					defer timer.Stop()
				case 2:
					e.Forget(scope)
				}
				if err := compareUntil(ctx, e, scope, x, rnd); err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	running.Wait()
	// The step in which the last sequences were abandoned ends before this one.
	run(t, e, "", texts[0].ids)
	e.mu.Lock()
	defer e.mu.Unlock()
	places := map[*kernel.Panels]int{}
	for _, p := range e.free {
		places[p]++
	}
	unused := 0
	var walk func(*prefix)
	walk = func(p *prefix) {
		if p.users != 0 || p.page != nil && p.element == nil {
			t.Errorf("a page has %d users", p.users)
		}
		if p.page != nil {
			places[p.page]++
			unused++
		}
		for _, child := range p.children {
			walk(child)
		}
	}
	for _, root := range e.prefixes.scopes {
		walk(root)
	}
	for _, n := range places {
		if n != 1 {
			t.Errorf("a page is in %d places", n)
		}
	}
	if unused != e.prefixes.unused.Len() || unused > 3 || len(e.slots) != 0 || e.decoding != 0 {
		t.Errorf("%d pages in the trees, %d unused, %d open sequences, %d of them decode", unused, e.prefixes.unused.Len(), len(e.slots), e.decoding)
	}
}

// compareUntil computes a text in random parts until ctx is done.
func compareUntil(ctx context.Context, e *Engine, scope string, x text, rnd *rand.Rand) error {
	s, err := e.Open(ctx, scope)
	if err != nil {
		return err
	}
	defer s.Close()
	for at := 0; at < len(x.ids); {
		n := 1 + rnd.IntN(len(x.ids)-at)
		logits, err := s.Next(ctx, x.ids[at:at+n]...)
		if err != nil {
			return err
		}
		if at += n; !slices.EqualFunc([][]float32{logits}, x.want[at-1:at], bitsEqual) {
			return errors.New("the logits have other bits")
		}
	}
	return nil
}
