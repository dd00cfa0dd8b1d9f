package main

import (
	"math"
	"slices"
	"testing"
	"testing/fstest"

	"colophon/model/gpt2"

	"pgregory.net/rapid"
)

func TestHalf(t *testing.T) {
	for h := range 1 << 16 {
		if h&0x7c00 == 0x7c00 {
			continue // infinities and NaN
		}
		if got := half(widen(uint16(h))); got != uint16(h) {
			t.Fatalf("half(widen(%#04x)) is %#04x", h, got)
		}
	}
	if got := widen(0x3c00); got != 1 {
		t.Errorf("0x3c00 is %v, want 1", got)
	}
	for x, want := range map[float32]uint16{65519: 0x7bff, 65520: 0x7c00, float32(math.Inf(-1)): 0xfc00} {
		if got := half(x); got != want {
			t.Errorf("half(%v) is %#04x, want %#04x", x, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		x := float32(rapid.Float64Range(-65500, 65500).Draw(t, "x") * math.Pow(2, float64(-rapid.IntRange(0, 40).Draw(t, "scale"))))
		h := half(x)
		off := math.Abs(float64(x) - float64(widen(h)))
		for _, other := range []uint16{h - 1, h + 1} {
			if h&0x7fff == 0 && other == h-1 || other&0x7c00 == 0x7c00 {
				continue
			}
			d := math.Abs(float64(x) - float64(widen(other)))
			if d < off || d == off && h&1 == 1 {
				t.Fatalf("half(%v) is %v, but %v is nearer or even", x, widen(h), widen(other))
			}
		}
	})
}

func TestSafetensors(t *testing.T) {
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
			w[i] = float32(next) / 16 // exact in half precision
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
