package gpt2

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"colophon/model/kernel"
)

// pageBytesOf returns the size of a page of the KV cache.
func pageBytesOf(c Config, weights kernel.Format) int64 {
	l := newLayout(c, weights)
	return l.pageBytes()
}

// cachingEngine returns an engine whose prefix cache keeps the given number of unused pages.
func cachingEngine(t testing.TB, pages int) *Engine {
	c := smallShape()
	return randomEngine(t, c, Options{Threads: 2, Sequences: 8, Weights: kernel.Int8, Prefixes: int64(pages) * pageBytesOf(c, kernel.Int8)})
}

// run computes tokens in a sequence of its own, in one call, and returns their last logits.
func run(t testing.TB, e *Engine, scope string, ids []int) []float32 {
	t.Helper()
	s, err := e.Open(t.Context(), scope)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	logits, err := s.Next(t.Context(), ids...)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(logits)
}

// found returns the number of tokens that f finds in the prefix cache.
func found(e *Engine, f func()) int {
	before := e.PrefixStats().Found
	f()
	return e.PrefixStats().Found - before
}

// TestPrefixIsFoundInItsScope computes a text again, and texts that begin like it. Whole pages
// of the same scope are found, except for a page with the last token.
func TestPrefixIsFoundInItsScope(t *testing.T) {
	e := cachingEngine(t, 8)
	rnd := rand.New(rand.NewPCG(1, 1))
	ids := randomIDs(rnd, 2*pageTokens+10, e.info.Vocab)
	other := slices.Clone(ids)
	other[pageTokens] = (other[pageTokens] + 1) % e.info.Vocab
	want := run(t, e, "", ids)
	for _, c := range []struct {
		scope string
		ids   []int
		want  int
	}{
		{"a", ids, 0},
		{"a", ids, 2 * pageTokens},
		{"b", ids, 0},
		{"", ids, 0},
		{"", ids, 0},
		{"a", ids[:pageTokens], 0},
		{"a", ids[:pageTokens+1], pageTokens},
		{"a", ids[:2*pageTokens], pageTokens},
		{"a", other, pageTokens},
		{"a", other, 2 * pageTokens},
		{"a", ids[1:], 0},
	} {
		var logits []float32
		if got := found(e, func() { logits = run(t, e, c.scope, c.ids) }); got != c.want {
			t.Errorf("scope %q, %d tokens: found %d, want %d", c.scope, len(c.ids), got, c.want)
		}
		if slices.Equal(c.ids, ids) && !bitsEqual(logits, want) {
			t.Errorf("scope %q: the logits have other bits", c.scope)
		}
	}
}

// TestGeneratedTokensAreFound continues a text token by token. Then the whole text is found, as
// for a job that another attempt continues.
func TestGeneratedTokensAreFound(t *testing.T) {
	e := cachingEngine(t, 8)
	rnd := rand.New(rand.NewPCG(1, 2))
	ids := randomIDs(rnd, 2*pageTokens+1, e.info.Vocab)
	s, err := e.Open(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if _, err := s.Next(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	// The pages are there before the sequence is closed.
	if got := found(e, func() { run(t, e, "a", ids) }); got != 2*pageTokens {
		t.Errorf("found %d tokens, want %d", got, 2*pageTokens)
	}
	s.Close()
}

// TestPageIsComputedOnce starts sequences with the same first tokens together. One computes
// them, and the others wait for its pages.
func TestPageIsComputedOnce(t *testing.T) {
	const sequences = 6
	e := cachingEngine(t, 8)
	rnd := rand.New(rand.NewPCG(1, 3))
	ids := randomIDs(rnd, 2*pageTokens, e.info.Vocab)
	var opened []*sequence
	for range sequences {
		s, err := e.Open(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		opened = append(opened, s.(*sequence))
	}
	e.mu.Lock() // so that no step begins before all sequences are queued
	var running sync.WaitGroup
	for i, s := range opened {
		s.tokens, s.wanted = append(slices.Clone(ids), i), 1
		e.queue = append(e.queue, s)
		running.Go(func() {
			if err := <-s.done; err != nil {
				t.Error(err)
			}
		})
	}
	e.mu.Unlock()
	e.signal()
	running.Wait()
	if got, want := e.PrefixStats().Found, (sequences-1)*2*pageTokens; got != want {
		t.Errorf("found %d tokens, want %d", got, want)
	}
}

// TestLeavingSequenceHoldsUpNobody cancels the sequence whose page others wait for.
func TestLeavingSequenceHoldsUpNobody(t *testing.T) {
	e := cachingEngine(t, 8)
	rnd := rand.New(rand.NewPCG(1, 4))
	ids := randomIDs(rnd, 2*pageTokens+5, e.info.Vocab)
	want := run(t, e, "", ids)
	for range 30 {
		ctx, cancel := context.WithCancel(t.Context())
		first, err := e.Open(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		var running sync.WaitGroup
		running.Go(func() {
			if _, err := first.Next(ctx, ids...); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		running.Go(cancel)
		if !bitsEqual(run(t, e, "a", ids), want) {
			t.Fatal("the logits have other bits")
		}
		running.Wait()
		first.Close()
		e.mu.Lock()
		e.prefixes.shrink(func(*prefix) bool { return true }) // cold again
		if n := len(e.prefixes.scopes); n != 0 {
			t.Errorf("%d scopes are left", n)
		}
		e.mu.Unlock()
	}
}

// TestPanicSharesNoPage lets a step panic in which a sequence fills a page. The page is not in
// the cache until another step has computed it.
func TestPanicSharesNoPage(t *testing.T) {
	c := smallShape()
	n, err := load(randomCheckpoint(c, 1), kernel.F16, 1)
	if err != nil {
		t.Fatal(err)
	}
	e := newEngine(n, nil, Options{Sequences: 4, Prefixes: 8 * pageBytesOf(c, kernel.F16)}) // the test computes its steps
	const poison = 1 << 20
	e.info.Vocab = poison + 1
	pool := kernel.NewPool(1)
	defer pool.Close()
	f := newForward(n, pool, 4+maxPromptTokens, 4)
	open := func(ids ...int) *sequence {
		s, err := e.Open(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.(*sequence).submit(1, ids); err != nil {
			t.Fatal(err)
		}
		return s.(*sequence)
	}
	ids := randomIDs(rand.New(rand.NewPCG(1, 6)), pageTokens+1, c.Vocab)
	good, bad := open(ids...), open(poison)
	if e.compute(f, nil) == nil {
		t.Fatal("the step did not panic")
	}
	if n := len(good.prefix.children); n != 0 {
		t.Errorf("%d pages of a step that panicked are in the cache", n)
	}
	e.isolate(f)
	if err := <-good.done; err != nil {
		t.Fatal(err)
	}
	bad.Close()
	again := open(ids...)
	if got := found(e, func() {
		if failed := e.compute(f, nil); failed != nil {
			t.Fatal(failed)
		}
		e.finish(time.Millisecond, f.times)
	}); got != pageTokens {
		t.Errorf("found %d tokens, want %d", got, pageTokens)
	}
	if err := <-again.done; err != nil || !bitsEqual(good.logits[0][:c.Vocab], again.logits[0][:c.Vocab]) {
		t.Errorf("the logits have other bits, %v", err)
	}
}

// TestPrefixCacheIsBounded draws texts of a few scopes, and checks after each that the unused
// pages are within the limit and that their order allows eviction from the back.
func TestPrefixCacheIsBounded(t *testing.T) {
	const limit = 4
	rapid.Check(t, func(t *rapid.T) {
		pages, free := 0, 0
		forgotten := map[*prefix]bool{}
		c := newPrefixCache(limit, 1, func(*kernel.Panels) { free++ })
		type user struct{ last *prefix }
		var users []user
		now := time.Now()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Second)
			switch action := rapid.SampledFrom([]string{"open", "grow", "grow", "close", "expire", "forget"}).Draw(t, "action"); {
			case action == "open":
				users = append(users, user{c.open(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "scope"))})
			case action == "expire":
				c.expire(now.Add(-time.Duration(rapid.IntRange(0, 60).Draw(t, "age")) * time.Second))
			case action == "forget":
				scope := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "scope")
				if root := c.scopes[scope]; root != nil {
					forgotten[root] = true
				}
				c.forget(scope)
			case len(users) == 0:
			case action == "grow":
				u := &users[rapid.IntRange(0, len(users)-1).Draw(t, "user")]
				key := rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "key")
				next := c.use(u.last, key)
				if next == nil {
					next = c.add(u.last, key, nil)
					pages++
				}
				u.last = next
			default:
				i := rapid.IntRange(0, len(users)-1).Draw(t, "user")
				c.close(users[i].last, now)
				users = slices.Delete(users, i, i+1)
			}
			if n := c.unused.Len(); n > limit {
				t.Fatalf("%d unused pages, want at most %d", n, limit)
			}
			reachable := 0
			for _, root := range c.scopes {
				if forgotten[root] {
					t.Fatal("a forgotten scope can be found")
				}
				reachable += count(t, root)
			}
			for root := range forgotten {
				if n := count(t, root); root.users == 0 && n != 0 {
					t.Fatalf("%d pages of a forgotten scope are left", n)
				} else {
					reachable += n
				}
			}
			if reachable+free != pages {
				t.Fatalf("%d pages in the trees and %d evicted, want %d together", reachable, free, pages)
			}
		}
		for _, u := range users {
			c.close(u.last, now)
		}
		c.expire(now)
		if c.unused.Len() != 0 || len(c.scopes) != 0 || free != pages {
			t.Fatalf("%d unused pages and %d scopes are left, %d of %d pages evicted", c.unused.Len(), len(c.scopes), free, pages)
		}
	})
}

// count returns the number of pages below p, and checks their links.
func count(t *rapid.T, p *prefix) int {
	n, users := 0, 0
	for key, child := range p.children {
		if child.parent != p || child.key != key || (child.users == 0) != (child.element != nil) {
			t.Fatalf("page %q has wrong links", key)
		}
		users += child.users
		n += 1 + count(t, child)
	}
	if users > p.users {
		t.Fatalf("%d sequences use the pages after a page that %d use", users, p.users)
	}
	return n
}

// TestForgottenScopeIsComputedAgain forgets a scope while a sequence of it is open.
func TestForgottenScopeIsComputedAgain(t *testing.T) {
	e := cachingEngine(t, 8)
	ids := randomIDs(rand.New(rand.NewPCG(1, 7)), 2*pageTokens, e.info.Vocab)
	want := run(t, e, "a", ids)
	run(t, e, "b", ids)
	s, err := e.Open(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(t.Context(), ids[:pageTokens+1]...); err != nil {
		t.Fatal(err)
	}
	e.Forget("a")
	if got := e.Scopes(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("scopes %q, want b alone", got)
	}
	if got := found(e, func() { run(t, e, "a", ids) }); got != 0 {
		t.Errorf("found %d tokens of a forgotten scope", got)
	}
	logits, err := s.Next(t.Context(), ids[pageTokens+1:]...)
	if err != nil || !bitsEqual(logits, want) {
		t.Errorf("the logits of the open sequence have other bits, %v", err)
	}
	s.Close()
	if got := found(e, func() { run(t, e, "b", ids) }); got != pageTokens {
		t.Errorf("found %d tokens of another scope, want %d", got, pageTokens)
	}
}

// TestUnusedPrefixesExpire waits until the pages of a text expire.
func TestUnusedPrefixesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := cachingEngine(t, 8)
		defer e.Close()
		ids := randomIDs(rand.New(rand.NewPCG(1, 5)), pageTokens+1, e.info.Vocab)
		run(t, e, "a", ids)
		time.Sleep(keepPrefixes - time.Second)
		if got := found(e, func() { run(t, e, "a", ids) }); got != pageTokens {
			t.Errorf("found %d tokens, want %d", got, pageTokens)
		}
		time.Sleep(keepPrefixes + time.Second)
		synctest.Wait()
		if s := e.PrefixStats(); s.Unused != 0 || len(e.prefixes.scopes) != 0 {
			t.Errorf("%d bytes and %d scopes are left", s.Unused, len(e.prefixes.scopes))
		}
	})
}
