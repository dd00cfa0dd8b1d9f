package gpt2

import (
	"bytes"
	"math"
	"testing/fstest"
)

// randomCheckpoint returns a checkpoint of pseudo-random values. The values vary more
// than those of Random, so that every part of a network affects the logits.
func randomCheckpoint(c Config, seed uint64) *Checkpoint { return scaledCheckpoint(c, seed, 1) }

// scaledCheckpoint is like randomCheckpoint, but multiplies the deviations of all
// values by factor.
func scaledCheckpoint(c Config, seed uint64, factor float64) *Checkpoint {
	return computedCheckpoint(c, func(name string, shape []int) func(uint64) float32 {
		mean, scale := 0.0, 0.2 // scale is smaller for larger matrices
		switch {
		case isGain(name):
			mean = 1
		case len(shape) == 2:
			scale = 2 / math.Sqrt(float64(c.Embd))
		}
		scale *= factor
		return func(i uint64) float32 {
			u := float64(splitMix64(seed, i)>>11)/(1<<53)*2 - 1
			return float32(mean + float64(scale*u))
		}
	})
}

// writeSafetensors returns a safetensors file with the tensors in the order given.
func writeSafetensors(tensors []fileTensor) []byte {
	var out []Tensor
	for _, t := range tensors {
		out = append(out, Tensor{t.name, t.dtype, t.shape, bytes.NewReader(t.data)})
	}
	var b bytes.Buffer
	if err := WriteSafetensors(&b, out); err != nil {
		panic(err)
	}
	return b.Bytes()
}

type fileTensor struct {
	name, dtype string
	shape       []int
	data        []byte
}

// smallConfig is the config.json of a small network. None of its sizes is a multiple of
// a block size of the kernels, so that tests cover incomplete blocks.
const smallConfig = `{"model_type":"gpt2","vocab_size":37,"n_positions":150,"n_embd":27,"n_layer":2,"n_head":3,"n_inner":50,"eos_token_id":36}`

func smallShape() Config {
	c, err := parseConfig([]byte(smallConfig))
	if err != nil {
		panic(err)
	}
	return c
}

// smallTensors returns the tensors of a random network with smallConfig.
func smallTensors() []fileTensor {
	var ts []fileTensor
	ck := randomCheckpoint(smallShape(), 1)
	for name, shape := range ck.Config.Tensors() {
		t := ck.tensors[name]
		data := make([]byte, t.end-t.begin)
		if _, err := t.file.data.ReadAt(data, t.begin); err != nil {
			panic(err)
		}
		ts = append(ts, fileTensor{name, "F32", shape, data})
	}
	return ts
}

func smallFiles(weights []byte) fstest.MapFS {
	return fstest.MapFS{"config.json": {Data: []byte(smallConfig)}, "model.safetensors": {Data: weights}}
}
