package gpt2

import (
	"bytes"
	"io"
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestRandomReadsTheSameBytesInAnyPieces(t *testing.T) {
	ck := Random(smallShape(), 3)
	whole := make([]byte, ck.files[0].size)
	if n, err := ck.files[0].data.ReadAt(whole, 0); n != len(whole) || err != nil {
		t.Fatalf("read %d of %d bytes: %v", n, len(whole), err)
	}
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.Int64Range(0, ck.files[0].size+9).Draw(t, "at")
		p := make([]byte, rapid.IntRange(0, 5000).Draw(t, "length"))
		n, err := ck.files[0].data.ReadAt(p, at)
		want := whole[min(at, ck.files[0].size):min(at+int64(len(p)), ck.files[0].size)]
		if !bytes.Equal(p[:n], want) {
			t.Fatalf("%d bytes at %d differ from the whole", len(p), at)
		}
		if (err == io.EOF) != (n < len(p)) || err != nil && err != io.EOF {
			t.Fatalf("%d of %d bytes at %d and %v", n, len(p), at, err)
		}
	})
	again, other := make([]byte, ck.files[0].size), make([]byte, ck.files[0].size)
	Random(smallShape(), 3).files[0].data.ReadAt(again, 0)
	Random(smallShape(), 4).files[0].data.ReadAt(other, 0)
	if !bytes.Equal(again, whole) || bytes.Equal(other, whole) {
		t.Error("the weights do not depend on the seed alone")
	}
}

func TestRandomHasTheDistributionOfUntrainedWeights(t *testing.T) {
	ck := Random(Config{Vocab: 500, Context: 64, Embd: 64, Layers: 2, Heads: 4, Inner: 256, Epsilon: 1e-5, EOS: -1}, 1)
	for name := range ck.Config.Tensors() {
		values, err := ck.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		var mean, variance float64
		for _, v := range values {
			mean += float64(v) / float64(len(values))
		}
		for _, v := range values {
			variance += (float64(v) - mean) * (float64(v) - mean) / float64(len(values))
		}
		want, within := 0.0, 6*0.02/math.Sqrt(float64(len(values)))
		if isGain(name) {
			want = 1
		}
		if d := math.Sqrt(variance); math.Abs(mean-want) > within || math.Abs(d-0.02) > within {
			t.Errorf("%s: mean %g, deviation %g", name, mean, d)
		}
	}
	e, err := New(ck, nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for _, v := range run(t, e, "", []int{1, 2, 3, 499}) {
		if !(math.Abs(float64(v)) < 10) {
			t.Fatalf("a logit is %g", v)
		}
	}
}

func BenchmarkRandom(b *testing.B) {
	ck, p := Random(Published(), 1), make([]byte, 1<<20)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		ck.files[0].data.ReadAt(p, 3<<20)
	}
}
