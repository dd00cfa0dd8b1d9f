package gpt2

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"colophon/model"
	"colophon/model/kernel"
)

// tinyModel returns a complete model: the tiny network and a tokenizer with one token
// for each byte.
func tinyModel(t testing.TB) fs.FS {
	t.Helper()
	m := fstest.MapFS{
		"vocab.json": {Data: []byte(byteVocab())},
		"merges.txt": {Data: []byte("#version: 0.2\n")},
	}
	for _, name := range []string{"config.json", "model.safetensors"} {
		b, err := os.ReadFile("testdata/tiny/" + name)
		if err != nil {
			t.Fatal(err)
		}
		m[name] = &fstest.MapFile{Data: b}
	}
	return m
}

func TestLoadNeedsFourFiles(t *testing.T) {
	e, err := Load(tinyModel(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if ids := e.Encode("aé"); !slices.Equal(ids, []int{97, 0xc3, 0xa9}) || string(e.Decode(ids)) != "aé" {
		t.Errorf("%v", ids)
	}
	for _, name := range []string{"config.json", "model.safetensors", "vocab.json", "merges.txt"} {
		m := tinyModel(t).(fstest.MapFS)
		delete(m, name)
		if _, err := Load(m, Options{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// A text must be the same whether it is sampled alone or together with other texts. It
// must also be the same if it is interrupted after any delta and continued.
func TestGenerateIsInvariant(t *testing.T) {
	forEveryFormat(t, testGenerateIsInvariant)
}

func testGenerateIsInvariant(t *testing.T, weights kernel.Format) {
	load := func(opts Options) *Engine {
		e, err := Load(tinyModel(t), opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.Close)
		return e
	}
	one, many := load(Options{Threads: 1, Sequences: 1, Weights: weights}), load(Options{Threads: 4, Sequences: 5, Weights: weights, Speculate: true})
	many.alwaysDraft()
	run := func(e *Engine, past []int, seed uint64) ([]model.Delta, error) {
		var deltas []model.Delta
		p := model.Params{MaxTokens: 40, Temperature: 1.2, TopK: 60, TopP: 0.97, Seed: seed, Stop: []string{"zq", "éa", "\x01"}}
		if seed%2 == 1 {
			p.PresencePenalty, p.FrequencyPenalty, p.RepetitionPenalty, p.MinP = 0.5, 0.25, 1.3, 0.01
			p.LogitBias, p.MinTokens = map[int]float64{97: 2, 200: -100}, 20
			p.Logprobs = new(5)
		}
		_, err := model.Generate(t.Context(), e, []int{1, 2, 3, int(seed)}, past, p, func(d model.Delta) error {
			deltas = append(deltas, d)
			return nil
		})
		return deltas, err
	}
	var running sync.WaitGroup
	for seed := range uint64(6) {
		want, err := run(one, nil, seed)
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			var past []int
			for i := range len(want) + 1 {
				got, err := run(many, past, seed)
				if diff := cmp.Diff(want[i:], append([]model.Delta{}, got...)); err != nil || diff != "" {
					t.Errorf("seed %d, after %d deltas: %v %s", seed, i, err, diff)
					return
				}
				if i < len(want) {
					past = append(past, want[i].Tokens...)
				}
			}
		})
	}
	running.Wait()
}

// TestPublishedWeightsContinueAsPublished needs the published weights, which have 548 MB
// and are not part of this repository. Without them, it is skipped.
func TestPublishedWeightsContinueAsPublished(t *testing.T) {
	dir := os.Getenv("COLOPHON_TEST_GPT2")
	if dir == "" {
		t.Skip("COLOPHON_TEST_GPT2 does not name a directory with the published GPT-2 (config.json, model.safetensors, vocab.json, merges.txt)")
	}
	e, err := Load(os.DirFS(dir), Options{Weights: kernel.F32})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	const weights = "sha256:248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707/f32"
	if got := e.Info().Weights; got != weights {
		t.Fatalf("weights are %s, want %s", got, weights)
	}
	prompt := e.Encode("The dog")
	if !slices.Equal(prompt, []int{464, 3290}) {
		t.Fatalf("prompt is %v", prompt)
	}
	var got []int
	_, err = model.Generate(t.Context(), e, prompt, nil, model.Params{MaxTokens: 16, TopP: 1}, func(d model.Delta) error {
		got = append(got, d.Tokens...)
		return nil
	})
	want := []int{373, 1043, 287, 257, 2214, 1474, 262, 16246, 286, 262, 2688, 290, 2688, 27262, 13}
	if err != nil || len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		t.Errorf("continued by %v, %v, want %v", got, err, want)
	}
}
