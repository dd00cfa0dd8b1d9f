package model

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A guessing is an engine that uses guesses, as far as its sequences check them.
type guessing struct {
	*fakeEngine
	t       *rapid.T
	most    int // length of prompt and text together
	guesses int // number of guesses so far
}

type guessedSequence struct {
	*fakeSequence
	engine *guessing
}

func (e *guessing) Open(ctx context.Context, scope string) (Sequence, error) {
	s, err := e.fakeEngine.Open(ctx, scope)
	return &guessedSequence{s.(*fakeSequence), e}, err
}

// Expect fails if logits after a guess are no use: the text ends before, or the token ends it.
func (s *guessedSequence) Expect(guesses []Guess) bool {
	before := 1.0
	for _, g := range guesses {
		if g.Token < 0 || g.Token >= len(s.engine.tokens) || s.engine.Info().Ends(g.Token) || !(g.Chance > 0 && g.Chance <= before) {
			s.engine.t.Fatalf("guess %+v after one with chance %g", g, before)
		}
		before = g.Chance
	}
	if computed := len(s.tokens) + 1; computed > 1 && computed+len(guesses) >= s.engine.most {
		s.engine.t.Fatalf("%d guesses after %d tokens of %d", len(guesses), computed, s.engine.most)
	}
	s.engine.guesses += len(guesses)
	return true
}

// The text must be the same whether the engine uses guesses or not.
func TestGuessesChangeNoText(t *testing.T) {
	guesses := 0
	rapid.Check(t, func(t *rapid.T) {
		e, prompt, p := drawRun(t)
		if rapid.Bool().Draw(t, "greedy") {
			p.Temperature = 0
		}
		p.FrequencyPenalty = rapid.SampledFrom([]float64{0, 1}).Draw(t, "penalty")
		want, result := generate(t, e, prompt, nil, p)
		cut := rapid.IntRange(0, len(want)).Draw(t, "past")
		past, _ := join(want[:cut])
		g := &guessing{fakeEngine: e, t: t, most: len(prompt) + p.MaxTokens}
		got := []Delta{}
		again, err := Generate(t.Context(), g, prompt, past, p, func(d Delta) error {
			got = append(got, d)
			return nil
		})
		if diff := cmp.Diff(want[cut:], got); err != nil || again != result || diff != "" {
			t.Fatalf("%v, %+v, want %+v, %s", err, again, result, diff)
		}
		guesses += g.guesses
	})
	if guesses == 0 {
		t.Error("no guesses")
	}
}

// From the candidates of one position, redraw must choose what Sample chooses from its logits
// for any index, if that is a likely token.
func TestRedrawChoosesLikeSample(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "logits"), 1))
		logits := make([]float32, rapid.IntRange(1, 300).Draw(t, "vocabulary"))
		for i := range logits {
			logits[i] = float32(rnd.IntN(40)) / 4 // some are equal
		}
		p := Params{
			MaxTokens: 1, Seed: rapid.Uint64().Draw(t, "seed"), Temperature: rapid.Float64Range(0.1, 2).Draw(t, "temperature"),
			TopK: rapid.SampledFrom([]int{0, 1, 5, 40}).Draw(t, "top_k"),
			TopP: rapid.SampledFrom([]float64{0, 0.5, 1}).Draw(t, "top_p"),
			MinP: rapid.SampledFrom([]float64{0, 0.05}).Draw(t, "min_p"),
		}
		s, err := NewSampler(p, []int{0})
		if err != nil {
			t.Fatal(err)
		}
		order := make([]int, len(logits))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int { return int(logits[b]*4) - int(logits[a]*4) })
		likely := order[:min(len(order), outlookTokens)]
		if _, err := s.Sample(logits, nil); err != nil {
			t.Fatal(err)
		}
		o := s.outlook()
		for n := range 30 {
			generated := make([]int, n)
			want, err := s.Sample(logits, generated)
			if err != nil {
				t.Fatal(err)
			}
			got, ok := s.redraw(o, generated)
			if ok != slices.Contains(likely, want) || ok && got != want {
				t.Fatalf("token %d: %d, %v, want %d of %v", n, got, ok, want, likely)
			}
		}
	})
}

func TestLastMatchFollowsItsDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SliceOfN(rapid.IntRange(0, 2), 1, 40).Draw(t, "text")
		wantMatch, wantAt := 0, 0
		for n := 1; n <= maxMatch; n++ {
			for at := n; at < len(text); at++ {
				if slices.Equal(text[at-n:at], text[len(text)-n:]) {
					wantMatch, wantAt = n, at
				}
			}
		}
		if match, at := lastMatch(text); match != wantMatch || at != wantAt {
			t.Fatalf("%d tokens before %d, want %d before %d", match, at, wantMatch, wantAt)
		}
	})
}

// A text that repeats itself has long drafts, and a text whose guesses are wrong has short ones.
func TestDraftsFollowTheHits(t *testing.T) {
	s, err := NewSampler(Params{MaxTokens: 100, TopP: 1}, []int{1})
	if err != nil {
		t.Fatal(err)
	}
	never := func(int) bool { return false }
	d := newDrafter(s, never, []int{1, 2, 3}, nil)
	if g := d.draft(8); len(g) != 0 {
		t.Errorf("a text without repetition has the guesses %v", g)
	}
	for range 20 {
		for _, token := range []int{1, 2, 3} {
			d.add(token, true)
		}
	}
	var tokens []int
	for _, g := range d.draft(7) {
		tokens = append(tokens, g.Token)
	}
	if !slices.Equal(tokens, []int{1, 2, 3, 1, 2, 3, 1}) {
		t.Errorf("after a loop: %v", tokens)
	}
	for i := range 60 {
		d.add(1, true)
		d.add(100+i, true) // what follows 1 is always new
	}
	d.add(1, true)
	if g := d.draft(8); len(g) > 1 || len(g) == 1 && g[0].Chance > 0.1 {
		t.Errorf("after wrong guesses: %v", g)
	}
}
