package main

import (
	"slices"
	"testing"
	"testing/fstest"

	"colophon/model/gpt2"
)

func TestExportedWeightsAreReadBack(t *testing.T) {
	shape := gpt2.Config{Vocab: 3, Context: 2, Embd: 4, Layers: 2, Heads: 2, Inner: 16, Epsilon: 1e-5, EOS: 2}
	var weights [][]float32
	next := 0
	for _, dims := range shape.Tensors() {
		n := dims[0]
		if len(dims) == 2 {
			n *= dims[1]
		}
		w := make([]float32, n)
		for i := range w {
			next++
			w[i] = float32(next) / 16 // a number that half precision can represent exactly
		}
		weights = append(weights, w)
	}
	text := `{"model_type": "gpt2", "vocab_size": 3, "n_positions": 2, "n_embd": 4, "n_layer": 2, "n_head": 2, "eos_token_id": 2}`
	for _, dtype := range []string{"F16", "F32"} {
		file, err := safetensors(shape, weights, dtype)
		if err != nil {
			t.Fatal(err)
		}
		checkpoint, err := gpt2.ReadCheckpoint(fstest.MapFS{"config.json": {Data: []byte(text)}, "model.safetensors": {Data: file}})
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for name := range shape.Tensors() {
			got, err := checkpoint.Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, weights[i]) {
				t.Errorf("%s: %s is not what was written", dtype, name)
			}
			i++
		}
	}
}
