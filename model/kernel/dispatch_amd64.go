//go:build amd64 && !purego

package kernel

// accelerated reports whether the assembly is used: it needs AVX2, FMA and
// F16C, and a system that saves the registers.
var accelerated = func() bool {
	const (
		fma, osxsave, avx, f16c = 1 << 12, 1 << 27, 1 << 28, 1 << 29 // leaf 1, ecx
		avx2                    = 1 << 5                             // leaf 7, ebx
		registers               = 1<<1 | 1<<2                        // XCR0: xmm and ymm
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

// vnni reports whether there is VPDPWSSD for 256 bits as well, in the encoding
// of AVX-512.
var vnni = accelerated && func() bool {
	const (
		avx512f, avx512vl = 1 << 16, 1 << 31 // leaf 7, ebx
		avx512vnni        = 1 << 11          // leaf 7, ecx
		registers         = 7 << 5           // XCR0: masks and zmm
	)
	saved, _ := xgetbv()
	_, b, c, _ := cpuid(7, 0)
	return saved&registers == registers && b&avx512f != 0 && b&avx512vl != 0 && c&avx512vnni != 0
}()

// multiplySingle adds the products of rows of x with panels of w, wStride
// apart, to rows of y.
func multiplySingle(y []float32, yStride int, x []float32, xStride int, w []float32, wStride, rows, panels, inputs int, fused bool) {
	if !accelerated {
		portableSingle(y, yStride, x, xStride, w, wStride, rows, panels, inputs)
		return
	}
	if rows == 0 || panels == 0 || inputs == 0 {
		return
	}
	_, _, _ = y[(rows-1)*yStride+panels*Width-1], x[(rows-1)*xStride+inputs-1], w[(panels-1)*wStride+inputs*Width-1]
	for p := 0; p < panels; {
		n := 1
		if rows == 1 && panels-p >= 4 {
			n = 4
		}
		w := &w[p*wStride]
		for done := 0; done < rows; {
			r := tile(rows - done)
			y, x := &y[done*yStride+p*Width], &x[done*xStride]
			switch {
			case n == 4 && fused:
				multiplySingleFused1x4(y, yStride, x, xStride, w, wStride, inputs)
			case n == 4:
				multiplySingle1x4(y, yStride, x, xStride, w, wStride, inputs)
			case fused:
				singleFused(y, yStride, x, xStride, w, inputs, r)
			default:
				single(y, yStride, x, xStride, w, inputs, r)
			}
			done += r
		}
		p += n
	}
}

// tile returns how many of some rows to do next: all tiles are about as large.
func tile(rows int) int {
	tiles := (rows + maxTile - 1) / maxTile
	return (rows + tiles - 1) / tiles
}

func singleFused(y *float32, yStride int, x *float32, xStride int, w *float32, inputs, rows int) {
	switch rows {
	case 1:
		multiplySingleFused1x1(y, yStride, x, xStride, w, 0, inputs)
	case 2:
		multiplySingleFused2x1(y, yStride, x, xStride, w, 0, inputs)
	case 3:
		multiplySingleFused3x1(y, yStride, x, xStride, w, 0, inputs)
	case 4:
		multiplySingleFused4x1(y, yStride, x, xStride, w, 0, inputs)
	case 5:
		multiplySingleFused5x1(y, yStride, x, xStride, w, 0, inputs)
	case 6:
		multiplySingleFused6x1(y, yStride, x, xStride, w, 0, inputs)
	}
}

func single(y *float32, yStride int, x *float32, xStride int, w *float32, inputs, rows int) {
	switch rows {
	case 1:
		multiplySingle1x1(y, yStride, x, xStride, w, 0, inputs)
	case 2:
		multiplySingle2x1(y, yStride, x, xStride, w, 0, inputs)
	case 3:
		multiplySingle3x1(y, yStride, x, xStride, w, 0, inputs)
	case 4:
		multiplySingle4x1(y, yStride, x, xStride, w, 0, inputs)
	case 5:
		multiplySingle5x1(y, yStride, x, xStride, w, 0, inputs)
	case 6:
		multiplySingle6x1(y, yStride, x, xStride, w, 0, inputs)
	}
}

// multiplyHalf is multiplySingle for panels of halves.
func multiplyHalf(y []float32, yStride int, x []float32, xStride int, w []uint16, wStride, rows, panels, inputs int, fused bool) {
	if !accelerated {
		portableHalf(y, yStride, x, xStride, w, wStride, rows, panels, inputs)
		return
	}
	if rows == 0 || panels == 0 || inputs == 0 {
		return
	}
	_, _, _ = y[(rows-1)*yStride+panels*Width-1], x[(rows-1)*xStride+inputs-1], w[(panels-1)*wStride+inputs*Width-1]
	for p := 0; p < panels; {
		n := 1
		if rows == 1 && panels-p >= 4 {
			n = 4
		}
		w := &w[p*wStride]
		for done := 0; done < rows; {
			r := tile(rows - done)
			y, x := &y[done*yStride+p*Width], &x[done*xStride]
			switch {
			case n == 4 && fused:
				multiplyHalfFused1x4(y, yStride, x, xStride, w, wStride, inputs)
			case n == 4:
				multiplyHalf1x4(y, yStride, x, xStride, w, wStride, inputs)
			case fused:
				halfFused(y, yStride, x, xStride, w, inputs, r)
			default:
				half(y, yStride, x, xStride, w, inputs, r)
			}
			done += r
		}
		p += n
	}
}

func halfFused(y *float32, yStride int, x *float32, xStride int, w *uint16, inputs, rows int) {
	switch rows {
	case 1:
		multiplyHalfFused1x1(y, yStride, x, xStride, w, 0, inputs)
	case 2:
		multiplyHalfFused2x1(y, yStride, x, xStride, w, 0, inputs)
	case 3:
		multiplyHalfFused3x1(y, yStride, x, xStride, w, 0, inputs)
	case 4:
		multiplyHalfFused4x1(y, yStride, x, xStride, w, 0, inputs)
	case 5:
		multiplyHalfFused5x1(y, yStride, x, xStride, w, 0, inputs)
	case 6:
		multiplyHalfFused6x1(y, yStride, x, xStride, w, 0, inputs)
	}
}

func half(y *float32, yStride int, x *float32, xStride int, w *uint16, inputs, rows int) {
	switch rows {
	case 1:
		multiplyHalf1x1(y, yStride, x, xStride, w, 0, inputs)
	case 2:
		multiplyHalf2x1(y, yStride, x, xStride, w, 0, inputs)
	case 3:
		multiplyHalf3x1(y, yStride, x, xStride, w, 0, inputs)
	case 4:
		multiplyHalf4x1(y, yStride, x, xStride, w, 0, inputs)
	case 5:
		multiplyHalf5x1(y, yStride, x, xStride, w, 0, inputs)
	case 6:
		multiplyHalf6x1(y, yStride, x, xStride, w, 0, inputs)
	}
}

// multiplyBytes adds the products of quantised rows with a panel to rows of y.
func multiplyBytes(y []float32, yStride int, x []int16, xStride int, scales []float32, scaleStride int, w []byte, rows, groups int) {
	if !accelerated {
		portableBytes(y, yStride, x, xStride, scales, scaleStride, w, rows, groups)
		return
	}
	if rows == 0 || groups == 0 {
		return
	}
	_, _ = y[(rows-1)*yStride+Width-1], x[(rows-1)*xStride+groups*Group-1]
	_, _ = scales[(rows-1)*scaleStride+groups-1], w[groups*groupBytes-1]
	for done := 0; done < rows; {
		r := tile(rows - done)
		y, x, scales := &y[done*yStride], &x[done*xStride], &scales[done*scaleStride]
		if vnni {
			bytesVNNI(y, yStride, x, xStride, scales, scaleStride, &w[0], r, groups)
		} else {
			bytes(y, yStride, x, xStride, scales, scaleStride, &w[0], r, groups)
		}
		done += r
	}
}

func bytes(y *float32, yStride int, x *int16, xStride int, scales *float32, scaleStride int, w *byte, rows, groups int) {
	switch rows {
	case 1:
		multiplyBytes1(y, yStride, x, xStride, scales, scaleStride, w, groups)
	case 2:
		multiplyBytes2(y, yStride, x, xStride, scales, scaleStride, w, groups)
	case 3:
		multiplyBytes3(y, yStride, x, xStride, scales, scaleStride, w, groups)
	case 4:
		multiplyBytes4(y, yStride, x, xStride, scales, scaleStride, w, groups)
	case 5:
		multiplyBytes5(y, yStride, x, xStride, scales, scaleStride, w, groups)
	case 6:
		multiplyBytes6(y, yStride, x, xStride, scales, scaleStride, w, groups)
	}
}

func bytesVNNI(y *float32, yStride int, x *int16, xStride int, scales *float32, scaleStride int, w *byte, rows, groups int) {
	switch rows {
	case 1:
		multiplyBytesVNNI1(y, yStride, x, xStride, scales, scaleStride, w, groups)
	case 2:
		multiplyBytesVNNI2(y, yStride, x, xStride, scales, scaleStride, w, groups)
	case 3:
		multiplyBytesVNNI3(y, yStride, x, xStride, scales, scaleStride, w, groups)
	case 4:
		multiplyBytesVNNI4(y, yStride, x, xStride, scales, scaleStride, w, groups)
	case 5:
		multiplyBytesVNNI5(y, yStride, x, xStride, scales, scaleStride, w, groups)
	case 6:
		multiplyBytesVNNI6(y, yStride, x, xStride, scales, scaleStride, w, groups)
	}
}

// blockErrors does what portableBlockErrors does.
func blockErrors(errors *[Width]float32, b *block, factors *[Width]float32) {
	if !accelerated {
		portableBlockErrors(errors, b, factors)
		return
	}
	blockErrorsVector(errors, (*[Group][Width]float32)(b), factors)
}

// Each of these does as many elements of its vectors as it likes, from the
// first on, and returns how many.

func addSome(y, x []float32) int {
	n := eights(len(y))
	if n > 0 {
		addVector(&y[0], &x[:len(y)][0], n)
	}
	return 8 * n
}

func sumSome(sums *[8]float64, x []float32, from float64) int {
	n := eights(len(x))
	if n > 0 {
		sumVector(sums, &x[0], n, from)
	}
	return 8 * n
}

func sumSquaresSome(sums *[8]float64, x []float32, from float64) int {
	n := eights(len(x))
	if n > 0 {
		sumSquaresVector(sums, &x[0], n, from)
	}
	return 8 * n
}

func normalizeSome(y, x, gain, bias []float32, mean, scale float32) int {
	n := eights(len(x))
	if n > 0 {
		normalizeVector(&y[:len(x)][0], &x[0], &gain[:len(x)][0], &bias[:len(x)][0], n, mean, scale)
	}
	return 8 * n
}

func mostSome(most *float32, x []float32) int {
	n := eights(len(x))
	if n > 0 {
		*most = mostVector(&x[0], n)
	}
	return 8 * n
}

func expSome(sums *[8]float64, x []float32, most float32) int {
	n := eights(len(x))
	if n > 0 {
		expVector(sums, &x[0], n, most)
	}
	return 8 * n
}

func scaleSome(x []float32, scale float32) int {
	n := eights(len(x))
	if n > 0 {
		scaleVector(&x[0], n, scale)
	}
	return 8 * n
}

func geluSome(x []float32) int {
	n := eights(len(x))
	if n > 0 {
		geluVector(&x[0], n)
	}
	return 8 * n
}

func narrowSome(half []uint16, x []float32) int {
	n := eights(len(x))
	if n > 0 {
		narrowVector(&half[:len(x)][0], &x[0], n)
	}
	return 8 * n
}

func quantizeSome(q []int16, scales, x []float32) int {
	n := len(x) / Group
	if !accelerated || n == 0 {
		return 0
	}
	quantizeVector(&q[:n*Group][0], &scales[:n][0], &x[0], n)
	return n * Group
}

// eights returns how many times 8 of n elements the assembly does.
func eights(n int) int {
	if !accelerated {
		return 0
	}
	return n / 8
}
