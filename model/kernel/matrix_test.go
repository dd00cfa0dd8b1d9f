package kernel

import (
	"crypto/sha256"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// random returns n numbers with a standard normal distribution.
func random(rnd *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rnd.NormFloat64())
	}
	return x
}

// sameBits fails unless two vectors have the same bits.
func sameBits(t interface{ Fatalf(string, ...any) }, got, want []float32) {
	if len(got) != len(want) {
		t.Fatalf("%d values, want %d", len(got), len(want))
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("element %d is %g, want %g", i, got[i], want[i])
		}
	}
}

// fused returns a*b + c, rounded once, as a fused multiply-add does.
func fused(a, b, c float32) float32 {
	product, c64 := float64(a)*float64(b), float64(c) // the product is exact in float64
	sum := product + c64
	// The float64 sum is rounded to odd, so that rounding it again to float32 gives the
	// correct result.
	back := sum - product
	if lost := (product - (sum - back)) + (c64 - back); lost != 0 && math.Float64bits(sum)&1 == 0 {
		sum = math.Nextafter(sum, math.Inf(int(math.Copysign(1, lost))))
	}
	return float32(sum)
}

func TestFusedRoundsOnce(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 3))
	pick := func() float32 { return float32(rnd.IntN(1<<24)) * float32(math.Ldexp(1, rnd.IntN(60)-30)) }
	for range 100000 {
		a, b, c := pick(), pick(), -pick()
		if rnd.IntN(2) == 0 {
			c = -float32(a*b) + pick()*0x1p-40
		}
		exact := new(big.Float).SetPrec(400).Mul(big.NewFloat(float64(a)), big.NewFloat(float64(b)))
		want, _ := exact.Add(exact, big.NewFloat(float64(c))).Float32()
		if got := fused(a, b, c); got != want {
			t.Fatalf("%g*%g + %g = %g, want %g", a, b, c, got, want)
		}
	}
}

// Every output must be one chain of additions, which begins with the bias and follows
// the order of the inputs. The number of rows and panels computed together must make no
// difference. Packing by input and packing by output must give the same matrix.
func TestMultiplyAddsInTheOrderOfInputs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		format := rapid.SampledFrom([]Format{F32, F16, Int8}).Draw(t, "format")
		inputs := rapid.IntRange(1, 600).Draw(t, "inputs")
		outputs := rapid.IntRange(1, 100).Draw(t, "outputs")
		rows := rapid.IntRange(1, 20).Draw(t, "rows")
		padding := rapid.IntRange(0, 3).Draw(t, "padding")
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		w, bias := random(rnd, inputs*outputs), random(rnd, outputs)

		byInput, byOutput := NewMatrix(format, inputs, outputs), NewMatrix(format, inputs, outputs)
		byInput.SetBias(bias)
		byOutput.SetBias(bias)
		for k := 0; k < inputs; {
			n := min(Group*(1+rnd.IntN(3)), inputs-k)
			if err := byInput.SetInputs(k, w[k*outputs:][:n*outputs]); err != nil {
				t.Fatal(err)
			}
			k += n
		}
		byColumn := make([]float32, len(w))
		for o := range outputs {
			for k := range inputs {
				byColumn[o*inputs+k] = w[k*outputs+o]
			}
		}
		for o := 0; o < outputs; {
			n := min(Width*(1+rnd.IntN(2)), outputs-o)
			if err := byOutput.SetOutputs(o, byColumn[o*inputs:][:n*inputs]); err != nil {
				t.Fatal(err)
			}
			o += n
		}
		sameBits(t, byOutput.single, byInput.single)
		if !slices.Equal(byOutput.half, byInput.half) || !slices.Equal(byOutput.bytes, byInput.bytes) {
			t.Fatalf("SetInputs and SetOutputs pack the same weights differently")
		}
		for o := range outputs { // from here on, byColumn has the weights as the matrix stores them
			byInput.Output(o, byColumn[o*inputs:][:inputs])
		}

		m, stride := byInput, byInput.Stride()
		if m.Inputs() != inputs || m.Outputs() != outputs || stride != m.Panels()*Width || stride < outputs || stride-outputs >= Width {
			t.Fatalf("%d inputs, %d outputs, stride %d", m.Inputs(), m.Outputs(), stride)
		}
		in := NewInput(format, rows, inputs, inputs+padding)
		copy(in.Floats, random(rnd, len(in.Floats)))
		in.Prepare(0, rows)
		y := random(rnd, rows*stride)
		at := rapid.IntRange(0, m.Panels()).Draw(t, "cut")
		m.Multiply(y, in, rows, at, m.Panels())
		m.Multiply(y, in, rows, 0, at)
		for r := range rows {
			want := make([]float32, stride)
			for o := range outputs {
				want[o] = chain(m, in, r, o, bias[o], byColumn[o*inputs:][:inputs])
			}
			sameBits(t, y[r*stride:][:stride], want)
		}
	})
}

// chain computes one output of a row by adding its products one by one.
func chain(m *Matrix, in *Input, row, output int, sum float32, weights []float32) float32 {
	x := in.Row(row)
	if m.format != Int8 {
		for k, w := range weights {
			if useAVX2 {
				sum = fused(x[k], w, sum)
			} else {
				sum += float32(x[k] * w)
			}
		}
		return sum
	}
	for g := range in.groups {
		scale := weightScale(m.group(output/Width, g), output%Width)
		var group [Group]float32
		var quantized [Group]int16
		copy(group[:], x[g*Group:])
		inputScale := quantizeGroup(&quantized, &group)
		exact := 0.0
		for k, w := range weights[g*Group : min((g+1)*Group, len(weights))] {
			if scale > 0 {
				exact += float64(quantized[k]) * float64(w) / float64(scale)
			}
		}
		both := scale * inputScale
		sum += float32(float32(math.Round(exact)) * both)
	}
	return sum
}

func TestFormatsKeepWeightsWithinTheirPrecision(t *testing.T) {
	const inputs, outputs = 200, 40
	rnd := rand.New(rand.NewPCG(8, 8))
	w := random(rnd, inputs*outputs)
	for i := range w {
		w[i] *= float32(math.Exp2(float64(rnd.IntN(30)/29*-20 + i%outputs/8)))
	}
	clear(w[:outputs])
	for _, f := range []Format{F32, F16, Int8} {
		m := NewMatrix(f, inputs, outputs)
		if err := m.SetInputs(0, w); err != nil {
			t.Fatal(err)
		}
		got := make([]float32, inputs)
		for o := range outputs {
			m.Output(o, got)
			for k, v := range got {
				want := w[k*outputs+o]
				allowed := 0.0
				switch f {
				case F16:
					allowed = max(math.Abs(float64(want))/2048, 0x1p-25)
				case Int8: // half a rounding step of int8; a step is at most (1+5/128)/127 of the largest weight
					for i := k / Group * Group; i < min(inputs, (k/Group+1)*Group); i++ {
						allowed = max(allowed, math.Abs(float64(w[i*outputs+o]))/127*(1+5.0/128)/2*(1+1e-6))
					}
				}
				if d := math.Abs(float64(v) - float64(want)); !(d <= allowed) {
					t.Fatalf("%v: weight %g is stored as %g, allowed error %g", f, want, v, allowed)
				}
			}
		}
		var back Format
		if err := back.UnmarshalText([]byte(f.String())); err != nil || back != f {
			t.Errorf("UnmarshalText(%q) gives %v, %v", f, back, err)
		}
	}
	var f Format
	if err := f.UnmarshalText([]byte("f64")); err == nil {
		t.Error("UnmarshalText accepts f64")
	}
}

func TestSetRefusesWeightsOutsideTheFormat(t *testing.T) {
	inf := float32(math.Inf(-1))
	for _, c := range []struct {
		w  float32
		ok []Format
	}{{65504, []Format{F32, F16, Int8}}, {-65505, []Format{F32, Int8}}, {inf, nil}, {inf - inf, nil}} {
		for _, f := range []Format{F32, F16, Int8} {
			w := make([]float32, 3)
			w[1] = c.w
			err := NewMatrix(f, 1, 3).SetInputs(0, w)
			if again := NewMatrix(f, 3, 1).SetOutputs(0, w); (err == nil) != (again == nil) {
				t.Errorf("%g as %v: SetInputs gives %v, SetOutputs %v", c.w, f, err, again)
			}
			if (err == nil) != slices.Contains(c.ok, f) {
				t.Errorf("%g as %v: %v", c.w, f, err)
			}
		}
	}
}

// Products with Panels must also be added in the order of the inputs, and must never be
// fused.
func TestPanelsMultiplyAddsInTheOrderOfInputs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		format := rapid.SampledFrom([]Format{F32, F16, Int8}).Draw(t, "format")
		inputs := rapid.IntRange(0, 70).Draw(t, "inputs")
		rows := rapid.IntRange(0, 14).Draw(t, "rows")
		panels := rapid.IntRange(0, 9).Draw(t, "panels")
		stride := inputs*Width + rapid.IntRange(0, 20).Draw(t, "gap")
		at := rapid.IntRange(0, 20).Draw(t, "at")
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		p := NewPanels(format, at+panels*stride)
		if p.Len() != at+panels*stride {
			t.Fatalf("%d numbers", p.Len())
		}
		w := random(rnd, p.Len())
		for start := range 3 {
			var every []float32
			for i := start; i < len(w); i += 3 {
				every = append(every, w[i])
			}
			p.Set(start, 3, every)
		}
		if format != F32 {
			for i := range w {
				w[i] = Float16frombits(Float16bits(w[i]))
			}
		}
		xStride, yStride := inputs+2, panels*Width+3
		x, y := random(rnd, rows*xStride), random(rnd, rows*yStride)
		want := slices.Clone(y)
		for r := range rows {
			for i := range panels * Width {
				for k := range inputs {
					want[r*yStride+i] += float32(x[r*xStride+k] * w[at+i/Width*stride+k*Width+i%Width])
				}
			}
		}
		p.MultiplyAdd(y, yStride, x, xStride, rows, inputs, at, stride, panels)
		sameBits(t, y, want)
	})
}

// BenchmarkMultiply multiplies with matrices of the shapes of GPT-2 124M.
func BenchmarkMultiply(b *testing.B) {
	for _, f := range []Format{F32, F16, Int8} {
		for _, s := range []struct {
			name                  string
			inputs, outputs, rows int
		}{
			{"cached/rows=1", 768, 64, 1}, {"output/rows=1", 768, 50257, 1}, {"output/rows=4", 768, 50257, 4}, {"output/rows=8", 768, 50257, 8},
			{"up/rows=128", 768, 3072, 128}, {"down/rows=128", 3072, 768, 128},
		} {
			b.Run(f.String()+"/"+s.name, func(b *testing.B) {
				m := NewMatrix(f, s.inputs, s.outputs)
				rnd := rand.New(rand.NewPCG(1, 1))
				if err := m.SetOutputs(0, random(rnd, s.inputs*s.outputs)); err != nil {
					b.Fatal(err)
				}
				in := NewInput(f, s.rows, s.inputs, s.inputs)
				copy(in.Floats, random(rnd, len(in.Floats)))
				in.Prepare(0, s.rows)
				y := make([]float32, s.rows*m.Stride())
				b.SetBytes(int64(m.Bytes()))
				for b.Loop() {
					m.Multiply(y, in, s.rows, 0, m.Panels())
				}
				b.ReportMetric(2*float64(s.inputs*s.outputs*s.rows)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}

// TestPackingHasItsName packs fixed weights. If the bytes differ from those of [Packing],
// its value must change, because files of packed weights would be read wrongly.
func TestPackingHasItsName(t *testing.T) {
	t.Parallel()
	const inputs, outputs = 3*Group + 5, 2*Width + 3
	rnd := rand.New(rand.NewPCG(1, 2))
	values := make([]float32, inputs*outputs)
	for i := range values {
		values[i] = rnd.Float32() - 0.5
	}
	for f, want := range map[Format]string{
		F32:  "panels/1 231a310f02810b08",
		F16:  "panels/1 ee6f3560caca80b2",
		Int8: "panels/1 0c7709037844974f",
	} {
		m := NewMatrix(f, inputs, outputs)
		if err := m.SetInputs(0, values); err != nil {
			t.Fatal(err)
		}
		m.SetBias(values[:outputs])
		weights, bias := m.Memory()
		got := fmt.Sprintf("%s %.8x", Packing, sha256.Sum256(slices.Concat(weights, bias)))
		if got != want {
			t.Errorf("%s: %s, want %s", f, got, want)
		}
	}
}
