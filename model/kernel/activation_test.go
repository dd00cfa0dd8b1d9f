package kernel

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"testing"
)

// wide calls f with float32 numbers of both signs: 0, numbers from 2^-40 to 2^20, the
// largest number, and positive infinity.
func wide(f func(x float32)) {
	f(0)
	for bits := math.Float32bits(0x1p-40); bits < math.Float32bits(0x1p20); bits += 0xffff {
		f(math.Float32frombits(bits))
		f(-math.Float32frombits(bits))
	}
	f(math.MaxFloat32)
	f(-math.MaxFloat32)
	f(float32(math.Inf(1)))
}

func TestActivationsAreCloseToTheirDefinitions(t *testing.T) {
	for name, c := range map[string]struct {
		activate func([]float32)
		define   func(x float64) float64
	}{
		"ExactGELU": {ExactGELU, func(x float64) float64 { return x * math.Erfc(-x/math.Sqrt2) / 2 }},
		"ReLU":      {ReLU, func(x float64) float64 { return math.Max(x, 0) }},
		"SiLU":      {SiLU, func(x float64) float64 { return x / (1 + math.Exp(-x)) }},
		"Tanh":      {Tanh, math.Tanh},
	} {
		most := 0.0
		wide(func(x float32) {
			got, want := []float32{x}, c.define(float64(x))
			c.activate(got)
			switch {
			case math.IsInf(want, 0) || float64(got[0]) == want:
				if float64(got[0]) != want {
					t.Errorf("%s(%g) is %g, want %g", name, x, got[0], want)
				}
			default:
				d := math.Abs(float64(got[0])-want) / math.Max(1, math.Abs(float64(x)))
				most = max(most, d)
				if !(d < 1.5e-7) {
					t.Errorf("%s(%g) is %g, want %g", name, x, got[0], want)
				}
				if relative := math.Abs(float64(got[0])/want - 1); name == "Tanh" && !(relative < 2e-7) {
					t.Errorf("Tanh(%g) is %g, want %g", x, got[0], want)
				}
			}
		})
		nan := []float32{float32(math.NaN())}
		if c.activate(nan); nan[0] == nan[0] {
			t.Errorf("%s(NaN) is %g", name, nan[0])
		}
		t.Logf("%s: largest error %.2g", name, most)
	}
}

// The activations have the same bits in every build and on every architecture. If this test
// fails, they compute other bits than before and need another fingerprint.
func TestActivationsHaveTheseBits(t *testing.T) {
	for name, c := range map[string]struct {
		activate func([]float32)
		want     string
	}{
		"ExactGELU": {ExactGELU, "1fdd5a3e4a4410175c79b710fc00ee46b1df41e93ee41b9fdf928af5ee5d8831"},
		"ReLU":      {ReLU, "00447a5f2206354d22388a5fb9951a5f885ebc8d867db6eb48ee974c68573268"},
		"SiLU":      {SiLU, "c197862bfa33a1936f723d922e12310f8c8b8e98e39b3498b35cf6c36085db15"},
		"Tanh":      {Tanh, "7528496700ec9d1a577b7a5aa10b412fee5e43ba0ac7e92f113ecd1724062c2a"},
	} {
		var x []float32
		wide(func(v float32) { x = append(x, v) })
		c.activate(x)
		h := sha256.New()
		if err := binary.Write(h, binary.LittleEndian, x); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != c.want {
			t.Errorf("%s has the bits %s, want %s", name, got, c.want)
		}
	}
}

// BenchmarkActivations computes the activations of one token in a network with 124 million
// weights: 12 layers of 3072.
func BenchmarkActivations(b *testing.B) {
	for name, activate := range map[string]func([]float32){"GELU": GELU, "ExactGELU": ExactGELU, "ReLU": ReLU, "SiLU": SiLU, "Tanh": Tanh} {
		b.Run(name, func(b *testing.B) {
			x := make([]float32, 12*3072)
			for b.Loop() {
				for i := range x {
					x[i] = float32(i%97-48) / 16
				}
				activate(x)
			}
		})
	}
}
