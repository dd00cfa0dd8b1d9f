package gpt2

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"colophon/model"
	"colophon/model/kernel"
)

// chances returns guesses with these chances.
func chances(c ...float64) (guesses []model.Guess) {
	for _, chance := range c {
		guesses = append(guesses, model.Guess{Token: 1, Chance: chance})
	}
	return guesses
}

// TestDraftsFollowTheCosts chooses drafts for steps whose costs are known.
func TestDraftsFollowTheCosts(t *testing.T) {
	cheap := []int{0, 100, 101, 102, 103, 104, 105, 106, 107, 108} // of a step by its rows, as if bound by memory
	dear := []int{0, 100, 200, 300, 400, 500, 600, 700, 800, 900}
	for _, c := range []struct {
		name    string
		costs   []int
		context int
		step    [][]model.Guess
		want    []int
	}{
		{"nothing to guess", cheap, 99, [][]model.Guess{nil}, []int{0}},
		{"rows cost nothing", cheap, 99, [][]model.Guess{chances(0.9, 0.8, 0.3, 0.2)}, []int{4}},
		{"unlikely guesses", cheap, 99, [][]model.Guess{chances(0.9, 0.005)}, []int{1}},
		{"gain below the threshold", cheap, 99, [][]model.Guess{chances(0.02)}, []int{0}},
		{"rows cost a step", dear, 99, [][]model.Guess{chances(0.99, 0.98)}, []int{0}},
		{"a tile of four rows", []int{0, 100, 150, 150, 150, 300}, 99, [][]model.Guess{chances(0.4, 0.3, 0.2, 0.1)}, []int{3}},
		{"unknown cost", []int{0, 100, 101, 0, 0}, 99, [][]model.Guess{chances(0.4, 0.3, 0.2)}, []int{3}},
		{"unknown cost of a plain step", []int{0, 0, 101, 102}, 99, [][]model.Guess{chances(0.9)}, []int{0}},
		{"end of the context", cheap, 4, [][]model.Guess{chances(0.9, 0.8, 0.7, 0.6)}, []int{3}},
		{"the likeliest first", []int{0, 0, 100, 110, 120, 200, 200, 200}, 99, [][]model.Guess{chances(0.9, 0.2), chances(0.8, 0.1)}, []int{1, 1}},
		{"a sequence that would only wait", []int{0, 0, 100, 110, 120, 200}, 99, [][]model.Guess{chances(0.99, 0.9), nil}, []int{0, 0}},
		{"a sequence that waits for a moment", []int{0, 0, 100, 101, 120, 200}, 99, [][]model.Guess{chances(0.99, 0.9), nil}, []int{1, 0}},
		{"too many sequences", cheap, 99, slices.Repeat([][]model.Guess{chances(0.9)}, 17), make([]int, 17)},
	} {
		e := &Engine{info: model.Info{Context: c.context}}
		e.speculation.on = true
		e.alwaysDraft()
		sequences := len(c.step)
		for rows := sequences; rows < len(c.costs); rows++ {
			for range leastSamples {
				if cost := c.costs[rows]; cost > 0 {
					e.speculation.costs[sequences].observe(rows-sequences, time.Duration(cost)*time.Microsecond)
				}
			}
		}
		var step []*sequence
		for _, g := range c.step {
			step = append(step, &sequence{engine: e, guesses: g})
		}
		e.speculation.choose(step)
		var got []int
		for _, s := range step {
			got = append(got, len(s.draft))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v draft tokens, want %v", c.name, got, c.want)
		}
	}
}

// A cost that other processes have raised, or that was high once, must not hold for ever.
func TestCostsAreMeasuredAgain(t *testing.T) {
	var c stepCosts
	const ms = time.Millisecond
	for i := range 20 * leastSamples {
		slow := time.Duration(1 + 9*(i/20%2)) // the machine is slow half of the time
		c.observe(0, slow*ms)
		c.observe(0, slow*ms)
		if i%7 == 0 {
			c.observe(0, time.Second) // another process was running
		}
		c.observe(1, slow*ms*5/4)
	}
	if cost := c.of(1); cost != 1.25 {
		t.Errorf("a draft token costs %g, want 1.25", cost)
	}
	for range forgetEvery {
		c.observe(0, ms)
	}
	if cost := c.of(1); cost != 1 || c.due() {
		t.Errorf("after a long time, a draft token costs %g, and due is %v", cost, c.due())
	}
	for i := range plainEvery {
		if c.due() {
			t.Errorf("a step without draft tokens is due after %d with", i)
		}
		c.observe(1, 2*ms)
	}
	if cost := c.of(1); cost != 2 || !c.due() {
		t.Errorf("a draft token costs %g, want 2, and due is %v", cost, c.due())
	}
}

// steps is an engine whose steps the test computes, with costs that make every guess worth it.
type steps struct {
	*Engine
	f *forward
}

func newSteps(t *testing.T, opts Options) *steps {
	n, err := load(randomCheckpoint(smallShape(), 1), kernel.F16, 1)
	if err != nil {
		t.Fatal(err)
	}
	opts.Speculate = true
	e := newEngine(n, nil, opts)
	e.alwaysDraft()
	t.Cleanup(func() { e.expiry.Stop() })
	pool := kernel.NewPool(1)
	t.Cleanup(pool.Close)
	for i := range e.speculation.costs {
		for range leastSamples {
			e.speculation.costs[i].observe(0, time.Millisecond)
		}
	}
	return &steps{e, newForward(n, pool, 4+maxPromptTokens, 4)}
}

func (e *steps) open(t *testing.T, scope string) *sequence {
	s, err := e.Open(t.Context(), scope)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s.(*sequence)
}

// next passes tokens to a sequence, and guesses of those that follow. It computes steps if the
// logits are not there.
func (e *steps) next(t *testing.T, s *sequence, guesses []int, tokens ...int) (ready bool) {
	var g []model.Guess
	for _, token := range guesses {
		g = append(g, model.Guess{Token: token, Chance: 1e9}) // worth it whatever a step takes
	}
	s.Expect(g)
	ready, err := s.submit(1, tokens)
	if err != nil {
		t.Fatal(err)
	}
	for len(e.queue) > 0 {
		if e.compute(e.f, nil) != nil {
			e.isolate(e.f)
		} else {
			e.finish(time.Millisecond, e.f.times)
		}
	}
	if !ready {
		if err := <-s.done; err != nil {
			t.Fatal(err)
		}
	}
	return ready
}

// A guess of a token that makes the step panic must not end the sequence.
func TestPanicOfAGuessEndsNoSequence(t *testing.T) {
	e := newSteps(t, Options{Sequences: 1})
	const poison = 1 << 20
	e.info.Vocab = poison + 1
	s := e.open(t, "")
	e.next(t, s, nil, 1)
	e.next(t, s, []int{poison}, 2)
	if len(s.draft) != 0 {
		t.Error("the step was not computed without the guess")
	}
	e.next(t, s, []int{3}, 2)
	if !e.next(t, s, nil, 3) {
		t.Error("no guess is used after the panic")
	}
}

// A page may be shared when its tokens are accepted, and not when they are only guessed. What was
// guessed past the end of a page must not stay in the sequence.
func TestGuessesAreSharedWhenAccepted(t *testing.T) {
	e := newSteps(t, Options{Sequences: 2, Prefixes: 1 << 30})
	ids := randomIDs(rand.New(rand.NewPCG(3, 9)), 2*pageTokens, 36)
	s := e.open(t, "one")
	e.next(t, s, nil, ids[:pageTokens-4]...)
	guesses := slices.Clone(ids[pageTokens-3 : pageTokens+4])
	guesses[6] = (guesses[6] + 1) % 36
	e.next(t, s, guesses, ids[pageTokens-4])
	if len(s.draft) != 7 || len(s.cache.pages) != 2 || s.sharedPages() != 0 {
		t.Fatalf("%d draft tokens, %d pages, %d of them shared", len(s.draft), len(s.cache.pages), s.sharedPages())
	}
	for i, id := range ids[pageTokens-3 : pageTokens] {
		if s.sharedPages() != 0 {
			t.Errorf("the page is shared after %d of its last 3 tokens", i)
		}
		if !e.next(t, s, nil, id) {
			t.Errorf("the logits after guess %d are not there", i)
		}
	}
	if s.sharedPages() != 1 {
		t.Error("the page is not shared")
	}
	e.next(t, s, nil, (ids[pageTokens]+1)%36) // not the guess, which was the first token of the page
	if d := e.DraftStats(); d != (DraftStats{Accepted: 3, Rejected: 4}) {
		t.Errorf("%+v", d)
	}
	e.next(t, s, nil, ids[:pageTokens]...)
	if got, want := len(s.cache.pages), (s.cache.tokens+pageTokens-1)/pageTokens; got != want {
		t.Errorf("%d pages for %d tokens", got, s.cache.tokens)
	}
	s.Close()
	if len(e.free)+e.prefixes.unused.Len() != 3 {
		t.Errorf("%d free and %d unused pages, want 3", len(e.free), e.prefixes.unused.Len())
	}
}

// Steps with prompts have no drafts, because their time depends on the number of rows.
func TestPromptsHaveNoDraftsBesideThem(t *testing.T) {
	e := newSteps(t, Options{Sequences: 2})
	a, b := e.open(t, ""), e.open(t, "")
	e.next(t, a, nil, 1)
	a.Expect(chances(0.9))
	for s, tokens := range map[*sequence][]int{a: {2}, b: {1, 2, 3}} {
		if _, err := s.submit(1, tokens); err != nil {
			t.Fatal(err)
		}
	}
	e.plan(e.f, nil)
	if len(a.draft) != 0 {
		t.Errorf("%d draft tokens beside a prompt", len(a.draft))
	}
	e.f.run()
	e.finish(time.Millisecond, e.f.times)
	<-a.done
	<-b.done
}
