package gpt2

import (
	"encoding/binary"
	"io"
	"math"
	"sort"
	"strings"
)

// Published returns the shape of the published GPT-2 with 124 million parameters.
func Published() Config {
	return Config{Vocab: 50257, Context: 1024, Embd: 768, Layers: 12, Heads: 12, Inner: 3072, Epsilon: 1e-5, EOS: 50256}
}

// Random returns a checkpoint of pseudo-random F32 weights, which depend only on the
// seed. The weights take no memory, because they are computed when they are read. They
// are distributed like those of an untrained GPT-2, with mean 0 and standard deviation
// 0.02. The gains of the layer norms have mean 1. So the logits are finite, but
// meaningless.
func Random(c Config, seed uint64) *Checkpoint {
	return computedCheckpoint(c, func(name string, _ []int) func(uint64) float32 {
		var mean float32
		if isGain(name) {
			mean = 1
		}
		return func(i uint64) float32 { return mean + deviation(seed, i) }
	})
}

// isGain reports whether a tensor is the gain of a layer norm.
func isGain(name string) bool {
	return strings.HasSuffix(name, "weight") && (strings.HasPrefix(name, "ln_f.") || strings.Contains(name, ".ln_"))
}

// deviation returns the pseudo-random number of tensor element i, with mean 0 and
// standard deviation 0.02. The number is a sum of four uniform numbers, so its
// distribution is close to normal.
func deviation(seed, i uint64) float32 {
	z := splitMix64(seed, i+1)
	const (
		mean  = 2 * 0xffff
		scale = 0.02 / 37837.227 // the divisor is the standard deviation of the sum, 0x10000 times the square root of 4/12
	)
	sum := z&0xffff + z>>16&0xffff + z>>32&0xffff + z>>48
	return float32(float32(int(sum)-mean) * scale) // the conversion keeps the compiler from fusing the product with an addition in the caller
}

// splitMix64 returns output number n, counted from 1, of the generator SplitMix64
// (Steele, Lea and Flood, 2014).
func splitMix64(seed, n uint64) uint64 {
	z := seed + n*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// computedCheckpoint returns a checkpoint of F32 values that are computed when they are
// read. values returns the function that computes the elements of a tensor. The index i
// of an element is counted over all tensors.
func computedCheckpoint(c Config, values func(name string, shape []int) func(i uint64) float32) *Checkpoint {
	f := &weightsFile{name: weightsName, close: func() error { return nil }}
	ck := &Checkpoint{Config: c, tensors: map[string]tensor{}, files: []*weightsFile{f}}
	var file computedFile
	for name, shape := range c.Tensors() {
		n := int64(4)
		for _, d := range shape {
			n *= int64(d)
		}
		t := tensor{name: name, dtype: "F32", shape: shape, begin: f.size, end: f.size + n, file: f}
		ck.tensors[name], f.size = t, t.end
		file = append(file, computedRange{t.end, values(name, shape)})
	}
	f.data = file
	return ck
}

// computedFile is a file of little-endian float32 numbers that are computed when they
// are read. Its ranges are in order and cover the whole file.
type computedFile []computedRange

type computedRange struct {
	end   int64 // offset in the file at which the range ends, in bytes
	value func(i uint64) float32
}

// ReadAt implements [io.ReaderAt].
func (f computedFile) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for i := sort.Search(len(f), func(i int) bool { return f[i].end > off }); i < len(f) && n < len(p); i++ {
		at := off + int64(n)
		n += f[i].fill(p[n:min(int64(len(p)), f[i].end-off)], at)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// fill computes the bytes of p. The first of them is at offset off in the file.
func (r computedRange) fill(p []byte, off int64) int {
	i, skip, n := uint64(off/4), int(off%4), 0
	if skip == 0 {
		for ; len(p)-n >= 4; n += 4 {
			binary.LittleEndian.PutUint32(p[n:], math.Float32bits(r.value(i)))
			i++
		}
	}
	for n < len(p) {
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], math.Float32bits(r.value(i)))
		n += copy(p[n:], b[skip:])
		i, skip = i+1, 0
	}
	return n
}
