package kernel

import "math"

// Add adds each element of x to that of y.
func Add(y, x []float32) {
	x = x[:len(y)]
	for i := range y {
		y[i] += x[i]
	}
}

// Normalize computes the layer norm of x: y = (x - mean)/sqrt(variance + epsilon)
// times gain plus bias, element by element, where the variance is that of the
// population. y may be x.
func Normalize(y, x, gain, bias []float32, epsilon float32) {
	mean := sum(x, 0, false) / float64(len(x))
	variance := sum(x, mean, true) / float64(len(x))
	scale := float32(1 / math.Sqrt(variance+float64(epsilon)))
	y, gain, bias = y[:len(x)], gain[:len(x)], bias[:len(x)]
	m := float32(mean)
	for i, v := range x {
		y[i] = float32(float32(float32(v-m)*scale)*gain[i]) + bias[i]
	}
}

// sum adds up the differences of x from a point, or their squares, in four
// interleaved chains.
func sum(x []float32, from float64, squares bool) float64 {
	var s [4]float64
	for ; len(x) >= 4; x = x[4:] {
		for j, v := range x[:4] {
			d := float64(v) - from
			if squares {
				d = float64(d * d)
			}
			s[j] += d
		}
	}
	for j, v := range x {
		d := float64(v) - from
		if squares {
			d = float64(d * d)
		}
		s[j] += d
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}

// GELU replaces each element by x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))), the
// form that GPT-2 uses. That equals x / (1 + exp(-2 √(2/π) (x + 0.044715 x³))).
func GELU(x []float32) {
	const (
		a = -2 * 0.797884560802865355879892119868763737
		b = a * 0.044715
	)
	for i, v := range x {
		u := float32(v * (a + float32(b*float32(v*v))))
		x[i] = v / (1 + exp(u))
	}
}

// Softmax replaces x by exp(x) over the sum of all exp(x).
func Softmax(x []float32) {
	if len(x) == 0 {
		return
	}
	most := x[0]
	for _, v := range x {
		if v > most {
			most = v
		}
	}
	var total float64
	for i, v := range x {
		e := exp(v - most)
		x[i] = e
		total += float64(e)
	}
	scale := float32(1 / total)
	for i := range x {
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
