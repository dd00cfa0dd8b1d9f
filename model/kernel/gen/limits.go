package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// limits writes the loops that measure peak rates. Each loop only reads, or only
// multiplies and adds. The results are discarded.
func limits() {
	readLoop()
	fmaLoop(avx2)
	fmaLoop(avx512)
	int8Loop()
	int8LoopWide()
}

// chains is the number of independent sums of a loop. Two execution units with a latency
// of up to five cycles need ten sums to be always busy. chains is a little more than
// that.
const chains = 12

// zeros returns n vectors of zeros.
func (s set) zeros(n int) []VecVirtual {
	v := make([]VecVirtual, n)
	for i := range v {
		v[i] = s.register()
		low := v[i].AsX() // a write to the lower bits clears the upper bits too
		VPXOR(low, low, low)
	}
	return v
}

// readLoop writes a loop that reads and prefetches memory in the pattern of the
// products.
func readLoop() {
	const size = 512
	function("readLoop", "func(p *byte, rounds int)", "readLoop reads 512 bytes in each round.")
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

// fmaLoop writes a loop with 4*chains fused multiply-adds per round. Each multiply-add
// counts as two operations per element.
func fmaLoop(s set) {
	TEXT("fmaLoop"+s.name, NOSPLIT, "func(rounds int)")
	Doc(fmt.Sprintf("fmaLoop%s does %d float32 operations in each round.", s.name, 4*chains*2*s.lanes))
	n := param("rounds")
	sums := s.zeros(chains)
	half := s.register() // sum = sum/2 + 1/2 stays below 1 and so never overflows
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

// int8Loop writes a loop that adds the products of 32 pairs of int8 to int32 sums. A
// round has 4*chains such additions, each in the fewest AVX2 instructions. Each
// addition counts as 64 operations.
func int8Loop() {
	TEXT("int8Loop", NOSPLIT, "func(rounds int)")
	Doc("int8Loop does 3072 int8 operations in each round.")
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

// int8LoopWide writes a loop with 4*chains instructions per round. Each instruction
// adds 4 products of int8 to each of 16 sums, which counts as 128 operations.
func int8LoopWide() {
	TEXT("int8LoopWide", NOSPLIT, "func(rounds int)")
	Doc("int8LoopWide does 6144 int8 operations in each round.")
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
