package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// limits writes what the limits of a machine are measured with: loops that do
// nothing but read, or multiply and add. Nobody wants their results.
func limits() {
	readLoop()
	fmaLoop()
	int8Loop()
}

// chains is the number of sums under way at a time: two units, up to five
// cycles until a sum can be added to again, and some to spare.
const chains = 12

func zeros(n int) []VecVirtual {
	v := make([]VecVirtual, n)
	for i := range v {
		v[i] = YMM()
		VPXOR(v[i], v[i], v[i])
	}
	return v
}

// readLoop reads and prefetches as the products do.
func readLoop() {
	const size = 512
	function("readLoop", "func(p *byte, rounds int)", "readLoop reads 512 bytes a round.")
	p, n := param("p"), param("rounds")
	sums := zeros(4)
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

// fmaLoop has 4*chains fused multiply-adds of 8 elements a round, each of them
// two operations.
func fmaLoop() {
	TEXT("fmaLoop", NOSPLIT, "func(rounds int)")
	Doc("fmaLoop does 768 operations of float32 a round.")
	n := param("rounds")
	sums := zeros(chains)
	half := YMM() // each sum is halved and gets a half, and so stays below 1
	VPCMPEQD(half, half, half)
	VPSRLD(U8(26), half, half)
	VPSLLD(U8(24), half, half)
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
	sums := zeros(chains)
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
