package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The widths of a panel, in outputs and in vectors of 8.
const (
	width   = 16
	vectors = width / 8
)

// multiply writes the products of rows and panels.
//
// Each keeps the sums of a tile, some rows by some panels, in registers, and
// adds to every one of them its products in the order of the inputs.
func multiply() {
	for _, t := range []struct{ rows, panels int }{{1, 4}, {1, 1}, {2, 1}, {3, 1}, {4, 1}, {5, 1}, {6, 1}} {
		for _, half := range []bool{false, true} {
			floats(t.rows, t.panels, half, true)
			floats(t.rows, t.panels, half, false)
		}
	}
	for rows := 1; rows <= 6; rows++ {
		bytes(rows, false)
		bytes(rows, true)
	}
}

// A walk goes through rows that are stride bytes apart. At most 6.
type walk struct {
	first, fourth Register
	stride        Register
}

func newWalk(first, stride GPVirtual, rows int) walk {
	w := walk{first: first, stride: stride}
	if rows > 3 {
		fourth := GP64()
		LEAQ(Mem{Base: first, Index: stride, Scale: 2}, fourth)
		ADDQ(stride, fourth)
		w.fourth = fourth
	}
	return w
}

// at returns the place offset bytes into a row.
func (w walk) at(row, offset int) Mem {
	m := Mem{Base: w.first, Disp: offset}
	if row >= 3 {
		m.Base, row = w.fourth, row-3
	}
	if row > 0 {
		m.Index, m.Scale = w.stride, uint8(row)
	}
	return m
}

func (w walk) advance(bytes int) {
	ADDQ(U32(uint64(bytes)), w.first)
	if w.fourth != nil {
		ADDQ(U32(uint64(bytes)), w.fourth)
	}
}

func param(name string) GPVirtual { return Load(Param(name), GP64()).(GPVirtual) }

// copy returns another walk from where this one is.
func (w walk) copy() walk {
	c := walk{first: GP64(), stride: w.stride}
	MOVQ(w.first, c.first)
	if w.fourth != nil {
		c.fourth = GP64()
		MOVQ(w.fourth, c.fourth)
	}
	return c
}

// skip goes some rows further.
func (w walk) skip(rows int) {
	for range rows {
		ADDQ(w.stride, w.first)
		if w.fourth != nil {
			ADDQ(w.stride, w.fourth)
		}
	}
}

// elements turns a number of elements of 1<<shift bytes into bytes.
func elements(r GPVirtual, shift int) GPVirtual {
	SHLQ(U8(uint64(shift)), r)
	return r
}

// floats writes the product of float32 rows and float32 or half panels.
func floats(rows, panels int, half, fused bool) {
	name, typ, size := "multiplySingle", "float32", 4
	if half {
		name, typ, size = "multiplyHalf", "uint16", 2
	}
	if fused {
		name += "Fused"
	}
	TEXT(fmt.Sprintf("%s%dx%d", name, rows, panels), NOSPLIT,
		fmt.Sprintf("func(y *float32, yStride int, x *float32, xStride int, w *%s, wStride int, inputs int)", typ))
	Pragma("noescape")
	y := newWalk(param("y"), elements(param("yStride"), 2), rows)
	x := newWalk(param("x"), elements(param("xStride"), 2), rows)
	shift := 2
	if half {
		shift = 1
	}
	w := newWalk(param("w"), elements(param("wStride"), shift), panels)
	inputs := param("inputs")

	sums := make([][]VecVirtual, panels*vectors) // by vector of a panel, by row
	for v := range sums {
		sums[v] = make([]VecVirtual, rows)
		for r := range sums[v] {
			sums[v][r] = YMM()
			VMOVUPS(y.at(r, v*32), sums[v][r])
		}
	}
	one := func(k int) { // adds the products of input k from here
		load := func(v int) VecVirtual {
			weights := YMM()
			at := w.at(v/vectors, (k*width+v%vectors*8)*size)
			if half {
				VCVTPH2PS(at, weights)
			} else {
				VMOVUPS(at, weights)
			}
			return weights
		}
		add := func(weights, input, sum VecVirtual) {
			if fused {
				VFMADD231PS(weights, input, sum)
				return
			}
			product := YMM()
			VMULPS(weights, input, product)
			VADDPS(product, sum, sum)
		}
		broadcast := func(r int) VecVirtual {
			input := YMM()
			VBROADCASTSS(x.at(r, k*4), input)
			return input
		}
		if rows == 1 {
			input := broadcast(0)
			for v := range sums {
				add(load(v), input, sums[v][0])
			}
			return
		}
		var weights [vectors]VecVirtual
		for v := range weights {
			weights[v] = load(v)
		}
		for r := range rows {
			input := broadcast(r)
			for v := range weights {
				add(weights[v], input, sums[v][r])
			}
		}
	}
	const unroll = 4
	fetch, ahead := w, ahead
	var final GPVirtual
	if panels > 1 {
		// What follows the end of a panel is fetched already, as the start of
		// the next one. For the final inputs, fetch the panels after these.
		ahead /= 4
		few := ahead / (width * size)
		fetch, final = w.copy(), GP64()
		MOVQ(inputs, final)
		SUBQ(U32(uint64(few)), inputs)
		zero := GP64()
		XORQ(zero, zero)
		TESTQ(inputs, inputs)
		CMOVQLT(zero, inputs)
		ANDQ(I32(-unroll), inputs)
		SUBQ(inputs, final)
	}
	Label("again")
	SUBQ(U32(unroll), inputs)
	JLT(LabelRef("rest"))
	Label("loop")
	for p := range panels {
		for at := 0; at < unroll*width*size; at += 64 {
			PREFETCHT0(fetch.at(p, ahead+at))
		}
	}
	for k := range unroll {
		one(k)
	}
	x.advance(unroll * 4)
	w.advance(unroll * width * size)
	if panels > 1 {
		fetch.advance(unroll * width * size)
	}
	SUBQ(U32(unroll), inputs)
	JGE(LabelRef("loop"))
	Label("rest")
	if panels > 1 {
		TESTQ(final, final)
		JZ(LabelRef("end"))
		MOVQ(final, inputs)
		XORQ(final, final)
		fetch.skip(panels - 1)
		JMP(LabelRef("again"))
		Label("end")
	}
	ADDQ(U32(unroll), inputs)
	JZ(LabelRef("done"))
	Label("last")
	one(0)
	x.advance(4)
	w.advance(width * size)
	DECQ(inputs)
	JNZ(LabelRef("last"))
	Label("done")
	for v := range sums {
		for r := range rows {
			VMOVUPS(sums[v][r], y.at(r, v*32))
		}
	}
	VZEROUPPER()
	RET()
}

// ahead is how many bytes before they are needed weights are fetched. In the
// time that the largest tiles take for less, memory does not answer.
const ahead = 8192

// The layout of a group of inputs in a panel of bytes: pairs of inputs by
// outputs, and then the scales of the outputs, the upper halves of float32.
const (
	group      = 32
	groupBytes = group*width + 2*width
)

// bytes writes the product of quantised rows and panels. A product of two
// numbers of up to 127, widened to 16 bits, is added to its neighbour by
// VPMADDWD; all that is exact. So is VPDPWSSD, which processors with VNNI have
// and which adds to a sum as well. The sum of a group is then scaled and added
// in float32, each step rounded by itself.
func bytes(rows int, vnni bool) {
	name := "multiplyBytes"
	if vnni {
		name += "VNNI"
	}
	TEXT(fmt.Sprintf("%s%d", name, rows), NOSPLIT,
		"func(y *float32, yStride int, x *int16, xStride int, scales *float32, scaleStride int, w *byte, groups int)")
	Pragma("noescape")
	y := newWalk(param("y"), elements(param("yStride"), 2), rows)
	x := newWalk(param("x"), elements(param("xStride"), 1), rows)
	scales := newWalk(param("scales"), elements(param("scaleStride"), 2), rows)
	w := param("w")
	groups := param("groups")

	inRegisters := rows <= 3
	var sums [vectors][]VecVirtual
	if inRegisters {
		for v := range sums {
			sums[v] = make([]VecVirtual, rows)
			for r := range rows {
				sums[v][r] = YMM()
				VMOVUPS(y.at(r, v*32), sums[v][r])
			}
		}
	}
	Label("loop")
	for at := 0; at < groupBytes; at += 64 {
		PREFETCHT0(Mem{Base: w, Disp: ahead + at})
	}
	var exact [vectors][]VecVirtual
	for v := range exact {
		exact[v] = make([]VecVirtual, rows)
	}
	for pair := range group / 2 {
		var weights [vectors]VecVirtual
		for v := range weights {
			weights[v] = YMM()
			VPMOVSXBW(Mem{Base: w, Disp: pair*2*width + v*16}, weights[v])
		}
		for r := range rows {
			input := YMM()
			VPBROADCASTD(x.at(r, pair*4), input)
			for v := range weights {
				if pair == 0 {
					exact[v][r] = YMM()
					VPMADDWD(weights[v], input, exact[v][r])
					continue
				}
				if vnni {
					VPDPWSSD(weights[v], input, exact[v][r])
					continue
				}
				product := YMM()
				VPMADDWD(weights[v], input, product)
				VPADDD(product, exact[v][r], exact[v][r])
			}
		}
	}
	for v := range vectors {
		scale := YMM()
		VPMOVZXWD(Mem{Base: w, Disp: group*width + v*16}, scale)
		VPSLLD(U8(16), scale, scale)
		for r := range rows {
			both := YMM()
			VBROADCASTSS(scales.at(r, 0), both)
			VMULPS(scale, both, both)
			sum := exact[v][r]
			VCVTDQ2PS(sum, sum)
			VMULPS(both, sum, sum)
			if inRegisters {
				VADDPS(sum, sums[v][r], sums[v][r])
			} else {
				VADDPS(y.at(r, v*32), sum, sum)
				VMOVUPS(sum, y.at(r, v*32))
			}
		}
	}
	x.advance(group * 2)
	scales.advance(4)
	ADDQ(U32(groupBytes), w)
	DECQ(groups)
	JNZ(LabelRef("loop"))
	if inRegisters {
		for v := range sums {
			for r := range rows {
				VMOVUPS(sums[v][r], y.at(r, v*32))
			}
		}
	}
	VZEROUPPER()
	RET()
}
