//go:build !amd64 || purego

package kernel

// useAVX2 reports whether the package uses its assembly. This build has none.
const useAVX2 = false

// maxTile returns the largest number of rows in a tile.
func maxTile() int { return 6 }

// pause spends a short time. On amd64, it is a hint to the processor that a loop spins.
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

// Without assembly, the following functions process no elements and return 0.

func addPrefix(y, x []float32) int                                        { return 0 }
func sumPrefix(sums *[8]float64, x []float32, from float64) int           { return 0 }
func sumSquaresPrefix(sums *[8]float64, x []float32, from float64) int    { return 0 }
func normalizePrefix(y, x, gain, bias []float32, mean, scale float32) int { return 0 }
func maxPrefix(largest *float32, x []float32) int                         { return 0 }
func expPrefix(sums *[8]float64, x []float32, largest float32) int        { return 0 }
func scalePrefix(x []float32, scale float32) int                          { return 0 }
func geluPrefix(x []float32) int                                          { return 0 }
func encodeFloat16Prefix(half []uint16, x []float32) int                  { return 0 }
func (in *Input) quantizePrefix(row int) int                              { return 0 }
