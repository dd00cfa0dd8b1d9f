//go:build !amd64 || purego

package kernel

// accelerated reports whether the assembly is used.
const accelerated = false

// maxTile returns the most rows that are computed in one go.
func maxTile() int { return 6 }

// pause lets some time pass in a loop that waits for another thread.
func pause() {
	for range 50 {
	}
}

func multiplySingle(y []float32, yStride int, x []float32, xStride int, w []float32, wStride, rows, panels, inputs int, fused bool) {
	portableSingle(y, yStride, x, xStride, w, wStride, rows, panels, inputs)
}

func multiplyHalf(y []float32, yStride int, x []float32, xStride int, w []uint16, wStride, rows, panels, inputs int, fused bool) {
	portableHalf(y, yStride, x, xStride, w, wStride, rows, panels, inputs)
}

func multiplyBytes(y []float32, yStride int, in *Input, w []byte, rows int) {
	portableBytes(y, yStride, in, w, rows)
}

func blockErrors(errors *[Width]float32, b *block, factors *[Width]float32) {
	portableBlockErrors(errors, b, factors)
}

// Each of these does as many elements of its vectors as it likes, from the
// first on, and returns how many.

func addSome(y, x []float32) int                                        { return 0 }
func sumSome(sums *[8]float64, x []float32, from float64) int           { return 0 }
func sumSquaresSome(sums *[8]float64, x []float32, from float64) int    { return 0 }
func normalizeSome(y, x, gain, bias []float32, mean, scale float32) int { return 0 }
func mostSome(most *float32, x []float32) int                           { return 0 }
func expSome(sums *[8]float64, x []float32, most float32) int           { return 0 }
func scaleSome(x []float32, scale float32) int                          { return 0 }
func geluSome(x []float32) int                                          { return 0 }
func encodeFloat16Some(half []uint16, x []float32) int                  { return 0 }
func (in *Input) quantizeSome(row int) int                              { return 0 }
