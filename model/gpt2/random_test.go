package gpt2

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"strings"
	"testing/fstest"
)

// gpt2Shape is the shape of the published model with 124 million parameters.
var gpt2Shape = Config{Vocab: 50257, Context: 1024, Embd: 768, Layers: 12, Heads: 12, Inner: 3072, Epsilon: 1e-5, EOS: 50256}

// randomCheckpoint returns a checkpoint whose values are made up, the same ones
// for the same seed, when they are read.
func randomCheckpoint(c Config, seed uint64) *Checkpoint {
	ck := &Checkpoint{Config: c, tensors: map[string]tensor{}, close: func() error { return nil }}
	values := randomValues{seed: seed}
	for name, shape := range c.Tensors() {
		n := int64(4)
		for _, d := range shape {
			n *= int64(d)
		}
		t := tensor{name: name, dtype: "F32", shape: shape, begin: ck.size, end: ck.size + n}
		ck.tensors[name] = t
		ck.size = t.end
		// Gains are about 1; the larger a matrix, the smaller its weights.
		part := randomPart{end: t.end, scale: 0.2}
		switch {
		case strings.HasPrefix(name, "ln_f.w"), strings.Contains(name, ".ln_") && strings.HasSuffix(name, "weight"):
			part.mean = 1
		case len(shape) == 2:
			part.scale = 2 / math.Sqrt(float64(c.Embd))
		}
		values.parts = append(values.parts, part)
	}
	ck.file = values
	return ck
}

type randomValues struct {
	seed  uint64
	parts []randomPart // by end
}

type randomPart struct {
	end         int64
	mean, scale float64
}

// ReadAt makes up whole float32 values.
func (r randomValues) ReadAt(p []byte, off int64) (int, error) {
	n, part := 0, 0
	for ; n+4 <= len(p); n += 4 {
		at := off + int64(n)
		for part < len(r.parts) && r.parts[part].end <= at {
			part++
		}
		if part == len(r.parts) {
			return n, io.EOF
		}
		// SplitMix64.
		z := r.seed + uint64(at/4)*0x9e3779b97f4a7c15
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		u := float64((z^z>>31)>>11)/(1<<53)*2 - 1
		v := float32(r.parts[part].mean + float64(r.parts[part].scale*u))
		binary.LittleEndian.PutUint32(p[n:], math.Float32bits(v))
	}
	return n, nil
}

// writeSafetensors returns a file with tensors in the order given.
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

// smallConfig is the config.json of a network that fits anywhere, whose sizes
// are not multiples of anything.
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
		if _, err := ck.file.ReadAt(data, t.begin); err != nil {
			panic(err)
		}
		ts = append(ts, fileTensor{name, "F32", shape, data})
	}
	return ts
}

func smallFiles(weights []byte) fstest.MapFS {
	return fstest.MapFS{"config.json": {Data: []byte(smallConfig)}, "model.safetensors": {Data: weights}}
}
