package gomlx

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"testing"

	"colophon/model"
	"colophon/model/gpt2"
	"colophon/model/kernel"
	"colophon/model/modeltest"

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

// TestLogitsMatchTheGoldenVectors compares logits with the golden vectors, which Hugging
// Face's GPT-2 computed. The logits must be close to them.
func TestLogitsMatchTheGoldenVectors(t *testing.T) {
	modeltest.TestGolden(t, open(t, tiny), modeltest.Cases(t, tiny), tolerance, true)
}

// The logits must have the same bits for any split of the tokens, and together with any
// other sequences.
func TestLogitsAreInvariant(t *testing.T) {
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
	s, err := e.Open(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// This engine and the native engine share no arithmetic. Their logits must agree as
// closely as the format of the native engine's weights allows.
func TestAgreesWithTheNativeEngine(t *testing.T) {
	for weights, tolerance := range map[kernel.Format]float64{kernel.F32: tolerance, kernel.F16: 0.02, kernel.Int8: 0.5} {
		t.Run(weights.String(), func(t *testing.T) { testAgrees(t, weights, tolerance) })
	}
}

func testAgrees(t *testing.T, weights kernel.Format, tolerance float64) {
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
		d := modeltest.MaxDifference(t, got, want)
		most = max(most, d)
		if !(d <= tolerance) {
			t.Fatalf("logits differ by %g", d)
		}
	})
	t.Logf("largest difference of a logit: %.2g", most)
}

// The graph must have the logits of the reference for every form of a checkpoint, as the
// native engine has.
func TestEveryFormOfACheckpointHasTheLogitsOfTheReference(t *testing.T) {
	for _, v := range modeltest.Variants() {
		t.Run(v.Name, func(t *testing.T) {
			e := open(t, v.Files)
			modeltest.TestVariant(t, e, v, tolerance)
			checkpoint, err := gpt2.ReadCheckpoint(v.Files)
			if err != nil {
				t.Fatal(err)
			}
			defer checkpoint.Close()
			native, err := gpt2.New(checkpoint, nil, gpt2.Options{Weights: kernel.F32})
			if err != nil {
				t.Fatal(err)
			}
			defer native.Close()
			if got, want := e.Info().Weights, native.Info().Weights; got != want {
				t.Errorf("weights are %s, the native engine says %s", got, want)
			}
		})
	}
}

func TestConcurrentSequencesHaveTheGoldenLogits(t *testing.T) {
	e := open(t, tiny)
	cases := modeltest.Cases(t, tiny)
	done := make(chan error)
	for range 4 {
		go func() {
			done <- func() error {
				for _, c := range cases {
					s, err := e.Open(t.Context(), "")
					if err != nil {
						return err
					}
					defer s.Close()
					got, err := s.Next(t.Context(), c.IDs...)
					if err != nil {
						return err
					}
					if d := modeltest.MaxDifference(t, got, c.Logits[len(c.IDs)-1]); !(d <= tolerance) {
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

func TestNextRefusesInvalidTokens(t *testing.T) { modeltest.TestRefusals(t, open(t, tiny)) }

func TestNextEachReturnsTheLogitsOfNext(t *testing.T) {
	modeltest.TestEach(t, open(t, tiny), []int{7, 1, 30, 30, 2, 9, 100})
}
