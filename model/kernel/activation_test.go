package kernel

import (
	"math"
	"testing"
)

// wide calls f with float32 numbers of both signs: 0, numbers from 2^-40 to 2^20, the
// largest number, and positive infinity.
func wide(f func(x float32)) {
	f(0)
	for e := -40.0; e <= 20; e += 1.0 / 128 {
		f(float32(math.Exp2(e)))
		f(-float32(math.Exp2(e)))
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
