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

// withoutAssembly calls f while the portable Go versions are in use.
func withoutAssembly(f func()) {
	defer func(before bool) { useAVX2 = before }(useAVX2)
	useAVX2 = false
	f()
}

// withoutAVX512 calls f while the AVX2 versions are in use.
func withoutAVX512(f func()) {
	defer func(before bool) { useAVX512 = before }(useAVX512)
	useAVX512 = false
	f()
}

// anyFloats returns n numbers of all magnitudes, infinities and NaNs included.
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

// sameBitsOrNaN fails unless two vectors have the same bits. All NaNs count as equal.
func sameBitsOrNaN(t *rapid.T, what string, got, want []float32) {
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) && !(got[i] != got[i] && want[i] != want[i]) {
			t.Fatalf("%s: element %d of %d is %g, want %g", what, i, len(want), got[i], want[i])
		}
	}
}

// Assembly and portable Go must give the same bits for all operations without fused
// products.
func TestAssemblyGivesTheBitsOfPortableGo(t *testing.T) {
	if !useAVX2 {
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
			withoutAssembly(func() { f(want) })
			sameBitsOrNaN(t, what, got, want)
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
		withoutAssembly(func() { err = errors.Join(err, other.SetInputs(0, w)) })
		if err != nil || !slices.Equal(m.bytes, other.bytes) {
			t.Fatalf("assembly and portable Go pack weights differently: %v", err)
		}
		copy(in.Floats, anyFloats(rnd, n*rows))
		y = make([]float32, rows*m.Stride())
		multiply := func(y []float32) {
			in.Prepare(0, rows)
			m.Multiply(y, in, rows, 0, m.Panels())
		}
		check("Multiply", multiply)
		withoutAVX512(func() { check("Multiply without AVX-512", multiply) })
	})
}

func TestAVX512GivesTheBitsOfAVX2(t *testing.T) {
	if !useAVX512 {
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
			withoutAVX512(func() { f(want) })
			sameBitsOrNaN(t, what, got, want)
		}
		check("Multiply", func(y []float32) { m.Multiply(y, in, rows, 0, panels) })
		check("MultiplyAdd", func(y []float32) {
			p.MultiplyAdd(y, m.Stride(), in.Floats, inputs, rows, inputs, 0, inputs*Width, panels)
		})
	})
}

func TestFusedProductsAreCloseToPortableOnes(t *testing.T) {
	if !useAVX2 {
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
		withoutAssembly(func() { m.Multiply(want, in, rows, 0, m.Panels()) })
		for i := range got {
			// The sums reach about 28, the square root of inputs.
			if d := math.Abs(float64(got[i]) - float64(want[i])); !(d < 1e-4) {
				t.Errorf("%v: %g and %g", f, got[i], want[i])
			}
		}
	}
}
