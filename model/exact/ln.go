package exact

import "math"

// Ln returns the natural logarithm of a positive, normal number. The error is below one
// unit in the last place. Ln uses only basic operations and rounds the result of each, so
// all machines give the same bits.
//
// The method is that of FreeBSD's e_log.c: x is 2^k * (1+f), where 1+f is between
// sqrt(2)/2 and sqrt(2). A polynomial in s = f/(2+f) approximates ln(1+f).
func Ln(x float64) float64 {
	const (
		ln2Hi = 6.93147180369123816490e-01 // ln(2) in 32 bits, so that k*ln2Hi is exact
		ln2Lo = 1.90821492927058770002e-10 // the rest of ln(2)
	)
	f, exponent := math.Frexp(x)
	if f < math.Sqrt2/2 {
		f, exponent = f*2, exponent-1
	}
	f--
	k, s := float64(exponent), f/(2+f)
	s2 := float64(s * s)
	s4 := float64(s2 * s2)
	odd := float64(s4*1.479819860511658591e-01) + 1.818357216161805012e-01
	odd = float64(odd*s4) + 2.857142874366239149e-01
	odd = float64(odd*s4) + 6.666666666666735130e-01
	odd = float64(s2 * odd)
	even := float64(s4*1.531383769920937332e-01) + 2.222219843214978396e-01
	even = float64(even*s4) + 3.999999999940941908e-01
	even = float64(s4 * even)
	half := float64(float64(0.5*f) * f)
	tail := float64(s*(half+(odd+even))) + float64(k*ln2Lo)
	return float64(k*ln2Hi) - ((half - tail) - f)
}
