package gomlx

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"slices"
	"testing"

	"colophon/model"
	"colophon/model/gpt2"
	"colophon/model/kernel"

	"pgregory.net/rapid"
)

const tolerance = 1e-4

var tiny = os.DirFS("../gpt2/testdata/tiny")

func open(t testing.TB, fsys fs.FS) *Engine {
	t.Helper()
	checkpoint, err := gpt2.ReadCheckpoint(fsys)
	if err != nil {
		t.Fatal(err)
	}
	defer checkpoint.Close()
	e, err := New("tiny", checkpoint, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func sequenceOf(t testing.TB, e model.Engine) model.Sequence {
	t.Helper()
	s, err := e.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

type goldenCase struct {
	Name   string `json:"name"`
	IDs    []int  `json:"input_ids"`
	Offset int    `json:"logits_offset_bytes"`
	Shape  [2]int `json:"logits_shape"`
	Greedy []int  `json:"greedy"`
}

// golden returns the cases and the logits of each position.
func golden(t *testing.T) ([]goldenCase, [][][]float32) {
	t.Helper()
	var file struct{ Cases []goldenCase }
	raw, err := fs.ReadFile(tiny, "cases.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	if raw, err = fs.ReadFile(tiny, "logits.f32"); err != nil {
		t.Fatal(err)
	}
	var logits [][][]float32
	for _, c := range file.Cases {
		numbers := raw[c.Offset:]
		rows := make([][]float32, c.Shape[0])
		for i := range rows {
			for range c.Shape[1] {
				rows[i] = append(rows[i], math.Float32frombits(binary.LittleEndian.Uint32(numbers)))
				numbers = numbers[4:]
			}
		}
		logits = append(logits, rows)
	}
	return file.Cases, logits
}

type fatal interface {
	Helper()
	Fatalf(string, ...any)
}

func distance(t fatal, got, want []float32) float64 {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d logits, want %d", len(got), len(want))
	}
	most := 0.0
	for i := range got {
		d := math.Abs(float64(got[i]) - float64(want[i]))
		if !(d <= most) {
			most = d
		}
	}
	return most
}

func best(logits []float32) int { return slices.Index(logits, slices.Max(logits)) }

// The golden vectors were computed by Hugging Face's GPT-2.
func TestGolden(t *testing.T) {
	e := open(t, tiny)
	cases, want := golden(t)
	if len(cases) == 0 {
		t.Fatal("no cases")
	}
	for i, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			s := sequenceOf(t, e)
			var logits []float32
			for position, id := range c.IDs {
				var err error
				if logits, err = s.Next(t.Context(), id); err != nil {
					t.Fatal(err)
				}
				if d := distance(t, logits, want[i][position]); !(d <= tolerance) {
					t.Errorf("position %d: logits differ by %g", position, d)
				}
			}
			for n, id := range c.Greedy {
				if got := best(logits); got != id {
					t.Fatalf("greedy token %d is %d, want %d", n, got, id)
				}
				if n+1 < len(c.Greedy) {
					var err error
					if logits, err = s.Next(t.Context(), id); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// The logits have the same bits however the tokens are split between calls and
// whatever other sequences do in between.
func TestSplit(t *testing.T) {
	e := open(t, tiny)
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.IntRange(0, e.info.Vocab-1), 1, 12).Draw(t, "ids")
		whole, other, parts := openIn(t, e), openIn(t, e), openIn(t, e)
		defer whole.Close()
		defer other.Close()
		defer parts.Close()
		want, err := whole.Next(context.Background(), ids...)
		if err != nil {
			t.Fatal(err)
		}
		var got []float32
		for rest := ids; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "part")
			if got, err = parts.Next(context.Background(), rest[:n]...); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
			if _, err := other.Next(context.Background(), ids[0]); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatal("the logits depend on the split")
		}
	})
}

func openIn(t *rapid.T, e model.Engine) model.Sequence {
	s, err := e.Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The engine and the native one, which have no arithmetic in common, agree, as
// far as the native one's weights are the same.
func TestNative(t *testing.T) {
	for weights, tolerance := range map[kernel.Format]float64{kernel.F32: tolerance, kernel.F16: 0.02, kernel.Int8: 0.5} {
		t.Run(weights.String(), func(t *testing.T) { testNative(t, weights, tolerance) })
	}
}

func testNative(t *testing.T, weights kernel.Format, tolerance float64) {
	checkpoint, err := gpt2.ReadCheckpoint(tiny)
	if err != nil {
		t.Fatal(err)
	}
	defer checkpoint.Close()
	native, err := gpt2.New(checkpoint, nil, gpt2.Options{Weights: weights})
	if err != nil {
		t.Fatal(err)
	}
	defer native.Close()
	e := open(t, tiny)
	if got, want := e.Info().Weights, native.Info().Weights; weights == kernel.F32 && got != want {
		t.Errorf("weights are %s, the native engine says %s", got, want)
	}
	most := 0.0
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.IntRange(0, e.info.Vocab-1), 1, e.info.Context).Draw(t, "ids")
		a, b := openIn(t, e), openIn(t, native)
		defer a.Close()
		defer b.Close()
		got, err := a.Next(context.Background(), ids...)
		if err != nil {
			t.Fatal(err)
		}
		want, err := b.Next(context.Background(), ids...)
		if err != nil {
			t.Fatal(err)
		}
		d := distance(t, got, want)
		most = max(most, d)
		if !(d <= tolerance) {
			t.Fatalf("logits differ by %g", d)
		}
	})
	t.Logf("largest difference of a logit: %.2g", most)
}

// Sequences on several goroutines get the logits they would get alone.
func TestConcurrent(t *testing.T) {
	e := open(t, tiny)
	cases, want := golden(t)
	done := make(chan error)
	for range 4 {
		go func() {
			done <- func() error {
				for i, c := range cases {
					s, err := e.Open(t.Context())
					if err != nil {
						return err
					}
					defer s.Close()
					got, err := s.Next(t.Context(), c.IDs...)
					if err != nil {
						return err
					}
					if d := distance(t, got, want[i][len(c.IDs)-1]); !(d <= tolerance) {
						return errors.New(c.Name + " differs")
					}
				}
				return nil
			}()
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestSequenceErrors(t *testing.T) {
	e := open(t, tiny)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name   string
		ctx    context.Context
		tokens []int
		want   string
	}{
		{"none", t.Context(), nil, "no tokens to compute"},
		{"negative", t.Context(), []int{1, -1}, "no such token: -1, the model has 256"},
		{"unknown", t.Context(), []int{256}, "no such token: 256, the model has 256"},
		{"too many", t.Context(), make([]int, 64), "too many tokens for the context: 65 tokens, the model has room for 64"},
		{"cancelled", cancelled, []int{1}, "context canceled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := sequenceOf(t, e)
			if _, err := s.Next(t.Context(), 7); err != nil {
				t.Fatal(err)
			}
			for range 2 { // an error lasts
				logits, err := s.Next(c.ctx, c.tokens...)
				if err == nil || err.Error() != c.want || logits != nil {
					t.Fatalf("error %v with %d logits, want %q", err, len(logits), c.want)
				}
			}
			if _, err := s.Next(t.Context(), 7); err == nil {
				t.Error("a sequence can be used after an error")
			}
		})
	}
	t.Run("closed", func(t *testing.T) {
		s := sequenceOf(t, e)
		s.Close()
		s.Close()
		if _, err := s.Next(t.Context(), 1); !errors.Is(err, errClosed) {
			t.Errorf("error %v, want %v", err, errClosed)
		}
	})
	t.Run("open cancelled", func(t *testing.T) {
		if _, err := e.Open(cancelled); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want %v", err, context.Canceled)
		}
	})
	t.Run("full", func(t *testing.T) {
		s := sequenceOf(t, e)
		if _, err := s.Next(t.Context(), make([]int, 64)...); err != nil {
			t.Errorf("a sequence of the whole context: %v", err)
		}
	})
}
