package model

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A Chooser that never chooses must not change any text, although it may see and count
// all candidates.
func TestChooserThatLeavesTheChoiceChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, prompt, p := drawRun(t)
		drawAdjustments(t, &p, len(e.tokens))
		want, wantResult := generate(t, e, prompt, nil, p)
		p.Choose = func(_ []int, candidates []Candidate) (int, bool) {
			var weight uint64
			for _, c := range candidates {
				weight += c.Weight()
			}
			if weight == 0 {
				t.Fatalf("no weight in %d candidates", len(candidates))
			}
			return 0, false
		}
		got, result := generate(t, e, prompt, nil, p)
		gotTokens, gotText := join(got)
		wantTokens, wantText := join(want)
		if !slices.Equal(gotTokens, wantTokens) || gotText != wantText || result != wantResult {
			t.Fatalf("tokens %v, want %v", gotTokens, wantTokens)
		}
	})
}

// The candidates must be the tokens of step 6 of the sampler's definition, and the text
// so far must be that of Generate, after any interruption too.
func TestChooserSeesTheTextAndItsCandidates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, prompt, p := drawRun(t)
		drawAdjustments(t, &p, len(e.tokens))
		p.Stop = nil
		var seen [][]int
		p.Choose = func(generated []int, candidates []Candidate) (int, bool) {
			seen = append(seen, slices.Clone(generated))
			rnd := rand.New(rand.NewPCG(uint64(len(generated)), 7))
			slices.SortFunc(candidates, func(a, b Candidate) int { return a.Token() - b.Token() })
			candidates = slices.DeleteFunc(slices.Clone(candidates), func(c Candidate) bool { return c.Weight() == 0 })
			return candidates[rnd.IntN(len(candidates))].Token(), true
		}
		deltas, _ := generate(t, e, prompt, nil, p)
		tokens, _ := join(deltas)
		if p.Temperature == 0 {
			if len(seen) > 0 {
				t.Fatalf("asked %d times with temperature 0", len(seen))
			}
			return
		}
		for i, generated := range seen {
			if len(generated) != i || i <= len(tokens) && !slices.Equal(generated, tokens[:i]) {
				t.Fatalf("the text of token %d is %v, want the start of %v", i, generated, tokens)
			}
		}
		for cut := range len(tokens) + 1 {
			rest, _ := generate(t, e, prompt, tokens[:cut], p)
			if got, _ := join(rest); !slices.Equal(append(slices.Clone(tokens[:cut]), got...), tokens) {
				t.Fatalf("cut after %d tokens: continued by %v, want %v", cut, got, tokens[cut:])
			}
		}
	})
}

func TestChooserGetsTheKeptTokens(t *testing.T) {
	logits := []float32{2, 1, 1, 0, -1, 3, -50}
	for _, c := range []struct {
		p    Params
		want []int
	}{
		{Params{Temperature: 1, TopP: 1}, []int{0, 1, 2, 3, 4, 5, 6}},
		{Params{Temperature: 1, TopP: 1, TopK: 3}, []int{0, 1, 5}},
		{Params{Temperature: 1, TopP: 0.8}, []int{0, 5}},
		{Params{Temperature: 1, TopP: 0}, []int{5}},
	} {
		c.p.MaxTokens = 1
		var got []int
		c.p.Choose = func(generated []int, candidates []Candidate) (int, bool) {
			for _, x := range candidates {
				got = append(got, x.Token())
				if x.Weight() == 0 != (x.Token() == 6) {
					t.Errorf("token %d has weight %d", x.Token(), x.Weight())
				}
			}
			return got[0], true
		}
		s, err := NewSampler(c.p, nil, -1)
		if err != nil {
			t.Fatal(err)
		}
		token, err := s.Sample(logits, nil)
		if err != nil || token != got[0] {
			t.Errorf("token %d, %v; want %d", token, err, got[0])
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: candidates %v, want %v", c.p, got, c.want)
		}
	}
}
