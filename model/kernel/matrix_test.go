package kernel

import (
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func random(rnd *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rnd.NormFloat64())
	}
	return x
}

// same fails unless two vectors have the same bits.
func same(t interface{ Fatalf(string, ...any) }, got, want []float32) {
	if len(got) != len(want) {
		t.Fatalf("%d values, want %d", len(got), len(want))
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("element %d is %g, want %g", i, got[i], want[i])
		}
	}
}

// A product is one chain of additions for each output, from its bias on, in the
// order of the inputs, however many rows and panels are computed together.
func TestMultiplyIsOneChain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		inputs := rapid.IntRange(1, 150).Draw(t, "inputs")
		outputs := rapid.IntRange(1, 70).Draw(t, "outputs")
		rows := rapid.IntRange(1, 5).Draw(t, "rows")
		xStride := inputs + rapid.IntRange(0, 3).Draw(t, "padding")
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		w, bias, x := random(rnd, inputs*outputs), random(rnd, outputs), random(rnd, rows*xStride)

		byInput, byOutput := NewMatrix(inputs, outputs), NewMatrix(inputs, outputs)
		byInput.SetBias(bias)
		byOutput.SetBias(bias)
		for k := range inputs {
			byInput.SetInput(k, w[k*outputs:][:outputs])
		}
		column := make([]float32, inputs)
		for o := range outputs {
			for k := range inputs {
				column[k] = w[k*outputs+o]
			}
			byOutput.SetOutput(o, column)
			back := make([]float32, inputs)
			byInput.Output(o, back)
			same(t, back, column)
		}
		same(t, byOutput.panels, byInput.panels)

		m, stride := byInput, byInput.Stride()
		if m.Inputs() != inputs || m.Outputs() != outputs || stride != m.Panels()*Width || stride < outputs || stride-outputs >= Width {
			t.Fatalf("%d inputs, %d outputs, stride %d", m.Inputs(), m.Outputs(), stride)
		}
		y := make([]float32, rows*stride)
		at := rapid.IntRange(0, m.Panels()).Draw(t, "cut")
		m.Multiply(y, x, xStride, rows, at, m.Panels())
		m.Multiply(y, x, xStride, rows, 0, at)
		for r := range rows {
			want := make([]float32, stride)
			for o := range outputs {
				want[o] = bias[o]
				for k := range inputs {
					want[o] += float32(x[r*xStride+k] * w[k*outputs+o])
				}
			}
			same(t, y[r*stride:][:stride], want)
		}
	})
}

func BenchmarkMultiply(b *testing.B) {
	for _, s := range []struct {
		name                  string
		inputs, outputs, rows int
	}{{"768x768", 768, 768, 1}, {"3072x768", 3072, 768, 1}, {"768x50257", 768, 50257, 1}, {"768x50257x8", 768, 50257, 8}} {
		b.Run(s.name, func(b *testing.B) {
			m := NewMatrix(s.inputs, s.outputs)
			rnd := rand.New(rand.NewPCG(1, 1))
			for i := range m.panels {
				m.panels[i] = rnd.Float32()
			}
			x, y := random(rnd, s.rows*s.inputs), make([]float32, s.rows*m.Stride())
			b.SetBytes(int64(4 * s.inputs * s.outputs))
			for b.Loop() {
				m.Multiply(y, x, s.inputs, s.rows, 0, m.Panels())
			}
			b.ReportMetric(2*float64(s.inputs*s.outputs*s.rows)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
		})
	}
}
