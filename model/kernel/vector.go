package kernel

import "math"

// Add adds each element of x to that of y.
func Add(y, x []float32) {
	x = x[:len(y)]
	for i := addSome(y, x); i < len(y); i++ {
		y[i] += x[i]
	}
}

// Normalize computes the layer norm of x: y = (x - mean)/sqrt(variance + epsilon)
// times gain plus bias, element by element, where the variance is that of the
// population. y may be x.
func Normalize(y, x, gain, bias []float32, epsilon float32) {
	var sums [8]float64
	for i := sumSome(&sums, x, 0); i < len(x); i++ {
		sums[i%8] += float64(x[i])
	}
	mean := total(&sums) / float64(len(x))
	sums = [8]float64{}
	for i := sumSquaresSome(&sums, x, mean); i < len(x); i++ {
		d := float64(x[i]) - mean
		sums[i%8] += float64(d * d)
	}
	variance := total(&sums) / float64(len(x))
	scale := float32(1 / math.Sqrt(variance+float64(epsilon)))
	y, gain, bias = y[:len(x)], gain[:len(x)], bias[:len(x)]
	m := float32(mean)
	for i := normalizeSome(y, x, gain, bias, m, scale); i < len(x); i++ {
		y[i] = float32(float32(float32(x[i]-m)*scale)*gain[i]) + bias[i]
	}
}

// total adds up eight chains of additions that had every eighth element each.
func total(sums *[8]float64) float64 {
	return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]))
}

// GELU replaces each element by x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))), the
// form that GPT-2 uses. That equals x / (1 + exp(-2 √(2/π) (x + 0.044715 x³))).
func GELU(x []float32) {
	const (
		a = -2 * 0.797884560802865355879892119868763737
		b = a * 0.044715
	)
	for i := geluSome(x); i < len(x); i++ {
		v := x[i]
		u := float32(v * (a + float32(b*float32(v*v))))
		x[i] = v / (1 + exp(u))
	}
}

// Softmax replaces x by exp(x) over the sum of all exp(x).
func Softmax(x []float32) {
	most := float32(math.Inf(-1))
	for _, v := range x[mostSome(&most, x):] {
		if v > most {
			most = v
		}
	}
	var sums [8]float64
	for i := expSome(&sums, x, most); i < len(x); i++ {
		x[i] = exp(x[i] - most)
		sums[i%8] += float64(x[i])
	}
	scale := float32(1 / total(&sums))
	for i := scaleSome(x, scale); i < len(x); i++ {
		x[i] *= scale
	}
}

// exp returns e**x to about 1e-7 of its value. It is 0 below -87, where
// float32 runs out of precision, and stays the same above 88.
func exp(x float32) float32 {
	const (
		log2e = 1.44269504088896340735992468100189214
		ln2hi = 0.693359375 // few enough bits that n*ln2hi is exact
		ln2lo = 0.693147180559945309417232121458176568 - ln2hi
		round = 3 << 22 // adding it leaves no bits below 1
	)
	if x < -87 {
		return 0
	}
	if x > 88 {
		x = 88
	}
	// e**x = 2**n e**r, with |r| at most ln(2)/2.
	shifted := float32(x*log2e) + round
	n := shifted - round
	r := float32(x-float32(n*ln2hi)) - float32(n*ln2lo)
	p := float32(1.0 / 5040)
	p = float32(p*r) + 1.0/720
	p = float32(p*r) + 1.0/120
	p = float32(p*r) + 1.0/24
	p = float32(p*r) + 1.0/6
	p = float32(p*r) + 1.0/2
	p = float32(p*r) + 1
	p = float32(p*r) + 1
	power := (math.Float32bits(shifted) - math.Float32bits(round) + 127) << 23
	return p * math.Float32frombits(power)
}

// encodeFloat16 writes x to half, rounded as Float16bits does.
func encodeFloat16(half []uint16, x []float32) {
	for i := encodeFloat16Some(half, x); i < len(x); i++ {
		half[i] = Float16bits(x[i])
	}
}

// smallest is below what a group of numbers that are not all zero may be scaled
// to when quantised: less counts as zero.
const smallest = 0x1p-100

// quantizeGroup writes x as multiples of what it returns, the largest of which
// is 127. A number that is not finite makes that not finite.
func quantizeGroup(q *[Group]int16, x *[Group]float32) float32 {
	var bits uint32 // so that one that is not a number is the largest
	for _, v := range x {
		bits = max(bits, math.Float32bits(v)&^(1<<31))
	}
	most := math.Float32frombits(bits)
	if most < smallest {
		*q = [Group]int16{}
		return 0
	}
	inverse := 127 / most
	for i, v := range x {
		q[i] = round(v * inverse)
	}
	return most / 127
}

// round returns the nearest integer to x, ties to even, for x up to 127 from 0.
func round(x float32) int16 {
	if x != x {
		return -128 // as the assembly does
	}
	const round = 3 << 22 // adding it leaves no bits below 1
	return int16(math.Float32bits(x+round) - math.Float32bits(round))
}
