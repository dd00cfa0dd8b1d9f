package gpt2

import (
	"encoding/binary"
	"io"
	"math"
	"sort"
	"strings"
)

// Published is the shape of the published GPT-2 with 124 million parameters.
func Published() Config {
	return Config{Vocab: 50257, Context: 1024, Embd: 768, Layers: 12, Heads: 12, Inner: 3072, Epsilon: 1e-5, EOS: 50256}
}

// Random returns a checkpoint of made-up weights, in float32, that takes no
// memory: a value is computed when it is read, from the seed and its place
// alone. The weights are spread as those of a GPT-2 before its training, about
// 0 with a standard deviation of 0.02, and the gains of the layer norms so
// about 1; what the network computes from them is finite and means nothing.
func Random(c Config, seed uint64) *Checkpoint {
	ck := &Checkpoint{Config: c, tensors: map[string]tensor{}, close: func() error { return nil }}
	values := madeUp{seed: seed}
	for name, shape := range c.Tensors() {
		n := int64(4)
		for _, d := range shape {
			n *= int64(d)
		}
		t := tensor{name: name, dtype: "F32", shape: shape, begin: ck.size, end: ck.size + n}
		ck.tensors[name], ck.size = t, t.end
		run := madeUpRun{end: t.end}
		if isGain(name) {
			run.mean = 1
		}
		values.runs = append(values.runs, run)
	}
	ck.file = values
	return ck
}

func isGain(name string) bool {
	return strings.HasSuffix(name, "weight") && (strings.HasPrefix(name, "ln_f.") || strings.Contains(name, ".ln_"))
}

// madeUp is a file of random values.
type madeUp struct {
	seed uint64
	runs []madeUpRun // by end; together they cover the file
}

// A madeUpRun is a part of the file with the same mean.
type madeUpRun struct {
	end  int64
	mean float32
}

// ReadAt implements [io.ReaderAt].
func (m madeUp) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for i := sort.Search(len(m.runs), func(i int) bool { return m.runs[i].end > off }); i < len(m.runs) && n < len(p); i++ {
		at := off + int64(n)
		n += m.runs[i].fill(p[n:min(int64(len(p)), m.runs[i].end-off)], at, m.seed)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// fill makes up the bytes of p, which are at off in the file.
func (r madeUpRun) fill(p []byte, off int64, seed uint64) int {
	place, skip, n := uint64(off/4), int(off%4), 0
	if skip == 0 {
		for ; len(p)-n >= 4; n += 4 {
			binary.LittleEndian.PutUint32(p[n:], math.Float32bits(r.mean+deviation(seed, place)))
			place++
		}
	}
	for n < len(p) {
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], math.Float32bits(r.mean+deviation(seed, place)))
		n += copy(p[n:], b[skip:])
		place, skip = place+1, 0
	}
	return n
}

// deviation returns the random number of a place, of mean 0 and standard
// deviation 0.02: a sum of four uniform ones, which is close to normal. Their
// bits are from SplitMix64 (Steele, Lea and Flood, 2014).
func deviation(seed, place uint64) float32 {
	z := seed + (place+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	const (
		mean  = 2 * 0xffff
		scale = 0.02 / 37837.227 // 0x10000 times the root of 4/12
	)
	sum := z&0xffff + z>>16&0xffff + z>>32&0xffff + z>>48
	return float32(int(sum)-mean) * scale
}
