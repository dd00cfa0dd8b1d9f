// Package exact computes functions of float64 with the same bits on every machine. The standard
// library does not promise that: its functions are assembly on some processors. Compilers may
// also join a product and a sum into one operation with one rounding, so every product here is
// converted to float64.
//
// Its bits must never change, because recorded texts depend on them. The functions have no
// state and are safe for concurrent use.
package exact

import "math"

// Exp returns e^x for x at most 0. For x below -40 it returns 0, because the sampler
// would round so small a weight to 0. The relative error is at most 4e-16. Exp uses
// only basic operations and rounds the result of each, so all machines give the same
// bits.
//
// Exp splits e^x into 2^(n/32) * e^r, where n is an integer and |r| is at most
// ln(2)/64. The first factor comes from a table, the second from a Taylor series.
func Exp(x float64) float64 {
	const (
		stepHi = 0x1.62e42fee00000p-6  // ln(2)/32 in 32 bits, so that n*stepHi is exact
		stepLo = 0x1.a39ef35793c76p-38 // the rest of ln(2)/32
		round  = 3 << 51               // adding and then subtracting this number rounds to an integer
	)
	if x < -40 {
		return 0
	}
	shifted := float64(x*(32*math.Log2E)) + round
	n := shifted - round
	r := (x - float64(n*stepHi)) - float64(n*stepLo)
	p := 1.0 / 720
	p = float64(p*r) + 1.0/120
	p = float64(p*r) + 1.0/24
	p = float64(p*r) + 1.0/6
	p = float64(p*r) + 1.0/2
	p = float64(p*r) + 1
	p = float64(p * r)
	i := int(n)
	root := roots(i & 31)
	power := math.Float64frombits(uint64(1023+i>>5) << 52)
	return (root + float64(root*p)) * power
}

// roots returns 2^(i/32) for i from 0 to 31, rounded to the nearest float64.
func roots(i int) float64 {
	return [32]float64{
		0x1.0000000000000p+0, 0x1.059b0d3158574p+0, 0x1.0b5586cf9890fp+0, 0x1.11301d0125b51p+0,
		0x1.172b83c7d517bp+0, 0x1.1d4873168b9aap+0, 0x1.2387a6e756238p+0, 0x1.29e9df51fdee1p+0,
		0x1.306fe0a31b715p+0, 0x1.371a7373aa9cbp+0, 0x1.3dea64c123422p+0, 0x1.44e086061892dp+0,
		0x1.4bfdad5362a27p+0, 0x1.5342b569d4f82p+0, 0x1.5ab07dd485429p+0, 0x1.6247eb03a5585p+0,
		0x1.6a09e667f3bcdp+0, 0x1.71f75e8ec5f74p+0, 0x1.7a11473eb0187p+0, 0x1.82589994cce13p+0,
		0x1.8ace5422aa0dbp+0, 0x1.93737b0cdc5e5p+0, 0x1.9c49182a3f090p+0, 0x1.a5503b23e255dp+0,
		0x1.ae89f995ad3adp+0, 0x1.b7f76f2fb5e47p+0, 0x1.c199bdd85529cp+0, 0x1.cb720dcef9069p+0,
		0x1.d5818dcfba487p+0, 0x1.dfc97337b9b5fp+0, 0x1.ea4afa2a490dap+0, 0x1.f50765b6e4540p+0,
	}[i]
}
