package model

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// The log probabilities must agree with the definition of the softmax, which this test
// computes with the standard library, and the likeliest tokens must be those of a sort.
func TestLogprobsAreThoseOfTheSoftmax(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		vocab := rapid.IntRange(1, 300).Draw(t, "vocab")
		spread := rapid.SampledFrom([]float64{0, 0.01, 1, 5, 50}).Draw(t, "spread")
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "logits"), 2))
		logits := make([]float32, vocab)
		total := 0.0
		ids := make([]int, vocab)
		for i := range logits {
			logits[i], ids[i] = float32(rnd.NormFloat64()*spread), i
			if rnd.IntN(4) == 0 {
				logits[i] = logits[rnd.IntN(i+1)] // gives some tokens equal logits
			}
			total += math.Exp(float64(logits[i]))
		}
		slices.SortStableFunc(ids, func(a, b int) int {
			switch {
			case logits[a] > logits[b]:
				return -1
			case logits[a] < logits[b]:
				return 1
			}
			return 0
		})
		near := func(token int, got float32) {
			if want := float64(logits[token]) - math.Log(total); !(math.Abs(float64(got)-want) <= 1e-6+1e-7*math.Abs(want)) || got > 0 {
				t.Fatalf("token %d has %g, want %g", token, got, want)
			}
		}
		token, n := rnd.IntN(vocab), rapid.IntRange(0, MaxLogprobs).Draw(t, "n")
		got := Logprobs(logits, token, n)
		near(token, got.Logprob)
		if len(got.Top) != min(n, vocab) {
			t.Fatalf("%d alternatives, want %d of %d", len(got.Top), n, vocab)
		}
		for i, top := range got.Top {
			if near(top.Token, top.Logprob); top.Token != ids[i] {
				t.Fatalf("alternative %d is token %d, want %d", i, top.Token, ids[i])
			}
		}
	})
}

// The bits must be the same on every machine and for ever, because they are on record.
func TestLogprobsArePinned(t *testing.T) {
	h := sha256.New()
	write := func(x any) { _ = binary.Write(h, binary.BigEndian, x) } // a hash returns no error
	for seed := range uint64(5) {
		logits := vocabulary(seed)
		for token := 0; token < len(logits); token += 997 {
			p := Logprobs(logits, token, MaxLogprobs)
			write(p.Logprob)
			for _, top := range p.Top {
				write(int32(top.Token))
				write(top.Logprob)
			}
		}
	}
	const want = "4e31a8c865e232d6d949e7da0d74759d5e35f5e7cb12dfa2e3a239fb413cc31b"
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("the digest is %s, want %s", got, want)
	}
}

// Every result must have a form in JSON that gives the same bits again.
func TestLogprobsSurviveJSON(t *testing.T) {
	most := float32(math.MaxFloat32)
	for _, logits := range [][]float32{{-most, most}, {0}, {most, most}, vocabulary(3)} {
		p := Logprobs(logits, 0, MaxLogprobs)
		raw, err := json.Marshal(p)
		var again TokenLogprobs
		if err != nil || json.Unmarshal(raw, &again) != nil || !EqualLogprobs(p, again) {
			t.Errorf("%+v becomes %s, %v", p, raw, err)
		}
	}
	if p := Logprobs([]float32{-most, most}, 0, 0); p.Logprob != -most || p.Top != nil {
		t.Errorf("%+v, want the least number", p)
	}
	a := TokenLogprobs{Logprob: -1, Top: []Logprob{{1, -1}}}
	for _, b := range []TokenLogprobs{{Logprob: -1}, {-2, a.Top}, {-1, []Logprob{{2, -1}}}, {-1, []Logprob{{1, -2}}}} {
		if EqualLogprobs(a, b) {
			t.Errorf("%+v equals %+v", a, b)
		}
	}
}

func BenchmarkLogprobs(b *testing.B) {
	logits := vocabulary(1)
	for b.Loop() {
		Logprobs(logits, 7, MaxLogprobs)
	}
}
