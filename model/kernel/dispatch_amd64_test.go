//go:build amd64 && !purego

package kernel

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// portably calls f without the assembly.
func portably(f func()) {
	defer func(before bool) { accelerated = before }(accelerated)
	accelerated = false
	f()
}

// narrowly calls f without AVX-512.
func narrowly(f func()) {
	defer func(before bool) { wide = before }(wide)
	wide = false
	f()
}

// any returns numbers of all sizes, with some that are none.
func anyFloats(rnd *rand.Rand, n int) []float32 {
	x := random(rnd, n)
	for i := range x {
		switch rnd.IntN(40) {
		case 0:
			x[i] = math.Float32frombits(rnd.Uint32())
		case 1:
			x[i] = []float32{0, float32(math.Copysign(0, -1)), -87, -87.00001, 88, 1e38, 1e-40}[rnd.IntN(7)]
		case 2:
			x[i] *= 100
		}
	}
	return x
}

// sameOrNone is same, but that any NaN is as good as any other.
func sameOrNone(t *rapid.T, what string, got, want []float32) {
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) && !(got[i] != got[i] && want[i] != want[i]) {
			t.Fatalf("%s: element %d of %d is %g, want %g", what, i, len(want), got[i], want[i])
		}
	}
}

// Assembly and Go give the same bits, except where products are fused.
func TestAssemblyIsGo(t *testing.T) {
	if !accelerated {
		t.Skip("this processor lacks AVX2, FMA or F16C")
	}
	rapid.Check(t, func(t *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		n := rapid.IntRange(0, 200).Draw(t, "n")
		x, y, gain, bias := anyFloats(rnd, n), anyFloats(rnd, n), random(rnd, n), random(rnd, n)
		if rnd.IntN(2) == 0 {
			x = random(rnd, n)
		}
		check := func(what string, f func(y []float32)) {
			got, want := slices.Clone(y), slices.Clone(y)
			f(got)
			portably(func() { f(want) })
			sameOrNone(t, what, got, want)
		}
		check("Add", func(y []float32) { Add(y, x) })
		check("Normalize", func(y []float32) {
			if n > 0 {
				Normalize(y, x, gain, bias, 1e-5)
			}
		})
		check("GELU", func(y []float32) { copy(y, x); GELU(y) })
		check("Softmax", func(y []float32) { copy(y, x); Softmax(y) })

		rows, outputs := rapid.IntRange(1, 20).Draw(t, "rows"), rapid.IntRange(1, 80).Draw(t, "outputs")
		if n == 0 {
			return
		}
		m, other, in := NewMatrix(Int8, n, outputs), NewMatrix(Int8, n, outputs), NewInput(Int8, rows, n, n)
		w := random(rnd, n*outputs)
		err := m.SetInputs(0, w)
		portably(func() { err = errors.Join(err, other.SetInputs(0, w)) })
		if err != nil || !slices.Equal(m.bytes, other.bytes) {
			t.Fatalf("weights are packed differently in assembly and in Go: %v", err)
		}
		copy(in.Floats, anyFloats(rnd, n*rows))
		y = make([]float32, rows*m.Stride())
		multiply := func(y []float32) {
			in.Prepare(0, rows)
			m.Multiply(y, in, rows, 0, m.Panels())
		}
		check("Multiply", multiply)
		narrowly(func() { check("Multiply without AVX-512", multiply) })
	})
}

// AVX-512 gives the bits of AVX2, fused or not.
func TestWideIsNarrow(t *testing.T) {
	if !wide {
		t.Skip("this processor lacks AVX-512 with VNNI")
	}
	rapid.Check(t, func(t *rapid.T) {
		format := rapid.SampledFrom([]Format{F32, F16}).Draw(t, "format")
		inputs := rapid.IntRange(1, 600).Draw(t, "inputs")
		panels := rapid.IntRange(1, 9).Draw(t, "panels")
		rows := rapid.IntRange(1, 40).Draw(t, "rows")
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		m, in := NewMatrix(format, inputs, panels*Width), NewInput(format, rows, inputs, inputs)
		if err := m.SetInputs(0, random(rnd, inputs*panels*Width)); err != nil {
			t.Fatal(err)
		}
		copy(in.Floats, anyFloats(rnd, len(in.Floats)))
		y := random(rnd, rows*m.Stride())
		p := NewPanels(format, panels*inputs*Width)
		p.Set(0, 1, random(rnd, p.Len()))
		check := func(what string, f func(y []float32)) {
			got, want := slices.Clone(y), slices.Clone(y)
			f(got)
			narrowly(func() { f(want) })
			sameOrNone(t, what, got, want)
		}
		check("Multiply", func(y []float32) { m.Multiply(y, in, rows, 0, panels) })
		check("MultiplyAdd", func(y []float32) {
			p.MultiplyAdd(y, m.Stride(), in.Floats, inputs, rows, inputs, 0, inputs*Width, panels)
		})
	})
}

// Fusing changes no more than the last bits.
func TestFusedIsCloseToGo(t *testing.T) {
	if !accelerated {
		t.Skip("this processor lacks AVX2, FMA or F16C")
	}
	const inputs, outputs, rows = 768, 64, 3
	rnd := rand.New(rand.NewPCG(6, 6))
	for _, f := range []Format{F32, F16} {
		m, in := NewMatrix(f, inputs, outputs), NewInput(f, rows, inputs, inputs)
		if err := m.SetInputs(0, random(rnd, inputs*outputs)); err != nil {
			t.Fatal(err)
		}
		copy(in.Floats, random(rnd, len(in.Floats)))
		got, want := make([]float32, rows*outputs), make([]float32, rows*outputs)
		m.Multiply(got, in, rows, 0, m.Panels())
		portably(func() { m.Multiply(want, in, rows, 0, m.Panels()) })
		for i := range got {
			// The sums wander to about 28, the square root of inputs.
			if d := math.Abs(float64(got[i]) - float64(want[i])); !(d < 1e-4) {
				t.Errorf("%v: %g and %g", f, got[i], want[i])
			}
		}
	}
}
