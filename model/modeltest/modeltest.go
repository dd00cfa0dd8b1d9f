// Package modeltest tests that implementations of [model.Engine] keep its
// contract, and compares their logits with golden vectors.
package modeltest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"testing"

	"colophon/model"
)

// A Case is a golden vector. It has a prompt, and the results that the reference
// implementation computes from the prompt.
type Case struct {
	Name   string
	IDs    []int       // token ids of the prompt
	Logits [][]float32 // logits after each token of the prompt
	Greedy []int       // token ids of the continuation with the likeliest tokens
}

// Cases reads the golden vectors in cases.json and logits.f32. The numbers in
// logits.f32 are little-endian float32.
func Cases(t testing.TB, fsys fs.FS) []Case {
	t.Helper()
	var file struct {
		Cases []struct {
			Name   string `json:"name"`
			IDs    []int  `json:"input_ids"`
			Offset int    `json:"logits_offset_bytes"`
			Shape  [2]int `json:"logits_shape"` // number of tokens, size of the vocabulary
			Greedy []int  `json:"greedy"`
		} `json:"cases"`
	}
	b, err := fs.ReadFile(fsys, "cases.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Cases) < 5 {
		t.Fatalf("%d golden cases, want at least 5", len(file.Cases))
	}
	logits := Floats(t, fsys, "logits.f32")
	var cases []Case
	for _, c := range file.Cases {
		x := Case{Name: c.Name, IDs: c.IDs, Greedy: c.Greedy}
		for row := range slices.Chunk(logits[c.Offset/4:][:c.Shape[0]*c.Shape[1]], c.Shape[1]) {
			x.Logits = append(x.Logits, row)
		}
		cases = append(cases, x)
	}
	return cases
}

// Floats reads a file of little-endian float32 numbers.
func Floats(t testing.TB, fsys fs.FS, name string) []float32 {
	t.Helper()
	b, err := fs.ReadFile(fsys, name)
	if err != nil {
		t.Fatal(err)
	}
	f := make([]float32, len(b)/4)
	for i := range f {
		f[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return f
}

// MaxDifference returns the largest difference between elements of two vectors, which
// must have the same length. If an element is NaN, the result is NaN.
func MaxDifference(t interface {
	Helper()
	Fatalf(string, ...any)
}, got, want []float32) float64 {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d values, want %d", len(got), len(want))
	}
	var most float64
	for i := range got {
		most = max(most, math.Abs(float64(got[i])-float64(want[i])))
	}
	return most
}

// Open opens a sequence that is closed at the end of the test.
func Open(t testing.TB, e model.Engine) model.Sequence {
	t.Helper()
	s, err := e.Open(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// TestGolden computes each case token by token. After each token, the logits must
// differ from the logits of the case by no more than tolerance. If greedy is true, the
// likeliest tokens must be the tokens in Greedy.
func TestGolden(t *testing.T, e model.Engine, cases []Case, tolerance float64, greedy bool) {
	t.Helper()
	var most float64
	for _, c := range cases {
		s := Open(t, e)
		for i, id := range c.IDs {
			got, err := s.Next(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			d := MaxDifference(t, got, c.Logits[i])
			most = max(most, d)
			if !(d <= tolerance) {
				t.Errorf("%s: logits after %d tokens differ by %g", c.Name, i+1, d)
			}
		}
		s.Close()
		if !greedy {
			continue
		}
		s = Open(t, e)
		next, text := c.IDs, []int{}
		for range c.Greedy {
			got, err := s.Next(t.Context(), next...)
			if err != nil {
				t.Fatal(err)
			}
			best := slices.Index(got, slices.Max(got))
			text, next = append(text, best), []int{best}
		}
		s.Close()
		if !slices.Equal(text, c.Greedy) {
			t.Errorf("%s: continued by %v, want %v", c.Name, text, c.Greedy)
		}
	}
	t.Logf("largest difference of a logit: %.2g", most)
}

// TestEach computes tokens in parts of several sizes. The logits that NextEach returns for
// each token must have the bits that Next returns after that token.
func TestEach(t *testing.T, e model.Engine, ids []int) {
	t.Helper()
	alone := Open(t, e)
	var want [][]float32
	for _, id := range ids {
		logits, err := alone.Next(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, slices.Clone(logits))
	}
	for _, part := range []int{1, 2, 5, len(ids)} {
		for _, n := range []int{1, (part + 1) / 2, part} {
			s, at := Open(t, e), 0
			for tokens := range slices.Chunk(ids, part) {
				n := min(n, len(tokens))
				got, err := s.NextEach(t.Context(), n, tokens...)
				at += len(tokens)
				if err != nil || !slices.EqualFunc(got, want[at-n:at], func(a, b []float32) bool { return slices.EqualFunc(a, b, sameBits) }) {
					t.Errorf("parts of %d tokens, the last %d logits after %d tokens: %v, or other bits", part, n, at, err)
				}
			}
			s.Close()
		}
	}
	for _, n := range []int{-1, 0, 3} {
		s := Open(t, e)
		if logits, err := s.NextEach(t.Context(), n, ids[:2]...); err == nil || logits != nil {
			t.Errorf("%d of the logits after 2 tokens: %v", n, err)
		}
		if _, err := s.Next(t.Context(), ids...); err == nil {
			t.Errorf("%d of the logits after 2 tokens: the next call succeeds", n)
		}
		s.Close()
	}
}

func sameBits(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }

// TestRefusals makes invalid calls of an engine. Each call must return the right error.
// After the first error of a sequence, all later calls must return the same error.
func TestRefusals(t *testing.T, e model.Engine) {
	t.Helper()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	room, vocab := e.Info().Context, e.Info().Vocab
	for _, c := range []struct {
		name    string
		ctx     context.Context
		tokens  []int
		want    error
		message string
	}{
		{"no token", t.Context(), nil, nil, "no tokens to compute"},
		{"negative token", t.Context(), []int{1, -1}, model.ErrToken, fmt.Sprintf("no such token: -1, the model has %d", vocab)},
		{"unknown token", t.Context(), []int{0, vocab}, model.ErrToken, fmt.Sprintf("no such token: %d, the model has %d", vocab, vocab)},
		{"too many tokens", t.Context(), make([]int, room), model.ErrContext,
			fmt.Sprintf("too many tokens for the context: %d tokens, the model has room for %d", room+1, room)},
		{"cancelled", cancelled, []int{1}, context.Canceled, "context canceled"},
	} {
		s := Open(t, e)
		if _, err := s.Next(t.Context(), 7); err != nil {
			t.Fatal(err)
		}
		logits, err := s.Next(c.ctx, c.tokens...)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || err.Error() != c.message || logits != nil {
			t.Errorf("%s: error %v with %d logits, want %v, %q", c.name, err, len(logits), c.want, c.message)
		}
		if logits, again := s.Next(t.Context(), 7); !errors.Is(again, err) || again.Error() != err.Error() || logits != nil {
			t.Errorf("%s: after the error: %v with %d logits", c.name, again, len(logits))
		}
		s.Close()
	}

	s := Open(t, e)
	if _, err := s.Next(t.Context(), make([]int, room)...); err != nil {
		t.Errorf("a full context: %v", err)
	}
	if _, err := s.Next(t.Context(), 0); !errors.Is(err, model.ErrContext) {
		t.Errorf("one more: %v", err)
	}
	s.Close()

	s = Open(t, e)
	s.Close()
	s.Close()
	if _, err := s.Next(t.Context(), 0); err == nil || err.Error() != "sequence is closed" {
		t.Errorf("Next after Close: %v", err)
	}
	if _, err := e.Open(cancelled, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("Open with a context that is done: %v", err)
	}
}
