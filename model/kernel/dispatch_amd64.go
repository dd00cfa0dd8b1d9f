//go:build amd64 && !purego

package kernel

// useAVX2 reports whether the package uses its assembly. The assembly needs AVX2, FMA
// and F16C, and an operating system that saves the registers. Tests switch it off.
var useAVX2 = func() bool {
	const (
		fma, osxsave, avx, f16c = 1 << 12, 1 << 27, 1 << 28, 1 << 29 // bits of leaf 1, ecx
		avx2                    = 1 << 5                             // bit of leaf 7, ebx
		registers               = 1<<1 | 1<<2                        // bits of XCR0 for the xmm and ymm registers
	)
	if leaves, _, _, _ := cpuid(0, 0); leaves < 7 {
		return false
	}
	const first = fma | osxsave | avx | f16c
	if _, _, c, _ := cpuid(1, 0); c&first != first {
		return false
	}
	if saved, _ := xgetbv(); saved&registers != registers {
		return false
	}
	_, b, _, _ := cpuid(7, 0)
	return b&avx2 != 0
}()

// useAVX512 reports whether the package uses its AVX-512 assembly too. The functions of
// this assembly have Wide in their names and give the same bits as the others. They
// need AVX-512 F, BW, VL and VNNI, and an operating system that saves the registers.
// Tests switch them off.
var useAVX512 = useAVX2 && func() bool {
	const (
		avx512 = 1<<16 | 1<<30 | 1<<31 // bits of leaf 7, ebx, for F, BW and VL
		vnni   = 1 << 11               // bit of leaf 7, ecx

		registers = 7 << 5 // bits of XCR0 for the mask and zmm registers
	)
	saved, _ := xgetbv()
	_, b, c, _ := cpuid(7, 0)
	return saved&registers == registers && b&avx512 == avx512 && c&vnni != 0
}()

// maxTile returns the largest number of rows in a tile.
func maxTile() int {
	if useAVX512 {
		return 12
	}
	return 6
}

// tile returns the number of rows of the next tile, at most limit. It makes all
// tiles about equally large.
func tile(rows, limit int) int {
	tiles := (rows + limit - 1) / limit
	return (rows + tiles - 1) / tiles
}

// A floatTile adds the products of some rows with some panels of float32 or binary16
// weights. The names of the assembly functions end in <rows>x<panels>.
type floatTile[W float32 | uint16] func(y *float32, yStride int, x *float32, xStride int, w *W, wStride int, inputs int)

// floatTiles are the tiles for one type of weights.
type floatTiles[W float32 | uint16] struct {
	one  [6]floatTile[W]  // tiles of 1 panel; index i has the tile of i+1 rows
	four floatTile[W]     // tile of 4 panels and 1 row
	wide [12]floatTile[W] // AVX-512 tiles of widePanels(rows) panels; index i has the tile of i+1 rows
}

// widePanels returns the number of panels of the AVX-512 tile with the given number of
// rows.
func widePanels(rows int) int {
	if rows <= 4 {
		return 4
	}
	return 2
}

// These are the tiles by type of weights. The tiles with Fused in their names use fused
// multiply-adds.
var (
	singleFusedTiles = floatTiles[float32]{
		one: [...]floatTile[float32]{multiplySingleFused1x1, multiplySingleFused2x1, multiplySingleFused3x1,
			multiplySingleFused4x1, multiplySingleFused5x1, multiplySingleFused6x1},
		four: multiplySingleFused1x4,
		wide: [...]floatTile[float32]{multiplySingleFusedWide1x4, multiplySingleFusedWide2x4, multiplySingleFusedWide3x4,
			multiplySingleFusedWide4x4, multiplySingleFusedWide5x2, multiplySingleFusedWide6x2,
			multiplySingleFusedWide7x2, multiplySingleFusedWide8x2, multiplySingleFusedWide9x2,
			multiplySingleFusedWide10x2, multiplySingleFusedWide11x2, multiplySingleFusedWide12x2},
	}
	singleTiles = floatTiles[float32]{
		one: [...]floatTile[float32]{multiplySingle1x1, multiplySingle2x1, multiplySingle3x1,
			multiplySingle4x1, multiplySingle5x1, multiplySingle6x1},
		four: multiplySingle1x4,
		wide: [...]floatTile[float32]{multiplySingleWide1x4, multiplySingleWide2x4, multiplySingleWide3x4,
			multiplySingleWide4x4, multiplySingleWide5x2, multiplySingleWide6x2,
			multiplySingleWide7x2, multiplySingleWide8x2, multiplySingleWide9x2,
			multiplySingleWide10x2, multiplySingleWide11x2, multiplySingleWide12x2},
	}
	halfFusedTiles = floatTiles[uint16]{
		one: [...]floatTile[uint16]{multiplyHalfFused1x1, multiplyHalfFused2x1, multiplyHalfFused3x1,
			multiplyHalfFused4x1, multiplyHalfFused5x1, multiplyHalfFused6x1},
		four: multiplyHalfFused1x4,
		wide: [...]floatTile[uint16]{multiplyHalfFusedWide1x4, multiplyHalfFusedWide2x4, multiplyHalfFusedWide3x4,
			multiplyHalfFusedWide4x4, multiplyHalfFusedWide5x2, multiplyHalfFusedWide6x2,
			multiplyHalfFusedWide7x2, multiplyHalfFusedWide8x2, multiplyHalfFusedWide9x2,
			multiplyHalfFusedWide10x2, multiplyHalfFusedWide11x2, multiplyHalfFusedWide12x2},
	}
	halfTiles = floatTiles[uint16]{
		one: [...]floatTile[uint16]{multiplyHalf1x1, multiplyHalf2x1, multiplyHalf3x1,
			multiplyHalf4x1, multiplyHalf5x1, multiplyHalf6x1},
		four: multiplyHalf1x4,
		wide: [...]floatTile[uint16]{multiplyHalfWide1x4, multiplyHalfWide2x4, multiplyHalfWide3x4,
			multiplyHalfWide4x4, multiplyHalfWide5x2, multiplyHalfWide6x2,
			multiplyHalfWide7x2, multiplyHalfWide8x2, multiplyHalfWide9x2,
			multiplyHalfWide10x2, multiplyHalfWide11x2, multiplyHalfWide12x2},
	}
)

// multiplySingle adds the products of rows of x [rows, inputs] with panels of w
// [panels, inputs, Width] to rows of y [rows, panels*Width]. A stride is the number of
// elements from one row, or panel, to the next.
func multiplySingle(y []float32, yStride int, x []float32, xStride int, w []float32, wStride, rows, panels, inputs int, fused bool) {
	if !useAVX2 {
		portableSingle(y, yStride, x, xStride, w, wStride, rows, panels, inputs)
		return
	}
	tiles := &singleTiles
	if fused {
		tiles = &singleFusedTiles
	}
	tiles.multiply(y, yStride, x, xStride, w, wStride, rows, panels, inputs)
}

// multiplyHalf is multiplySingle for binary16 weights.
func multiplyHalf(y []float32, yStride int, x []float32, xStride int, w []uint16, wStride, rows, panels, inputs int, fused bool) {
	if !useAVX2 {
		portableHalf(y, yStride, x, xStride, w, wStride, rows, panels, inputs)
		return
	}
	tiles := &halfTiles
	if fused {
		tiles = &halfFusedTiles
	}
	tiles.multiply(y, yStride, x, xStride, w, wStride, rows, panels, inputs)
}

// multiply splits the rows and panels into tiles and computes each tile in assembly.
func (t *floatTiles[W]) multiply(y []float32, yStride int, x []float32, xStride int, w []W, wStride, rows, panels, inputs int) {
	if rows == 0 || panels == 0 || inputs == 0 {
		return
	}
	_, _, _ = y[(rows-1)*yStride+panels*Width-1], x[(rows-1)*xStride+inputs-1], w[(panels-1)*wStride+inputs*Width-1]
	for p := 0; p < panels; {
		n, largest, tiles := 1, len(t.one), t.one[:]
		switch left := panels - p; {
		case useAVX512 && left >= widePanels(rows):
			n, largest, tiles = widePanels(rows), len(t.wide), t.wide[:]
		case rows == 1 && left >= 4:
			n, tiles = 4, []floatTile[W]{t.four}
		}
		for done := 0; done < rows; {
			r := tile(rows-done, largest)
			tiles[r-1](&y[done*yStride+p*Width], yStride, &x[done*xStride], xStride, &w[p*wStride], wStride, inputs)
			done += r
		}
		p += n
	}
}

// A byteTile adds the products of some quantised rows with an Int8 panel. A
// wideByteTile does the same with AVX-512 and reads the rows as packed groups.
type (
	byteTile     func(y *float32, yStride int, x *int16, xStride int, scales *float32, scaleStride int, w *byte, groups int)
	wideByteTile func(y *float32, yStride int, x *byte, xStride int, w *byte, groups int)
)

// These are the tiles for Int8 panels. Index i has the tile of i+1 rows.
var (
	byteTiles = [...]byteTile{multiplyBytes1, multiplyBytes2, multiplyBytes3, multiplyBytes4, multiplyBytes5, multiplyBytes6}

	wideByteTiles = [...]wideByteTile{multiplyBytesWide1, multiplyBytesWide2, multiplyBytesWide3, multiplyBytesWide4,
		multiplyBytesWide5, multiplyBytesWide6, multiplyBytesWide7, multiplyBytesWide8, multiplyBytesWide9,
		multiplyBytesWide10, multiplyBytesWide11, multiplyBytesWide12}
)

// multiplyBytes adds the products of the first rows of in with one Int8 panel
// to rows of y.
func multiplyBytes(y []float32, yStride int, in *Input, w []byte, rows int) {
	if !useAVX2 {
		portableBytes(y, yStride, in, w, rows)
		return
	}
	if rows == 0 || in.groups == 0 {
		return
	}
	_, _ = y[(rows-1)*yStride+Width-1], w[in.groups*groupBytes-1]
	for done := 0; done < rows; {
		at, y := done*in.groups, &y[done*yStride]
		if useAVX512 {
			r := tile(rows-done, len(wideByteTiles))
			wideByteTiles[r-1](y, yStride, &in.packed[at:][:r*in.groups][0].values[0], in.groups, &w[0], in.groups)
			done += r
			continue
		}
		r := tile(rows-done, len(byteTiles))
		byteTiles[r-1](y, yStride, &in.values[at*Group:][:r*in.groups*Group][0], in.groups*Group,
			&in.scales[at:][:r*in.groups][0], in.groups, &w[0], in.groups)
		done += r
	}
}

// blockErrors computes portableBlockErrors, in assembly if possible.
func blockErrors(errors *[Width]float32, b *block, factors *[Width]float32) {
	if !useAVX2 {
		portableBlockErrors(errors, b, factors)
		return
	}
	blockErrorsVector(errors, (*[Group][Width]float32)(b), factors)
}

// Each of the following functions processes a prefix of its vectors in assembly and
// returns the length of the prefix. Portable Go processes the rest.

func addPrefix(y, x []float32) int {
	n := eights(len(y))
	if n > 0 {
		addVector(&y[0], &x[:len(y)][0], n)
	}
	return 8 * n
}

func sumPrefix(sums *[8]float64, x []float32, from float64) int {
	n := eights(len(x))
	if n > 0 {
		sumVector(sums, &x[0], n, from)
	}
	return 8 * n
}

func sumSquaresPrefix(sums *[8]float64, x []float32, from float64) int {
	n := eights(len(x))
	if n > 0 {
		sumSquaresVector(sums, &x[0], n, from)
	}
	return 8 * n
}

func normalizePrefix(y, x, gain, bias []float32, mean, scale float32) int {
	n := eights(len(x))
	if n > 0 {
		normalizeVector(&y[:len(x)][0], &x[0], &gain[:len(x)][0], &bias[:len(x)][0], n, mean, scale)
	}
	return 8 * n
}

func maxPrefix(largest *float32, x []float32) int {
	n := eights(len(x))
	if n > 0 {
		*largest = maxVector(&x[0], n)
	}
	return 8 * n
}

func expPrefix(sums *[8]float64, x []float32, largest float32) int {
	n := eights(len(x))
	if n > 0 {
		expVector(sums, &x[0], n, largest)
	}
	return 8 * n
}

func scalePrefix(x []float32, scale float32) int {
	n := eights(len(x))
	if n > 0 {
		scaleVector(&x[0], n, scale)
	}
	return 8 * n
}

func geluPrefix(x []float32) int {
	n := eights(len(x))
	if n > 0 {
		geluVector(&x[0], n)
	}
	return 8 * n
}

func encodeFloat16Prefix(half []uint16, x []float32) int {
	n := eights(len(x))
	if n > 0 {
		narrowVector(&half[:len(x)][0], &x[0], n)
	}
	return 8 * n
}

func (in *Input) quantizePrefix(row int) int {
	x := in.Row(row)
	n := len(x) / Group
	if !useAVX2 || n == 0 {
		return 0
	}
	at := row * in.groups
	if useAVX512 {
		quantizeBytesVector(&in.packed[at:][:n][0].values[0], &x[0], n)
	} else {
		quantizeVector(&in.values[at*Group:][:n*Group][0], &in.scales[at:][:n][0], &x[0], n)
	}
	return n * Group
}

// eights returns the number of 8-element vectors, out of n elements, that the assembly
// processes.
func eights(n int) int {
	if !useAVX2 {
		return 0
	}
	return n / 8
}
