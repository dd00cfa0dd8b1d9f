package kernel

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestExpIsAccurate(t *testing.T) {
	for x := float32(-86.99); x < 88; x += 0.00371 {
		got, want := float64(exp(x)), math.Exp(float64(x))
		if d := math.Abs(got-want) / want; !(d < 2.5e-7) {
			t.Fatalf("exp(%g) = %g, want %g", x, got, want)
		}
	}
	inf := float32(math.Inf(1))
	for _, c := range [][2]float32{{0, 1}, {-88, 0}, {-1e30, 0}, {-inf, 0}, {100, exp(88)}, {inf, exp(88)}} {
		if got := exp(c[0]); got != c[1] {
			t.Errorf("exp(%g) = %g, want %g", c[0], got, c[1])
		}
	}
	if nan := exp(float32(math.NaN())); nan == nan {
		t.Errorf("exp(NaN) = %g", nan)
	}
}

func TestGELUFollowsItsDefinition(t *testing.T) {
	var x []float32
	for v := float32(-12); v < 12; v += 0.00193 {
		x = append(x, v)
	}
	y := append([]float32(nil), x...)
	GELU(y)
	for i := range x {
		v := float64(x[i])
		want := v / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v)))
		if d := math.Abs(float64(y[i]) - want); !(d <= 3e-7*max(1, math.Abs(v))) {
			t.Fatalf("GELU(%g) = %g, want %g", v, y[i], want)
		}
	}
	const big = 3e38
	edge := []float32{0, big, -big, 1e13, -1e13}
	GELU(edge)
	if edge[0] != 0 || edge[1] != big || edge[3] != 1e13 || math.Abs(float64(edge[2])) > 2 || math.Abs(float64(edge[4])) > 1e-20 {
		t.Errorf("GELU of 0, ±3e38 and ±1e13: %g", edge)
	}
}

func TestSoftmaxFollowsItsDefinition(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	for n := range 300 {
		x := random(rnd, n)
		for i := range x {
			x[i] *= float32(n)
		}
		want := make([]float64, n)
		most, total := math.Inf(-1), 0.0
		for _, v := range x {
			most = max(most, float64(v))
		}
		for i, v := range x {
			want[i] = math.Exp(float64(v) - most)
			total += want[i]
		}
		Softmax(x)
		for i := range x {
			// Rounding the distance from the largest element causes an error of up to
			// 1e-5 here.
			if d := math.Abs(float64(x[i]) - want[i]/total); !(d <= 1e-5*want[i]/total+1e-37) {
				t.Fatalf("%d of %d: %g, want %g", i, n, x[i], want[i]/total)
			}
		}
	}
}

func TestNormalizeFollowsItsDefinition(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 9))
	for n := 1; n < 200; n++ {
		x, gain, bias := random(rnd, n), random(rnd, n), random(rnd, n)
		for i := range x {
			x[i] = 3*x[i] + 40 // gives the elements a mean far from 0
		}
		const epsilon = 1e-5
		var mean, variance float64
		for _, v := range x {
			mean += float64(v) / float64(n)
		}
		for _, v := range x {
			variance += (float64(v) - mean) * (float64(v) - mean) / float64(n)
		}
		y := make([]float32, n)
		Normalize(y, x, gain, bias, epsilon)
		for i := range x {
			want := (float64(x[i])-mean)/math.Sqrt(variance+epsilon)*float64(gain[i]) + float64(bias[i])
			if d := math.Abs(float64(y[i]) - want); !(d < 1e-4) {
				t.Fatalf("%d of %d: %g, want %g", i, n, y[i], want)
			}
		}
		Normalize(x, x, gain, bias, epsilon)
		sameBits(t, x, y)
	}
}

func TestAddIgnoresExtraElements(t *testing.T) {
	y := []float32{1, 2, 3}
	Add(y, []float32{10, 20, 30, 40})
	sameBits(t, y, []float32{11, 22, 33})
}

func BenchmarkGELU(b *testing.B) {
	x := random(rand.New(rand.NewPCG(1, 2)), 3072)
	y := make([]float32, len(x))
	for b.Loop() {
		copy(y, x)
		GELU(y)
	}
}

// A compiler may fuse a product with the addition that follows, and then round once
// instead of twice. Every quantised number must be rounded twice, as the assembly does
// it.
func TestQuantizedNumbersAreRoundedProducts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	telling := 0 // number of quantised numbers that fusing would change
	for range 50_000 {
		var x [Group]float32
		var largest float32
		for i := range x {
			x[i] = float32(r.NormFloat64())
			largest = max(largest, x[i], -x[i])
		}
		var q [Group]int16
		quantizeGroup(&q, &x)
		inverse := float64(127 / largest)
		for i, v := range x {
			exact := float64(v) * inverse
			want := math.RoundToEven(float64(float32(exact)))
			if want != math.RoundToEven(exact) {
				telling++
			}
			if float64(q[i]) != want {
				t.Fatalf("%g times %g is quantised to %d, want %g", v, inverse, q[i], want)
			}
		}
	}
	if telling == 0 {
		t.Error("no number tells the difference")
	}
}
