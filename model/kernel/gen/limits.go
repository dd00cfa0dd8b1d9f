package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// limits writes what the limits of a machine are measured with: loops that do
// nothing but read, or multiply and add. Nobody wants their results.
func limits() {
	readLoop()
	fmaLoop(avx2)
	fmaLoop(avx512)
	int8Loop()
	int8LoopWide()
}

// chains is the number of sums under way at a time: two units, up to five
// cycles until a sum can be added to again, and some to spare.
const chains = 12

func (s set) zeros(n int) []VecVirtual {
	v := make([]VecVirtual, n)
	for i := range v {
		v[i] = s.register()
		low := v[i].AsX() // clears the rest as well
		VPXOR(low, low, low)
	}
	return v
}

// readLoop reads and prefetches as the products do.
func readLoop() {
	const size = 512
	function("readLoop", "func(p *byte, rounds int)", "readLoop reads 512 bytes a round.")
	p, n := param("p"), param("rounds")
	sums := avx2.zeros(4)
	loop(n, func() {
		for at := 0; at < size; at += 64 {
			PREFETCHT0(Mem{Base: p, Disp: ahead + at})
		}
		for at := 0; at < size; at += 32 {
			s := sums[at/32%len(sums)]
			VPXOR(Mem{Base: p, Disp: at}, s, s)
		}
	}, map[GPVirtual]int{p: size}, p)
	ret()
}

// fmaLoop has 4*chains fused multiply-adds a round, each of them two operations
// with every element.
func fmaLoop(s set) {
	TEXT("fmaLoop"+s.name, NOSPLIT, "func(rounds int)")
	Doc(fmt.Sprintf("fmaLoop%s does %d operations of float32 a round.", s.name, 4*chains*2*s.lanes))
	n := param("rounds")
	sums := s.zeros(chains)
	half := s.register() // each sum is halved and gets a half, and so stays below 1
	bits := GP32()
	MOVL(U32(math.Float32bits(0.5)), bits)
	low := half.AsX()
	VMOVD(bits, low)
	VBROADCASTSS(low, half)
	loop(n, func() {
		for range 4 {
			for _, s := range sums {
				VFMADD213PS(half, half, s)
			}
		}
	}, nil)
	ret()
}

// int8Loop has 4*chains times the fewest AVX2 instructions that add products
// of 32 pairs of int8 to sums wide enough for many: 64 operations.
func int8Loop() {
	TEXT("int8Loop", NOSPLIT, "func(rounds int)")
	Doc("int8Loop does 3072 operations of int8 a round.")
	n := param("rounds")
	sums := avx2.zeros(chains)
	ones, x := YMM(), YMM()
	VPCMPEQW(ones, ones, ones)
	VPABSB(ones, x)
	VPSRLW(U8(15), ones, ones)
	loop(n, func() {
		for range 4 {
			for _, s := range sums {
				t := YMM()
				VPMADDUBSW(x, x, t)
				VPMADDWD(ones, t, t)
				VPADDD(t, s, s)
			}
		}
	}, nil)
	ret()
}

// int8LoopWide has 4*chains instructions that add 4 products of int8 to each of
// 16 sums: 128 operations.
func int8LoopWide() {
	TEXT("int8LoopWide", NOSPLIT, "func(rounds int)")
	Doc("int8LoopWide does 6144 operations of int8 a round.")
	n := param("rounds")
	sums := avx512.zeros(chains + 1)
	x := sums[0]
	sums = sums[1:]
	loop(n, func() {
		for range 4 {
			for _, s := range sums {
				VPDPBUSD(x, x, s)
			}
		}
	}, nil)
	ret()
}
