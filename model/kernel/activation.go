package kernel

import "math"

// The activations in this file are plain Go on all machines, so each of them has the same
// bits everywhere. They take several times as long as GELU, which has assembly. The
// conversions of products keep compilers from fusing them with additions.

// ExactGELU replaces each element x by x Φ(x), where Φ is the distribution function of
// the normal distribution (Hendrycks and Gimpel, 2016). The absolute error is below 1e-7
// times the larger of 1 and |x|.
func ExactGELU(x []float32) {
	const far = 13 // Φ(-far) times far is less than half of the least number that exp returns
	for i, v := range x {
		z := math.Float32frombits(math.Float32bits(v) &^ (1 << 31))
		switch {
		case z > far && v < 0:
			x[i] = 0
		case z > far:
		default:
			tail := float32(z * exp(float32(float32(-0.5*z)*z)) * mills(z))
			if v < 0 {
				x[i] = -tail
			} else {
				x[i] = v - tail
			}
		}
	}
}

// mills returns Φ(-z) exp(z²/2) for z from 0 to 13. It is a polynomial in 1/(1+0.39z),
// which interpolates the function at 9 Chebyshev nodes. The error, times z exp(-z²/2), is
// below 6e-9.
func mills(z float32) float32 {
	t := 1 / (1 + float64(0.39*float64(z)))
	p := -0.03729344985198813
	p = float64(p*t) + 0.19887994728615999
	p = float64(p*t) - 0.3968866531534991
	p = float64(p*t) + 0.304427662666649
	p = float64(p*t) - 0.04269945399997375
	p = float64(p*t) + 0.16809352135902583
	p = float64(p*t) + 0.14930965045674804
	p = float64(p*t) + 0.1561935616008204
	p = float64(p*t) - 2.4801331710795396e-05
	return float32(p)
}

// ReLU replaces each negative element by 0.
func ReLU(x []float32) {
	for i, v := range x {
		if v < 0 {
			x[i] = 0
		}
	}
}

// SiLU replaces each element x by x / (1 + exp(-x)).
func SiLU(x []float32) {
	for i, v := range x {
		x[i] = v / (1 + exp(-v))
	}
}

// Tanh replaces each element by its hyperbolic tangent. The relative error is below 2e-7.
func Tanh(x []float32) {
	for i, v := range x {
		z := math.Float32frombits(math.Float32bits(v) &^ (1 << 31))
		if z < 0.625 {
			// This is the start of Lambert's continued fraction.
			w := float64(v)
			s := float64(w * w)
			x[i] = float32(w * (945 + float64(s*(105+s))) / (945 + float64(s*(420+float64(15*s)))))
			continue
		}
		y := 1 - 2/(1+exp(2*z))
		if v < 0 {
			y = -y
		}
		x[i] = y
	}
}
