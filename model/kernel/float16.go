package kernel

import "math"

// Float16bits returns x as an IEEE 754 binary16 number, rounded to nearest, ties to
// even. Numbers from 65520 on become infinite, and a NaN stays a NaN.
func Float16bits(x float32) uint16 {
	b := math.Float32bits(x)
	sign, b := uint16(b>>16)&0x8000, b&^(1<<31)
	switch {
	case b > 0x7f800000: // NaN
		return sign | 0x7e00 | uint16(b>>13)&0x3ff
	case b >= 0x47800000: // 2**16 and more
		return sign | 0x7c00
	case b >= 0x38800000: // a normal binary16, 2**-14 and more
		b -= (127 - 15) << 23
		return sign | uint16((b+0xfff+b>>13&1)>>13)
	}
	// After the addition of 1/2, the low bits are x as a rounded multiple of 2**-24.
	return sign | uint16(math.Float32bits(math.Float32frombits(b)+0.5)-math.Float32bits(0.5))
}

// Float16frombits returns the number that an IEEE 754 binary16 encodes. The conversion
// is exact, except that a signalling NaN becomes quiet.
func Float16frombits(h uint16) float32 {
	sign, b := uint32(h&0x8000)<<16, uint32(h&0x7fff)<<13
	if b >= 0x7c00<<13 { // infinite or NaN
		b |= 0x7f800000
		if b&0x7fffff != 0 {
			b |= 1 << 22 // makes a NaN quiet
		}
		return math.Float32frombits(sign | b)
	}
	// As a float32, b is 2**-112 times the result, normal or subnormal.
	return math.Float32frombits(sign | math.Float32bits(math.Float32frombits(b)*0x1p112))
}

// BFloat16frombits returns the number that a bfloat16 encodes. A bfloat16 is the upper
// 16 bits of a float32.
func BFloat16frombits(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// bfloat16Above returns the smallest bfloat16 that is at least x. x must not be
// negative.
func bfloat16Above(x float32) uint16 { return uint16((math.Float32bits(x) + 0xffff) >> 16) }
