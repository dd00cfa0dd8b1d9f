package gpt2

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"colophon/model"
	"colophon/model/kernel"
)

// alone returns the logits after every token of a text. It computes the text token by
// token, with no other sequence.
func alone(t interface{ Fatalf(string, ...any) }, e *Engine, ids []int) [][]float32 {
	s, err := e.Open(context.Background(), "")
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer s.Close()
	var all [][]float32
	for _, id := range ids {
		logits, err := s.Next(context.Background(), id)
		if err != nil {
			t.Fatalf("Next: %v", err)
		}
		all = append(all, slices.Clone(logits))
	}
	return all
}

// A text is a list of token ids with the logits that alone returns for them.
type text struct {
	ids  []int
	want [][]float32
}

// someTexts returns texts of many lengths, up to the whole context. One thread computes
// their logits.
func someTexts(t testing.TB, c Config, weights kernel.Format) []text {
	t.Helper()
	e := randomEngine(t, c, Options{Threads: 1, Weights: weights})
	rnd := rand.New(rand.NewPCG(150, 37))
	var texts []text
	for _, n := range []int{1, 2, 3, 5, 8, 11, 16, 17, 18, 23, 31, 40, 65, c.Context} {
		ids := randomIDs(rnd, n, c.Vocab)
		texts = append(texts, text{ids, alone(t, e, ids)})
	}
	longest := texts[len(texts)-1].ids
	for _, same := range []int{40, pageTokens, 70, 2 * pageTokens} { // texts that begin alike
		ids := append(slices.Clone(longest[:same]), randomIDs(rnd, c.Context-same, c.Vocab)...)
		texts = append(texts, text{ids, alone(t, e, ids)})
	}
	return texts
}

func bitsEqual(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

// forEveryFormat runs a subtest for each format of weights.
func forEveryFormat(t *testing.T, f func(*testing.T, kernel.Format)) {
	for _, weights := range everyFormat() {
		t.Run(weights.String(), func(t *testing.T) { f(t, weights) })
	}
}

// The logits of a sequence must have the same bits alone and together with any other
// sequences. The number of threads, the split of the tokens between calls, the contents of the
// prefix cache, and guesses of later tokens must make no difference.
func TestLogitsAreInvariant(t *testing.T) {
	forEveryFormat(t, func(t *testing.T, weights kernel.Format) {
		engines, texts := enginesAndTexts(t, weights)
		rapid.Check(t, func(t *rapid.T) {
			e := rapid.SampledFrom(engines).Draw(t, "threads")
			sequences := rapid.IntRange(1, 16).Draw(t, "sequences")
			if err := together(e, texts, sequences, rapid.Uint64().Draw(t, "seed")); err != nil {
				t.Fatal(err)
			}
		})
		drafts := DraftStats{}
		for _, e := range engines {
			d := e.DraftStats()
			drafts.Accepted, drafts.Rejected = drafts.Accepted+d.Accepted, drafts.Rejected+d.Rejected
		}
		if drafts.Accepted == 0 || drafts.Rejected == 0 {
			t.Errorf("%+v, want some of both", drafts)
		}
	})
}

// FuzzLogitsAreInvariant is like TestLogitsAreInvariant, with inputs from the fuzzer.
func FuzzLogitsAreInvariant(f *testing.F) {
	var engines [3][]*Engine
	var texts [3][]text
	for i, weights := range everyFormat() {
		engines[i], texts[i] = enginesAndTexts(f, weights)
	}
	f.Add(uint8(0), uint8(0), uint8(3), uint64(1))
	f.Add(uint8(1), uint8(1), uint8(8), uint64(2))
	f.Add(uint8(2), uint8(2), uint8(16), uint64(3))
	f.Fuzz(func(t *testing.T, weights, threads, sequences uint8, seed uint64) {
		w := weights % 3
		if err := together(engines[w][threads%3], texts[w], 1+int(sequences%16), seed); err != nil {
			t.Fatal(err)
		}
	})
}

// enginesAndTexts returns engines with different numbers of threads, and texts to
// compute on them.
func enginesAndTexts(t testing.TB, weights kernel.Format) ([]*Engine, []text) {
	c := smallShape()
	var engines []*Engine
	for _, threads := range []int{1, 2, 4} {
		// The cache is smaller than the texts, so that pages are evicted too.
		e := randomEngine(t, c, Options{Threads: threads, Sequences: 16, Weights: weights, Prefixes: 5 * pageBytesOf(c, weights), Speculate: true})
		e.alwaysDraft()
		engines = append(engines, e)
	}
	return engines, someTexts(t, c, weights)
}

// together computes texts at the same time, each split at random, and checks their
// logits.
func together(e *Engine, texts []text, sequences int, seed uint64) error {
	rnd := rand.New(rand.NewPCG(seed, 0))
	var running sync.WaitGroup
	failures := make([]error, sequences)
	for i := range failures {
		x := texts[rnd.IntN(len(texts))]
		cuts := rnd.Perm(len(x.ids))[:rnd.IntN(len(x.ids))]
		slices.Sort(cuts)
		scope := []string{"", "one", "two"}[rnd.IntN(3)]
		guesses := rand.New(rand.NewPCG(seed, 1+uint64(i)))
		if rnd.IntN(3) == 0 {
			guesses = nil
		}
		running.Go(func() { failures[i] = compare(e, scope, x.ids, append(cuts, len(x.ids)), x.want, guesses) })
	}
	running.Wait()
	return errors.Join(failures...)
}

// compare runs ids through the engine in parts that end at the cuts. It returns an error if
// the logits before a cut differ from want. It looks at the last logits of a part, or at
// more, up to all of the part. If rnd is not nil, it guesses later tokens.
func compare(e *Engine, scope string, ids, cuts []int, want [][]float32, rnd *rand.Rand) error {
	s, err := e.Open(context.Background(), scope)
	if err != nil {
		return err
	}
	defer s.Close()
	at := 0
	for _, cut := range cuts {
		if cut == at {
			continue
		}
		n := 1 + cut%(cut-at)
		if rnd != nil {
			s.Expect(someGuesses(rnd, ids[cut:], e.info.Vocab))
		}
		logits, err := s.NextEach(context.Background(), n, ids[at:cut]...)
		if err != nil {
			return err
		}
		if !slices.EqualFunc(logits, want[cut-n:cut], bitsEqual) {
			return fmt.Errorf("the last %d logits after %d tokens, cut at %v, have other bits", n, cut, cuts)
		}
		at = cut
	}
	return nil
}

// someGuesses returns guesses of the tokens in next. Some are wrong, and there may be more of
// them. Their chances are so high that the engine computes them whatever a step takes, unless
// there are too many sequences.
func someGuesses(rnd *rand.Rand, next []int, vocab int) []model.Guess {
	guesses := make([]model.Guess, rnd.IntN(10))
	for i := range guesses {
		guesses[i] = model.Guess{Token: rnd.IntN(vocab), Chance: math.Pow(10, float64(20-i))}
		if i < len(next) && rnd.IntN(5) > 0 {
			guesses[i].Token = next[i]
		}
	}
	return guesses
}

// TestForwardIsInvariant computes steps with random rows of several sequences, also with
// mixes that the engine would not plan. The logits must have the same bits as for a
// sequence alone. The pages are full of NaNs at first, so that a read of stale values
// would change the logits.
func TestForwardIsInvariant(t *testing.T) {
	forEveryFormat(t, testForwardIsInvariant)
}

func testForwardIsInvariant(t *testing.T, weights kernel.Format) {
	c := smallShape()
	all := someTexts(t, c, weights)
	n, err := load(randomCheckpoint(c, 1), weights, 2)
	if err != nil {
		t.Fatal(err)
	}
	pools := []*kernel.Pool{kernel.NewPool(1), kernel.NewPool(3)}
	for _, p := range pools {
		t.Cleanup(p.Close)
	}
	rapid.Check(t, func(t *rapid.T) {
		f := newForward(n, rapid.SampledFrom(pools).Draw(t, "pool"), 60, 60)
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		type partial struct {
			text
			at int
			cache
		}
		texts := make([]partial, rapid.IntRange(1, 5).Draw(t, "texts"))
		for i := range texts {
			texts[i].text = all[rnd.IntN(len(all))]
			for range (len(texts[i].ids) + pageTokens - 1) / pageTokens {
				p := f.layout.newPage()
				p.Set(0, 1, slices.Repeat([]float32{float32(math.NaN())}, p.Len()))
				texts[i].pages = append(texts[i].pages, p)
			}
		}
		for left := true; left; {
			left = false
			f.rows = f.rows[:0]
			type result struct {
				row  int
				want []float32
			}
			var results []result
			for _, i := range rnd.Perm(len(texts)) {
				x := &texts[i]
				take := rnd.IntN(min(len(x.ids)-x.at, 60-len(f.rows)) + 1)
				for range take {
					r := row{cache: &x.cache, position: x.at, token: x.ids[x.at]}
					if rnd.IntN(2) == 0 {
						r.logits = make([]float32, c.Vocab)
						results = append(results, result{len(f.rows), x.want[x.at]})
					}
					f.rows = append(f.rows, r)
					x.at++
				}
				left = left || x.at < len(x.ids)
			}
			f.run()
			for _, r := range results {
				if !bitsEqual(f.rows[r.row].logits, r.want) {
					t.Fatalf("row %d of %d has other bits", r.row, len(f.rows))
				}
			}
		}
	})
}

// If this test fails, the kernels compute different bits than before and need a new
// fingerprint.
func TestFingerprintNamesTheseBits(t *testing.T) {
	want := map[string]string{
		"portable/3 f32":  "dd5ed3f6f094f7d2f4f4c9aa419ef4e2d26eb053ebf75f714338983b010c9819",
		"portable/3 f16":  "516a887492805914fd469aa6dfd414f54a1c01bf957454f367d99aa373803559",
		"portable/3 int8": "d1cfc80d33491388c2ef907417de1063ee7389d4fbc9ebccc03aa2f355b54f24",
		"avx2-fma/1 f32":  "5a72524ffa3b6676fb47e87ce636a1ce1318bb3b457b0e95cbce4215a1daf77e",
		"avx2-fma/1 f16":  "d9bbec094cb549470e7e68a51ab362a216698918ff8932489734469622505dc1",
	}
	forEveryFormat(t, func(t *testing.T, weights kernel.Format) {
		e := randomEngine(t, smallShape(), Options{Threads: 1, Weights: weights})
		h := sha256.New()
		for _, logits := range alone(t, e, randomIDs(rand.New(rand.NewPCG(5, 5)), 150, 37)) {
			if err := binary.Write(h, binary.LittleEndian, logits); err != nil {
				t.Fatal(err)
			}
		}
		name := e.Info().Kernel + " " + weights.String()
		if got := hex.EncodeToString(h.Sum(nil)); got != want[name] {
			t.Errorf("logits of %s are %s, want %s", name, got, want[name])
		}
	})
}
