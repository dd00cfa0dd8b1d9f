package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// vector writes the functions over vectors, 8 elements at a time. These functions run
// the operations of the Go versions in the same order, so they give the same bits.
func vector() {
	add()
	sums()
	normalize()
	largest()
	exps()
	gelu()
	quantize(false)
	quantize(true)
	blockErrors()
	halves()
}

// constants maps the bits of a number to a read-only vector of 8 elements with these
// bits.
type constants map[uint32]Mem

func (c constants) bits(b uint32) Mem {
	if m, ok := c[b]; ok {
		return m
	}
	m := GLOBL(fmt.Sprintf("eight%08x", b), RODATA|NOPTR)
	for i := range 8 {
		DATA(4*i, U32(b))
	}
	c[b] = m
	return m
}

func (c constants) float(v float64) Mem { return c.bits(math.Float32bits(float32(v))) }

var eight = constants{}

// loop writes a loop that runs body n times. After each run, it advances every pointer
// p in order by advance[p] bytes.
func loop(n GPVirtual, body func(), advance map[GPVirtual]int, order ...GPVirtual) {
	Label("loop")
	body()
	for _, p := range order {
		ADDQ(U32(uint64(advance[p])), p)
	}
	DECQ(n)
	JNZ(LabelRef("loop"))
}

func function(name, signature, doc string) {
	TEXT(name, NOSPLIT, signature)
	Pragma("noescape")
	Doc(doc)
}

func ret() {
	VZEROUPPER()
	RET()
}

func add() {
	function("addVector", "func(y, x *float32, eights int)", "addVector adds the 8*eights elements of x to those of y. eights must be at least 1.")
	y, x, n := param("y"), param("x"), param("eights")
	loop(n, func() {
		v := YMM()
		VMOVUPS(Mem{Base: y}, v)
		VADDPS(Mem{Base: x}, v, v)
		VMOVUPS(v, Mem{Base: y})
	}, map[GPVirtual]int{y: 32, x: 32}, y, x)
	ret()
}

// sums writes the two functions that compute the sums of a layer norm. Each sum
// consists of eight interleaved partial sums in float64.
func sums() {
	for _, squares := range []bool{false, true} {
		name, what := "sumVector", "x[i] - from"
		if squares {
			name, what = "sumSquaresVector", "the square of x[i] - from"
		}
		function(name, "func(sums *[8]float64, x *float32, eights int, from float64)",
			name+" adds "+what+" to sums[i%8], for each of the 8*eights elements of x.")
		to, x, n := param("sums"), param("x"), param("eights")
		from := YMM()
		address, err := Param("from").Resolve()
		if err != nil {
			panic(err)
		}
		VBROADCASTSD(address.Addr, from)
		chains := [2]VecVirtual{YMM(), YMM()}
		for i, c := range chains {
			VMOVUPD(Mem{Base: to, Disp: 32 * i}, c)
		}
		loop(n, func() {
			for i, c := range chains {
				d := YMM()
				VCVTPS2PD(Mem{Base: x, Disp: 16 * i}, d)
				VSUBPD(from, d, d)
				if squares {
					VMULPD(d, d, d)
				}
				VADDPD(d, c, c)
			}
		}, map[GPVirtual]int{x: 32}, x)
		for i, c := range chains {
			VMOVUPD(c, Mem{Base: to, Disp: 32 * i})
		}
		ret()
	}
}

// broadcast loads a float32 parameter into all elements.
func broadcast(name string) VecVirtual {
	address, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	v := YMM()
	VBROADCASTSS(address.Addr, v)
	return v
}

func normalize() {
	function("normalizeVector", "func(y, x, gain, bias *float32, eights int, mean, scale float32)",
		"normalizeVector computes y = (x - mean) * scale * gain + bias, for 8*eights elements.")
	y, x, gain, bias, n := param("y"), param("x"), param("gain"), param("bias"), param("eights")
	mean, scale := broadcast("mean"), broadcast("scale")
	loop(n, func() {
		v := YMM()
		VMOVUPS(Mem{Base: x}, v)
		VSUBPS(mean, v, v)
		VMULPS(scale, v, v)
		VMULPS(Mem{Base: gain}, v, v)
		VADDPS(Mem{Base: bias}, v, v)
		VMOVUPS(v, Mem{Base: y})
	}, map[GPVirtual]int{y: 32, x: 32, gain: 32, bias: 32}, y, x, gain, bias)
	ret()
}

func largest() {
	function("maxVector", "func(x *float32, eights int) float32",
		"maxVector returns the largest of the 8*eights elements of x. It ignores NaNs.")
	x, n := param("x"), param("eights")
	m := YMM()
	VMOVUPS(eight.bits(0xff800000), m) // minus infinity
	loop(n, func() {
		v := YMM()
		VMOVUPS(Mem{Base: x}, v)
		VMAXPS(m, v, m) // the result is m if v or m is NaN
	}, map[GPVirtual]int{x: 32}, x)
	other := XMM()
	VEXTRACTF128(U8(1), m, other)
	VMAXPS(m.AsX(), other, other)
	half := XMM()
	VPERMILPS(U8(0b1110), other, half)
	VMAXPS(other, half, half)
	VPERMILPS(U8(1), half, other)
	VMAXSS(half, other, other)
	Store(other, ReturnIndex(0))
	ret()
}

// exp returns e**x, computed like kernel.exp.
func exp(x VecVirtual) VecVirtual {
	const (
		ln2hi = 0.693359375
		round = 3 << 22
	)
	none := YMM()
	VCMPPS(U8(1), eight.float(-87), x, none) // x < -87
	top := YMM()
	VMOVUPS(eight.float(88), top)
	VMINPS(x, top, x) // the result is x if x is NaN
	shifted, n, low, p := YMM(), YMM(), YMM(), YMM()
	VMULPS(eight.float(math.Log2E), x, shifted)
	VADDPS(eight.float(round), shifted, shifted)
	VSUBPS(eight.float(round), shifted, n)
	VMULPS(eight.float(math.Ln2-ln2hi), n, low)
	VMULPS(eight.float(ln2hi), n, n)
	VSUBPS(n, x, x)
	VSUBPS(low, x, x)
	VMOVUPS(eight.float(1.0/5040), p)
	for _, c := range []float64{1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 1.0 / 2, 1, 1} {
		VMULPS(x, p, p)
		VADDPS(eight.float(c), p, p)
	}
	VPADDD(eight.bits(127-math.Float32bits(round)), shifted, shifted)
	VPSLLD(U8(23), shifted, shifted)
	VMULPS(shifted, p, p)
	VANDNPS(p, none, p)
	return p
}

func exps() {
	function("expVector", "func(sums *[8]float64, x *float32, eights int, largest float32)",
		"expVector replaces x[i] by exp(x[i] - largest) and adds the result to sums[i%8], for each of the 8*eights elements of x.")
	to, x, n := param("sums"), param("x"), param("eights")
	from := broadcast("largest")
	chains := [2]VecVirtual{YMM(), YMM()}
	for i, c := range chains {
		VMOVUPD(Mem{Base: to, Disp: 32 * i}, c)
	}
	loop(n, func() {
		v := YMM()
		VMOVUPS(Mem{Base: x}, v)
		VSUBPS(from, v, v)
		e := exp(v)
		VMOVUPS(e, Mem{Base: x})
		wide := YMM()
		VCVTPS2PD(e.AsX(), wide)
		VADDPD(wide, chains[0], chains[0])
		VEXTRACTF128(U8(1), e, e.AsX())
		VCVTPS2PD(e.AsX(), wide)
		VADDPD(wide, chains[1], chains[1])
	}, map[GPVirtual]int{x: 32}, x)
	for i, c := range chains {
		VMOVUPD(c, Mem{Base: to, Disp: 32 * i})
	}
	ret()

	function("scaleVector", "func(x *float32, eights int, scale float32)", "scaleVector multiplies the 8*eights elements of x by scale.")
	x, n = param("x"), param("eights")
	scale := broadcast("scale")
	loop(n, func() {
		v := YMM()
		VMULPS(Mem{Base: x}, scale, v)
		VMOVUPS(v, Mem{Base: x})
	}, map[GPVirtual]int{x: 32}, x)
	ret()
}

func gelu() {
	const (
		a = -2 * 0.797884560802865355879892119868763737
		b = a * 0.044715
	)
	function("geluVector", "func(x *float32, eights int)", "geluVector replaces each of the 8*eights elements of x by its GELU.")
	x, n := param("x"), param("eights")
	loop(n, func() {
		v, u := YMM(), YMM()
		VMOVUPS(Mem{Base: x}, v)
		VMULPS(v, v, u)
		VMULPS(eight.float(b), u, u)
		VADDPS(eight.float(a), u, u)
		VMULPS(u, v, u)
		e := exp(u)
		VADDPS(eight.float(1), e, e)
		VDIVPS(e, v, v)
		VMOVUPS(v, Mem{Base: x})
	}, map[GPVirtual]int{x: 32}, x)
	ret()
}

func quantize(wide bool) {
	name, signature := "quantizeVector", "func(q *int16, scales *float32, x *float32, groups int)"
	if wide {
		name, signature = "quantizeBytesVector", "func(q *byte, x *float32, groups int)"
	}
	function(name, signature, name+" quantises groups of 32 elements of x. The largest magnitude of the integers in a group is 127.")
	q, x, n := param("q"), param("x"), param("groups")
	advance, order := map[GPVirtual]int{q: inputGroup, x: 128}, []GPVirtual{q, x}
	scale := Mem{Base: q, Disp: group}
	if !wide {
		scales := param("scales")
		advance[q], advance[scales] = 2*group, 4
		order = append(order, scales)
		scale = Mem{Base: scales}
	}
	loop(n, func() {
		var v [4]VecVirtual
		most, magnitude := YMM(), YMM()
		for i := range v {
			v[i] = YMM()
			VMOVUPS(Mem{Base: x, Disp: 32 * i}, v[i])
			if i == 0 {
				VPAND(eight.bits(0x7fffffff), v[i], most)
				continue
			}
			VPAND(eight.bits(0x7fffffff), v[i], magnitude)
			VPMAXUD(magnitude, most, most) // compared as integers, a NaN is larger than any number
		}
		VPERM2I128(U8(1), most, most, magnitude)
		VPMAXUD(magnitude, most, most)
		VPSHUFD(U8(0b01001110), most, magnitude)
		VPMAXUD(magnitude, most, most)
		VPSHUFD(U8(0b10110001), most, magnitude)
		VPMAXUD(magnitude, most, most)
		scaled, inverse := YMM(), YMM()
		VCMPPS(U8(5), eight.bits(minScaled), most, scaled) // true where most is not less than minScaled
		VMOVUPS(eight.float(127), inverse)
		VDIVPS(most, inverse, inverse)
		VANDPS(scaled, inverse, inverse)
		VDIVPS(eight.float(127), most, most)
		VANDPS(scaled, most, most)
		VMOVSS(most.AsX(), scale)
		for i := range v {
			VMULPS(inverse, v[i], v[i])
			VCVTPS2DQ(v[i], v[i])
			VPMAXSD(eight.bits(minus128), v[i], v[i]) // a NaN becomes -128
		}
		if wide {
			packBytes(v, q)
			return
		}
		for i := 0; i < len(v); i += 2 {
			VPACKSSDW(v[i+1], v[i], v[i])
			VPERMQ(U8(0b11011000), v[i], v[i])
			VMOVDQU(v[i], Mem{Base: q, Disp: 16 * i})
		}
	}, advance, order...)
	ret()
}

// minus128 has the bits of -128, the integer that stands for NaN.
const minus128 = 0xffffff80

// packBytes writes 32 integers as int8, and -128 times their sum as an int32.
func packBytes(v [4]VecVirtual, q GPVirtual) {
	sum, other := YMM(), YMM()
	VPADDD(v[1], v[0], sum)
	VPADDD(v[3], v[2], other)
	VPADDD(other, sum, sum)
	VPERM2I128(U8(1), sum, sum, other)
	VPADDD(other, sum, sum)
	VPSHUFD(U8(0b01001110), sum, other)
	VPADDD(other, sum, sum)
	VPSHUFD(U8(0b10110001), sum, other)
	VPADDD(other, sum, sum)
	VPSLLD(U8(7), sum, sum)
	VPXOR(other, other, other)
	VPSUBD(sum, other, sum)
	VMOVD(sum.AsX(), Mem{Base: q, Disp: group + 4})
	// The pack instructions work within 128-bit lanes, so VPERMD must restore the
	// order.
	VPACKSSDW(v[1], v[0], v[0])
	VPACKSSDW(v[3], v[2], v[2])
	VPACKSSWB(v[2], v[0], v[0])
	order := YMM()
	VMOVDQU(packedFours(), order)
	VPERMD(v[0], order, v[0])
	VMOVDQU(v[0], Mem{Base: q})
}

// packedFours returns the indexes with which VPERMD restores the order of the bytes
// after two pack instructions.
func packedFours() Mem {
	m := GLOBL("packedFours", RODATA|NOPTR)
	for i, at := range []uint32{0, 4, 1, 5, 2, 6, 3, 7} {
		DATA(4*i, U32(at))
	}
	return m
}

// minScaled is the bit pattern of 2**-100, the value of kernel.minScaled.
const minScaled = 27 << 23

func blockErrors() {
	function("blockErrorsVector", "func(errors *[16]float32, b *[32][16]float32, inverse *[16]float32)",
		"blockErrorsVector multiplies the weights of every output by inverse[output] and rounds them to integers. It adds the squared rounding errors to errors[output].")
	const vectors = width / 8
	errors, b, inverse := param("errors"), param("b"), param("inverse")
	n := GP64()
	MOVQ(U32(group), n)
	var sum, by [vectors]VecVirtual
	for v := range vectors {
		sum[v], by[v] = YMM(), YMM()
		VXORPS(sum[v], sum[v], sum[v])
		VMOVUPS(Mem{Base: inverse, Disp: 32 * v}, by[v])
	}
	loop(n, func() {
		for v := range vectors {
			x, nearest := YMM(), YMM()
			VMULPS(Mem{Base: b, Disp: 32 * v}, by[v], x)
			VADDPS(eight.float(3<<22), x, nearest)
			VSUBPS(eight.float(3<<22), nearest, nearest)
			VSUBPS(nearest, x, x)
			VMULPS(x, x, x)
			VADDPS(x, sum[v], sum[v])
		}
	}, map[GPVirtual]int{b: 4 * width}, b)
	for v := range vectors {
		VMOVUPS(sum[v], Mem{Base: errors, Disp: 32 * v})
	}
	ret()
}

func halves() {
	function("narrowVector", "func(half *uint16, x *float32, eights int)", "narrowVector writes the 8*eights elements of x to half as binary16, rounded to nearest, ties to even.")
	half, x, n := param("half"), param("x"), param("eights")
	loop(n, func() {
		v := YMM()
		VMOVUPS(Mem{Base: x}, v)
		VCVTPS2PH(U8(0), v, Mem{Base: half})
	}, map[GPVirtual]int{half: 16, x: 32}, half, x)
	ret()
}
