package model

import (
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// adjustByDefinition changes logits by the rules in the comment of Sampler, one token of the
// vocabulary after the other. It counts by going through the lists, and computes with
// [big.Float], which rounds each operation to the precision of float64.
func adjustByDefinition(logits []float32, p Params, prompt, generated, ends []int) []float32 {
	exact := func(x float64) *big.Float { return new(big.Float).SetPrec(53).SetFloat64(x) }
	rounded := func(x *big.Float) *big.Float {
		f, _ := x.Float32()
		if math.IsInf(float64(f), 0) {
			f = float32(math.Copysign(math.MaxFloat32, float64(f)))
		}
		return exact(float64(f))
	}
	var changed []float32
	for token, l := range logits {
		x := exact(float64(l))
		x = rounded(x.Add(x, exact(p.LogitBias[token])))
		n := 0
		for _, g := range generated {
			if g == token {
				n++
			}
		}
		if r := p.RepetitionPenalty; r != 0 && (n > 0 || slices.Contains(prompt, token)) {
			if x.Sign() < 0 {
				x = rounded(x.Mul(x, exact(r)))
			} else {
				x = rounded(x.Quo(x, exact(r)))
			}
		}
		if n > 0 {
			x = rounded(x.Sub(x, new(big.Float).SetPrec(53).Mul(exact(p.FrequencyPenalty), exact(float64(n)))))
			x = rounded(x.Sub(x, exact(p.PresencePenalty)))
		}
		f, _ := x.Float32()
		if slices.Contains(ends, token) && len(generated) < p.MinTokens {
			f = float32(math.Inf(-1))
		}
		changed = append(changed, f)
	}
	return changed
}

// drawAdjustments draws the parameters that change logits. About half of them are neutral.
func drawAdjustments(t *rapid.T, p *Params, vocab int) {
	number := func(name string, low, high float64) float64 {
		if rapid.Bool().Draw(t, "no "+name) {
			return 0
		}
		return rapid.OneOf(rapid.Float64Range(low, high), rapid.SampledFrom([]float64{low, high, (low + high) / 2})).Draw(t, name)
	}
	p.PresencePenalty = number("presence", -2, 2)
	p.FrequencyPenalty = number("frequency", -2, 2)
	p.RepetitionPenalty = number("repetition", MinRepetitionPenalty, MaxRepetitionPenalty)
	p.MinP = number("min_p", 0, 1)
	if rapid.Bool().Draw(t, "has bias") {
		p.LogitBias = rapid.MapOfN(rapid.IntRange(0, vocab-1), rapid.Float64Range(-100, 100), 0, 5).Draw(t, "bias")
	}
	p.MinTokens = min(p.MaxTokens, rapid.SampledFrom([]int{0, 0, 1, 3, 10, 40}).Draw(t, "min_tokens"))
}

func TestAdjustedSampleFollowsItsDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 60).Draw(t, "tokens")
		spread := rapid.SampledFrom([]float64{0, 1, 5, 50, 1e30, math.MaxFloat32}).Draw(t, "spread")
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "logits"), 1))
		p := Params{
			MaxTokens:   50,
			Temperature: rapid.SampledFrom([]float64{0, 0.7, 1, 3, 1e300}).Draw(t, "temperature"),
			TopK:        rapid.IntRange(0, n+2).Draw(t, "top_k"),
			TopP:        rapid.OneOf(rapid.Just(1.0), rapid.Float64Range(0, 1)).Draw(t, "top_p"),
			Seed:        rapid.Uint64().Draw(t, "seed"),
		}
		drawAdjustments(t, &p, n)
		ids := rapid.SliceOfN(rapid.IntRange(0, n-1), 0, 20)
		prompt, ends := ids.Draw(t, "prompt"), rapid.SliceOfN(rapid.IntRange(-1, n-1), 0, min(3, n-1)).Draw(t, "ends")
		s, err := NewSampler(p, prompt, ends...)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // the scratch space of one call must not matter to the next
			logits := make([]float32, n)
			for i := range logits {
				logits[i] = nearest(rnd.NormFloat64() * spread)
			}
			before := slices.Clone(logits)
			generated := ids.Draw(t, "generated")
			got, err := s.Sample(logits, generated)
			want := chooseByDefinition(adjustByDefinition(logits, p, prompt, generated, ends), p, len(generated))
			if err != nil || got != want {
				t.Fatalf("token %d, %v, want %d", got, err, want)
			}
			if !slices.Equal(logits, before) {
				t.Fatal("Sample has changed the logits of the engine")
			}
		}
	})
}

// The published rules give these numbers: OpenAI's mu - c*alpha_frequency - [c > 0]*alpha_presence,
// and Hugging Face's x*r below 0 and x/r from 0 on.
func TestPenaltiesArePublishedOnes(t *testing.T) {
	logits := []float32{2, -2, 3, -3, 0, 1}
	for _, c := range []struct {
		p    Params
		want []float32
	}{
		{Params{RepetitionPenalty: 1.25}, []float32{1.6, -2.5, 2.4, -3.75, 0, 1}},
		{Params{RepetitionPenalty: 0.5}, []float32{4, -1, 6, -1.5, 0, 1}},
		{Params{FrequencyPenalty: 0.5}, []float32{2, -2, 1.5, -3.5, 0, 1}},
		{Params{PresencePenalty: 0.5}, []float32{2, -2, 2.5, -3.5, 0, 1}},
		{Params{PresencePenalty: -2, FrequencyPenalty: 1}, []float32{2, -2, 2, -2, 0, 1}},
		{Params{LogitBias: map[int]float64{0: -100, 5: 7.5}}, []float32{-98, -2, 3, -3, 0, 8.5}},
		{Params{LogitBias: map[int]float64{2: -5}, RepetitionPenalty: 1.5}, []float32{float32(2 / 1.5), -3, -3, -4.5, 0, 1}},
		{Params{RepetitionPenalty: 2, FrequencyPenalty: 1, PresencePenalty: 1}, []float32{1, -4, -2.5, -8, 0, 1}},
	} {
		got, _, err := newAdjuster(c.p, []int{0, 1, 0, 3}, nil).apply(logits, []int{2, 3, 2, 2})
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, %v, want %v", c.p, got, err, c.want)
		}
	}
}

// Neutral values must take the path that has no adjuster, so that they cost nothing and give
// the texts of the releases before them.
func TestNeutralValuesNeedNoAdjuster(t *testing.T) {
	for _, p := range []Params{{}, {RepetitionPenalty: 1, LogitBias: map[int]float64{}}} {
		if a := newAdjuster(p, []int{1}, []int{0}); a != nil || a.changes(0) {
			t.Errorf("%+v has an adjuster", p)
		}
	}
	if a := newAdjuster(Params{MinTokens: 2}, nil, []int{0}); !a.changes(1) || a.changes(2) {
		t.Error("min_tokens 2 must change the logits of the first two tokens alone")
	}
	if a := newAdjuster(Params{MinTokens: 2}, nil, []int{-1}); a != nil {
		t.Error("min_tokens changes the logits of a model without an end-of-text token")
	}
}

func TestSampleRefusesWhatItCannotAdjust(t *testing.T) {
	for message, p := range map[string]Params{
		"for token 3, the model has 1":      {MaxTokens: 1, LogitBias: map[int]float64{3: 1}},
		"there are only end-of-text tokens": {MaxTokens: 1, MinTokens: 1},
	} {
		s, err := NewSampler(p, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if token, err := s.Sample([]float32{1}, nil); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("token %d, %v, want %q", token, err, message)
		}
	}
}

// logprobs returns the log probabilities of all deltas.
func logprobs(deltas []Delta) (all []TokenLogprobs) {
	for _, d := range deltas {
		all = append(all, d.Logprobs...)
	}
	return all
}

// mustHaveLogprobs fails the test unless each token has the log probabilities of the logits
// that the engine computes for its position, without any parameter of the text.
func mustHaveLogprobs(t *rapid.T, e *fakeEngine, prompt, tokens []int, got []TokenLogprobs, n *int) {
	if n == nil {
		if got != nil {
			t.Fatalf("%d log probabilities that were not asked for", len(got))
		}
		return
	}
	if len(got) != len(tokens) {
		t.Fatalf("%d log probabilities of %d tokens", len(got), len(tokens))
	}
	for i, token := range tokens {
		s := &fakeSequence{engine: e}
		logits, err := s.Next(t.Context(), slices.Concat(prompt, tokens[:i])...)
		if want := Logprobs(logits, token, *n); err != nil || !EqualLogprobs(got[i], want) {
			t.Fatalf("token %d has %+v, %v, want %+v", i, got[i], err, want)
		}
	}
}

// A text under all parameters must be that of a run that is cut after any of its tokens, and
// must have at least MinTokens tokens unless the model has ended it by MaxTokens.
func TestAdjustedTextContinuesExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, prompt, p := drawRun(t)
		p.Temperature = rapid.SampledFrom([]float64{0, 1, 3}).Draw(t, "temperature")
		drawAdjustments(t, &p, len(e.tokens))
		if rapid.Bool().Draw(t, "has logprobs") {
			p.Logprobs = new(rapid.IntRange(0, MaxLogprobs).Draw(t, "logprobs"))
		}
		deltas, result := generate(t, e, prompt, nil, p)
		tokens, text := join(deltas)
		probs := logprobs(deltas)
		mustHaveLogprobs(t, e, prompt, tokens, probs, p.Logprobs)
		if result.CompletionTokens < p.MinTokens {
			t.Fatalf("%d tokens, want at least %d", result.CompletionTokens, p.MinTokens)
		}
		for i := range deltas {
			past, begun := join(deltas[:i])
			rest, again := generate(t, e, prompt, past, p)
			more, end := join(rest)
			sum := append(logprobs(deltas[:i]), logprobs(rest)...)
			if !slices.Equal(append(past, more...), tokens) || begun+end != text || again != result || !slices.EqualFunc(sum, probs, EqualLogprobs) {
				t.Fatalf("cut after %d tokens: %v %q, want %v %q", len(past), more, end, tokens[len(past):], text)
			}
		}
	})
}
