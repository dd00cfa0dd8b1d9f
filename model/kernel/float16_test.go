package kernel

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// float16ByDefinition decodes a binary16 as IEEE 754 defines it.
func float16ByDefinition(h uint16) float64 {
	fraction, exponent := float64(h&0x3ff), int(h>>10&31)
	sign := 1 - 2*float64(h>>15)
	switch {
	case exponent == 31 && fraction > 0:
		return math.NaN()
	case exponent == 31:
		return math.Inf(int(sign))
	case exponent == 0:
		return sign * math.Ldexp(fraction, -24)
	}
	return sign * math.Ldexp(1024+fraction, exponent-25)
}

func TestEveryFloat16DecodesExactlyAndEncodesToItself(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		x, want := Float16frombits(h), float16ByDefinition(h)
		if float64(x) != want && !(x != x && want != want) || math.Signbit(float64(x)) != (h>>15 == 1) {
			t.Fatalf("Float16frombits(%#04x) = %g, want %g", h, x, want)
		}
		if back := Float16bits(x); back != h && !(x != x && back == h|0x200) { // a signalling NaN may become quiet
			t.Fatalf("Float16bits(%g) = %#04x, want %#04x", x, back, h)
		}
	}
}

// A number between two neighbours must round to the nearer neighbour. A number in the
// middle must round to the even neighbour. The assembly must give the same results.
func TestFloat16bitsRoundsToNearestEven(t *testing.T) {
	var x []float32
	var want []uint16
	for h := range uint16(0x7c00) {
		lower, upper := float16ByDefinition(h), float16ByDefinition(h+1)
		if h == 0x7bff {
			upper = 65536
		}
		middle := float32((lower + upper) / 2)
		even := h + h&1
		x = append(x, math.Nextafter32(middle, 0), middle, math.Nextafter32(middle, 1e6), -middle)
		want = append(want, h, even, h+1, even|0x8000)
	}
	x = append(x, 65519, 65520, 1e-30, 1e30, float32(math.Inf(-1)))
	want = append(want, 0x7bff, 0x7c00, 0, 0x7c00, 0xfc00)
	got := make([]uint16, len(x))
	encodeFloat16(got, x)
	for i := range x {
		if n := Float16bits(x[i]); n != want[i] || got[i] != n {
			t.Fatalf("Float16bits(%g) = %#04x, in a vector %#04x, want %#04x", x[i], n, got[i], want[i])
		}
	}
}

func TestFloat16bitsFindsTheNearest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := float32(rapid.Float64Range(-65500, 65500).Draw(t, "x") * math.Pow(2, float64(-rapid.IntRange(0, 40).Draw(t, "scale"))))
		h := Float16bits(x)
		off := math.Abs(float64(x) - float16ByDefinition(h))
		for _, other := range []uint16{h - 1, h + 1} {
			if h&0x7fff == 0 && other == h-1 || other&0x7c00 == 0x7c00 {
				continue
			}
			d := math.Abs(float64(x) - float16ByDefinition(other))
			if d < off || d == off && h&1 == 1 {
				t.Fatalf("Float16bits(%g) = %#04x, but %#04x is nearer or even", x, h, other)
			}
		}
	})
}

func TestBFloat16AboveIsTheSmallestUpperBound(t *testing.T) {
	for h, want := range map[uint16]float32{0x3f80: 1, 0x4049: 3.140625, 0x8000: float32(math.Copysign(0, -1)), 0x7f80: float32(math.Inf(1))} {
		if got := BFloat16frombits(h); math.Float32bits(got) != math.Float32bits(want) {
			t.Errorf("BFloat16frombits(%#04x) = %g, want %g", h, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		x := float32(math.Abs(rapid.Float64Range(0, 1e30).Draw(t, "x")))
		h := bfloat16Above(x)
		if BFloat16frombits(h) < x || h > 0 && BFloat16frombits(h-1) >= x {
			t.Fatalf("bfloat16Above(%g) = %#04x, which is %g", x, h, BFloat16frombits(h))
		}
	})
}
