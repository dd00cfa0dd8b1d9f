package kernel

import "math"

// Add adds x to y, element by element. x must be at least as long as y.
func Add(y, x []float32) {
	x = x[:len(y)]
	for i := addPrefix(y, x); i < len(y); i++ {
		y[i] += x[i]
	}
}

// Normalize writes the layer norm of x to y (Ba, Kiros and Hinton, 2016): (x - mean) /
// sqrt(variance + epsilon) * gain + bias, element by element. It uses the population
// variance. y may be the same slice as x. All slices have the length of x, which must
// not be 0.
func Normalize(y, x, gain, bias []float32, epsilon float32) {
	var sums [8]float64
	for i := sumPrefix(&sums, x, 0); i < len(x); i++ {
		sums[i%8] += float64(x[i])
	}
	mean := total(&sums) / float64(len(x))
	sums = [8]float64{}
	for i := sumSquaresPrefix(&sums, x, mean); i < len(x); i++ {
		d := float64(x[i]) - mean
		sums[i%8] += float64(d * d)
	}
	variance := total(&sums) / float64(len(x))
	scale := float32(1 / math.Sqrt(variance+float64(epsilon)))
	y, gain, bias = y[:len(x)], gain[:len(x)], bias[:len(x)]
	m := float32(mean)
	for i := normalizePrefix(y, x, gain, bias, m, scale); i < len(x); i++ {
		y[i] = float32(float32(float32(x[i]-m)*scale)*gain[i]) + bias[i]
	}
}

// total returns the sum of eight partial sums. Each of these is a sum over every eighth
// element.
func total(sums *[8]float64) float64 {
	return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]))
}

// GELU replaces each element x by x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))), the
// approximation that GPT-2 uses (Hendrycks and Gimpel, 2016). It computes the equal
// expression x / (1 + exp(-2 √(2/π) (x + 0.044715 x³))).
func GELU(x []float32) {
	const (
		a = -2 * 0.797884560802865355879892119868763737
		b = a * 0.044715
	)
	for i := geluPrefix(x); i < len(x); i++ {
		v := x[i]
		u := float32(v * (a + float32(b*float32(v*v))))
		x[i] = v / (1 + exp(u))
	}
}

// Softmax replaces each element x by exp(x) divided by the sum of all exp(x).
func Softmax(x []float32) {
	largest := float32(math.Inf(-1))
	for _, v := range x[maxPrefix(&largest, x):] {
		if v > largest {
			largest = v
		}
	}
	var sums [8]float64
	for i := expPrefix(&sums, x, largest); i < len(x); i++ {
		x[i] = exp(x[i] - largest)
		sums[i%8] += float64(x[i])
	}
	scale := float32(1 / total(&sums))
	for i := scalePrefix(x, scale); i < len(x); i++ {
		x[i] *= scale
	}
}

// exp returns e**x with a relative error of about 1e-7. For x below -87, where e**x is
// close to subnormal, it returns 0. For x above 88, it returns exp(88).
func exp(x float32) float32 {
	const (
		log2e = 1.44269504088896340735992468100189214
		ln2hi = 0.693359375 // ln(2) in so few bits that n*ln2hi is exact
		ln2lo = 0.693147180559945309417232121458176568 - ln2hi
		round = 3 << 22 // adding and then subtracting this number rounds to an integer
	)
	if x < -87 {
		return 0
	}
	if x > 88 {
		x = 88
	}
	// e**x is 2**n * e**r, where |r| is at most ln(2)/2.
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

// encodeFloat16 writes Float16bits of every element of x to half.
func encodeFloat16(half []uint16, x []float32) {
	for i := encodeFloat16Prefix(half, x); i < len(x); i++ {
		half[i] = Float16bits(x[i])
	}
}

// minScaled is the smallest magnitude that quantising distinguishes from zero. If all
// numbers of a group are smaller, they are quantised to 0.
const minScaled = 0x1p-100

// quantizeGroup writes x to q as integers and returns their scale. The largest
// magnitude of the integers is 127. If x has an infinity or a NaN, the scale is not
// finite.
func quantizeGroup(q *[Group]int16, x *[Group]float32) float32 {
	var bits uint32 // bits of the largest magnitude; a NaN counts as the largest
	for _, v := range x {
		bits = max(bits, math.Float32bits(v)&^(1<<31))
	}
	largest := math.Float32frombits(bits)
	if largest < minScaled {
		*q = [Group]int16{}
		return 0
	}
	inverse := 127 / largest
	for i, v := range x {
		q[i] = round(v * inverse)
	}
	return largest / 127
}

// round returns the integer nearest to x, with ties to even. The magnitude of x must be
// at most 127.
func round(x float32) int16 {
	if x != x {
		return -128 // the assembly gives the same number for a NaN
	}
	const round = 3 << 22 // adding this number puts the rounded integer into the low bits
	x = float32(x)        // keeps compilers from fusing the caller's product with the addition
	return int16(math.Float32bits(x+round) - math.Float32bits(round))
}
