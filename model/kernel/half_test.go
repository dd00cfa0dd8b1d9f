package kernel

import (
	"math"
	"testing"
)

// Every half widens to what IEEE 754 says and narrows back to itself.
func TestWidenAndNarrow(t *testing.T) {
	for h := range uint16(1<<16 - 1) {
		x := widen(h)
		fraction, exponent := float64(h&0x3ff), int(h>>10&31)
		var want float64
		switch exponent {
		case 0:
			want = math.Ldexp(fraction, -24)
		case 31:
			want = math.Inf(1)
			if fraction > 0 {
				want = math.NaN()
			}
		default:
			want = math.Ldexp(fraction+1024, exponent-25)
		}
		if h>>15 == 1 {
			want = -want
		}
		if float64(x) != want && !(x != x && want != want) || math.Signbit(float64(x)) != (h>>15 == 1) {
			t.Fatalf("%04x widens to %g, want %g", h, x, want)
		}
		if back := narrow(x); back != h && back != h|0x200 {
			t.Fatalf("%04x, %g, narrows to %04x", h, x, back)
		}
	}
}

// What is between two halves narrows to the nearer one, or to the even one.
func TestNarrowRounds(t *testing.T) {
	var x []float32
	var want []uint16
	for h := range uint16(0x7c00) {
		lower, upper := float64(widen(h)), float64(widen(h+1))
		if h == 0x7bff {
			upper = 65536
		}
		middle := float32((lower + upper) / 2)
		even := h + h&1
		x = append(x, math.Nextafter32(middle, 0), middle, math.Nextafter32(middle, 1e6), -middle)
		want = append(want, h, even, h+1, even|0x8000)
	}
	x = append(x, 1e-30, 1e30, float32(math.Inf(-1)))
	want = append(want, 0, 0x7c00, 0xfc00)
	got := make([]uint16, len(x))
	narrowAll(got, x)
	for i := range x {
		if n := narrow(x[i]); n != want[i] || got[i] != n {
			t.Fatalf("%g narrows to %04x, in a vector to %04x, want %04x", x[i], n, got[i], want[i])
		}
	}
}
