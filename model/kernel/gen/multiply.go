package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// width is the number of outputs in a panel. It must equal kernel.Width.
const width = 16

// A set is an instruction set.
type set struct {
	name     string // part of the function names
	lanes    int    // number of float32 elements in a vector
	register func() VecVirtual
}

var (
	avx2   = set{"", 8, YMM}
	avx512 = set{"Wide", 16, ZMM}
)

// vectors returns the number of vectors across a panel.
func (s set) vectors() int { return width / s.lanes }

// multiply writes the functions that multiply rows with panels. Each function computes
// one tile: some rows by some panels. It keeps the sums of the tile in registers. To
// each sum, it adds the products in the order of the inputs.
func multiply() {
	for _, half := range []bool{false, true} {
		for _, fused := range []bool{true, false} {
			floats(avx2, 1, 4, half, fused)
			for rows := 1; rows <= 6; rows++ {
				floats(avx2, rows, 1, half, fused)
			}
			// These tiles have as many sums as possible, and leave enough registers for
			// weights and inputs.
			for rows := 1; rows <= 12; rows++ {
				panels := 2
				if rows <= 4 {
					panels = 4
				}
				floats(avx512, rows, panels, half, fused)
			}
		}
	}
	for rows := 1; rows <= 6; rows++ {
		bytes(rows)
	}
	for rows := 1; rows <= 12; rows++ {
		bytesWide(rows)
	}
}

// A walk has the addresses of rows that are stride bytes apart. An address operand can
// be up to two rows beyond a register, so one register serves three rows.
type walk struct {
	third  []Register // addresses of rows 0, 3, 6 and so on
	stride Register
}

// newWalk returns a walk over rows. The first row begins at the address first.
func newWalk(first, stride GPVirtual, rows int) walk {
	w := walk{third: []Register{first}, stride: stride}
	for row := 3; row < rows; row += 3 {
		next := GP64()
		LEAQ(Mem{Base: w.third[len(w.third)-1], Index: stride, Scale: 2}, next)
		ADDQ(stride, next)
		w.third = append(w.third, next)
	}
	return w
}

// at returns the operand that is offset bytes from the start of a row.
func (w walk) at(row, offset int) Mem {
	m := Mem{Base: w.third[row/3], Disp: offset}
	if row %= 3; row > 0 {
		m.Index, m.Scale = w.stride, uint8(row)
	}
	return m
}

// advance moves the walk forward in its rows by a number of bytes.
func (w walk) advance(bytes int) {
	for _, r := range w.third {
		ADDQ(U32(uint64(bytes)), r)
	}
}

// param loads a 64-bit parameter into a register.
func param(name string) GPVirtual { return Load(Param(name), GP64()).(GPVirtual) }

// copy returns an independent walk at the same addresses.
func (w walk) copy() walk {
	c := walk{stride: w.stride}
	for _, r := range w.third {
		same := GP64()
		MOVQ(r, same)
		c.third = append(c.third, same)
	}
	return c
}

// skip moves the walk down by a number of rows.
func (w walk) skip(rows int) {
	for range rows {
		for _, r := range w.third {
			ADDQ(w.stride, r)
		}
	}
}

// elements converts r from a number of elements to a number of bytes. An element has
// 1<<shift bytes.
func elements(r GPVirtual, shift int) GPVirtual {
	SHLQ(U8(uint64(shift)), r)
	return r
}

// A tile holds the registers of the sums. Each row has a list of vectors.
type tile [][]VecVirtual

// tile allocates the registers of a tile.
func (s set) tile(rows, vectors int) tile {
	t := make(tile, rows)
	for r := range t {
		for range vectors {
			t[r] = append(t[r], s.register())
		}
	}
	return t
}

// each calls f for every vector of sums with the operand in y where the vector is
// stored. It loads the parameters on every call, so that they occupy no registers
// between calls.
func (s set) each(t tile, f func(at Mem, sum VecVirtual)) {
	y, stride := param("y"), elements(param("yStride"), 2)
	for r, row := range t {
		if r > 0 {
			ADDQ(stride, y)
		}
		for v, sum := range row {
			f(Mem{Base: y, Disp: 4 * s.lanes * v}, sum)
		}
	}
}

func (s set) load(t tile) {
	s.each(t, func(at Mem, sum VecVirtual) { VMOVUPS(at, sum) })
}

func (s set) store(t tile) {
	s.each(t, func(at Mem, sum VecVirtual) { VMOVUPS(sum, at) })
}

// floats writes a function that multiplies float32 rows with float32 or binary16
// panels.
func floats(s set, rows, panels int, half, fused bool) {
	name, typ, size := "multiplySingle", "float32", 4
	if half {
		name, typ, size = "multiplyHalf", "uint16", 2
	}
	if fused {
		name += "Fused"
	}
	TEXT(fmt.Sprintf("%s%s%dx%d", name, s.name, rows, panels), NOSPLIT,
		fmt.Sprintf("func(y *float32, yStride int, x *float32, xStride int, w *%s, wStride int, inputs int)", typ))
	Pragma("noescape")
	sums := s.tile(rows, panels*s.vectors())
	s.load(sums)
	x := newWalk(param("x"), elements(param("xStride"), 2), rows)
	shift := 2
	if half {
		shift = 1
	}
	w := newWalk(param("w"), elements(param("wStride"), shift), panels)
	inputs := param("inputs")

	one := func(k int) { // adds the products of one input, the input k after the current one
		load := func(v int) VecVirtual {
			weights := s.register()
			at := w.at(v/s.vectors(), (k*width+v%s.vectors()*s.lanes)*size)
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
			product := s.register()
			VMULPS(weights, input, product)
			VADDPS(product, sum, sum)
		}
		broadcast := func(r int) VecVirtual {
			input := s.register()
			VBROADCASTSS(x.at(r, k*4), input)
			return input
		}
		if rows == 1 { // weights stay in memory and not in registers, because each is used only once
			input := broadcast(0)
			for v, sum := range sums[0] {
				add(load(v), input, sum)
			}
			return
		}
		weights := make([]VecVirtual, len(sums[0]))
		for v := range weights {
			weights[v] = load(v)
		}
		for r, row := range sums {
			input := broadcast(r)
			for v, sum := range row {
				add(weights[v], input, sum)
			}
		}
	}
	const unroll = 4
	fetch, ahead := w, ahead
	var final GPVirtual
	if panels > 1 {
		// A prefetch beyond the end of a panel would fetch the start of the next
		// panel of this tile, which has been read already. So for the final inputs,
		// prefetch the panels after this tile.
		ahead /= panels
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
	s.store(sums)
	VZEROUPPER()
	RET()
}

// ahead is the distance in bytes from the weights in use to the weights that are
// prefetched. Even the largest tiles process fewer bytes during the latency of memory.
const ahead = 8192

// A group of an Int8 panel has the layout [group/4][width][4]int8, and then a bfloat16
// scale for each output. See kernel.Matrix.
const (
	group      = 32
	groupBytes = group*width + 2*width
)

// inputGroup is the size in bytes of a packed group of inputs. The group has the int8
// inputs, their float32 scale, and an int32 that is -128 times the sum of the inputs.
// See kernel.packedGroup.
const inputGroup = group + 4 + 4

// bytes writes a function that multiplies quantised rows with an Int8 panel, for AVX2.
// The function widens int8 to 16 bits and adds pairs of products with VPMADDWD, which
// is exact. Then it scales the sum of a group and adds it in float32, with a rounding
// after each step.
func bytes(rows int) {
	s, vectors := avx2, avx2.vectors()
	TEXT(fmt.Sprint("multiplyBytes", rows), NOSPLIT,
		"func(y *float32, yStride int, x *int16, xStride int, scales *float32, scaleStride int, w *byte, groups int)")
	Pragma("noescape")
	x := newWalk(param("x"), elements(param("xStride"), 1), rows)
	scales := newWalk(param("scales"), elements(param("scaleStride"), 2), rows)
	w, groups := param("w"), param("groups")
	inRegisters := rows <= 3
	sums := s.tile(rows, vectors)
	if inRegisters {
		s.load(sums)
	}
	var y walk
	if !inRegisters {
		y = newWalk(param("y"), elements(param("yStride"), 2), rows)
	}
	Label("loop")
	fetchGroup(w)
	for v := range vectors {
		// Each vector holds two adjacent sums of each of four outputs.
		exact := s.tile(rows, 2)
		for four := range group / 4 {
			var weights [2]VecVirtual
			for half := range weights {
				weights[half] = s.register()
				VPMOVSXBW(Mem{Base: w, Disp: four*4*width + v*32 + half*16}, weights[half])
			}
			for r, row := range exact {
				input := s.register()
				VPBROADCASTQ(x.at(r, four*8), input)
				for half, sum := range row {
					if four == 0 {
						VPMADDWD(weights[half], input, sum)
						continue
					}
					product := s.register()
					VPMADDWD(weights[half], input, product)
					VPADDD(product, sum, sum)
				}
			}
		}
		scale := s.register()
		VPMOVZXWD(Mem{Base: w, Disp: group*width + v*16}, scale)
		VPSLLD(U8(16), scale, scale)
		for r := range rows {
			sum := exact[r][0]
			VPHADDD(exact[r][1], sum, sum)
			VPERMQ(U8(0b11011000), sum, sum)
			both := s.register()
			VBROADCASTSS(scales.at(r, 0), both)
			VMULPS(scale, both, both)
			VCVTDQ2PS(sum, sum)
			VMULPS(both, sum, sum)
			if inRegisters {
				VADDPS(sum, sums[r][v], sums[r][v])
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
		s.store(sums)
	}
	VZEROUPPER()
	RET()
}

// bytesWide writes the AVX-512 version of the function that bytes writes. It uses
// VPDPBUSD, which multiplies unsigned bytes with signed bytes. So the function adds 128
// to the weights, and starts the sums at -128 times the sum of the inputs.
func bytesWide(rows int) {
	s := avx512
	TEXT(fmt.Sprint("multiplyBytesWide", rows), NOSPLIT,
		"func(y *float32, yStride int, x *byte, xStride int, w *byte, groups int)")
	Pragma("noescape")
	stride := param("xStride")
	IMUL3Q(U32(inputGroup), stride, stride)
	x := newWalk(param("x"), stride, rows)
	w, groups := param("w"), param("groups")
	signs, bits := s.register(), GP32()
	MOVL(U32(0x80808080), bits)
	VPBROADCASTD(bits, signs)
	sums := s.tile(rows, 1)
	s.load(sums)
	Label("loop")
	fetchGroup(w)
	exact := s.tile(rows, 1)
	for r, row := range exact {
		VPBROADCASTD(x.at(r, group+4), row[0])
	}
	for four := range group / 4 {
		weights := s.register()
		VPXORD(Mem{Base: w, Disp: four * 4 * width}, signs, weights)
		for r, row := range exact {
			VPDPBUSD_BCST(x.at(r, four*4), weights, row[0])
		}
	}
	scale := s.register()
	VPMOVZXWD(Mem{Base: w, Disp: group * width}, scale)
	VPSLLD(U8(16), scale, scale)
	for r, row := range exact {
		both := s.register()
		VMULPS_BCST(x.at(r, group), scale, both)
		VCVTDQ2PS(row[0], row[0])
		VMULPS(both, row[0], row[0])
		VADDPS(row[0], sums[r][0], sums[r][0])
	}
	x.advance(inputGroup)
	ADDQ(U32(groupBytes), w)
	DECQ(groups)
	JNZ(LabelRef("loop"))
	s.store(sums)
	VZEROUPPER()
	RET()
}

// fetchGroup prefetches a group of weights.
func fetchGroup(w GPVirtual) {
	for at := 0; at < groupBytes; at += 64 {
		PREFETCHT0(Mem{Base: w, Disp: ahead + at})
	}
}
