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

	"colophon/model/kernel"
)

// alone returns the logits after every token of a text, computed one token at
// a time, with nothing beside it and one thread.
func alone(t interface{ Fatalf(string, ...any) }, e *Engine, ids []int) [][]float32 {
	s, err := e.Open(context.Background())
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

// A text has the logits after each of its tokens, computed by alone.
type text struct {
	ids  []int
	want [][]float32
}

// someTexts returns texts of many lengths, up to the whole context.
func someTexts(t *testing.T, c Config) []text {
	t.Helper()
	e := randomEngine(t, c, Options{Threads: 1})
	rnd := rand.New(rand.NewPCG(150, 37))
	var texts []text
	for _, n := range []int{1, 2, 3, 5, 8, 11, 16, 17, 18, 23, 31, 40, 65, c.Context} {
		ids := randomIDs(rnd, n, c.Vocab)
		texts = append(texts, text{ids, alone(t, e, ids)})
	}
	return texts
}

func bitsEqual(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

// Sequences that are computed at the same time, in any number, with any number
// of threads and split in any way, have the logits that each has alone.
func TestLogitsAreInvariant(t *testing.T) {
	c := smallShape()
	texts := someTexts(t, c)
	var engines []*Engine
	for _, threads := range []int{1, 2, 4} {
		engines = append(engines, randomEngine(t, c, Options{Threads: threads, Sequences: 16}))
	}
	rapid.Check(t, func(t *rapid.T) {
		e := rapid.SampledFrom(engines).Draw(t, "threads")
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var running sync.WaitGroup
		failures := make([]error, rapid.IntRange(1, 16).Draw(t, "sequences"))
		for i := range failures {
			x := texts[rnd.IntN(len(texts))]
			cuts := rnd.Perm(len(x.ids))[:rnd.IntN(len(x.ids))]
			slices.Sort(cuts)
			running.Go(func() { failures[i] = compare(e, x.ids, append(cuts, len(x.ids)), x.want) })
		}
		running.Wait()
		if err := errors.Join(failures...); err != nil {
			t.Fatal(err)
		}
	})
}

// compare computes ids up to each cut and compares the logits there.
func compare(e *Engine, ids, cuts []int, want [][]float32) error {
	s, err := e.Open(context.Background())
	if err != nil {
		return err
	}
	defer s.Close()
	at := 0
	for _, cut := range cuts {
		if cut == at {
			continue
		}
		logits, err := s.Next(context.Background(), ids[at:cut]...)
		if err != nil {
			return err
		}
		if !bitsEqual(logits, want[cut-1]) {
			return fmt.Errorf("logits after %d tokens, cut at %v, are not the same bits", cut, cuts)
		}
		at = cut
	}
	return nil
}

// The same for steps put together in ways that a scheduler need not think of,
// on pages where every stale value is not a number.
func TestForwardIsInvariant(t *testing.T) {
	c := smallShape()
	all := someTexts(t, c)
	n, err := load(randomCheckpoint(c, 1))
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
				p := make(page, f.layout.total)
				for j := range p {
					p[j] = float32(math.NaN())
				}
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
					t.Fatalf("row %d of %d: not the same bits", r.row, len(f.rows))
				}
			}
		}
	})
}

// The arithmetic is what the fingerprint names: if this fails, the kernels
// compute something else than they did and need a new fingerprint.
func TestFingerprintIsOfTheseBits(t *testing.T) {
	e := randomEngine(t, smallShape(), Options{Threads: 1})
	h := sha256.New()
	for _, logits := range alone(t, e, randomIDs(rand.New(rand.NewPCG(5, 5)), 150, 37)) {
		if err := binary.Write(h, binary.LittleEndian, logits); err != nil {
			t.Fatal(err)
		}
	}
	got := e.Info().Kernel + " " + hex.EncodeToString(h.Sum(nil))
	const want = "portable/1 dd5ed3f6f094f7d2f4f4c9aa419ef4e2d26eb053ebf75f714338983b010c9819"
	if got != want {
		t.Errorf("logits are %s, want %s", got, want)
	}
}
