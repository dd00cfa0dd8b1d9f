package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"unsafe"
)

const (
	// Width is the number of outputs in a panel.
	Width = 16

	// Group is the number of inputs that share a scale in format Int8.
	Group = 32
)

// A Matrix maps vectors of inputs to vectors of outputs: out = in·W + bias. Methods
// that only read the matrix are safe for concurrent use.
//
// The weights are packed into panels of [Width] outputs. Panel p has the weights to the
// outputs from p*Width to (p+1)*Width-1. A panel has Width weights for each input, in
// the order of the inputs. The last panel is padded with zero weights. For every tile
// of rows, a product reads a panel from start to end and keeps the sums of the tile in
// registers.
//
// In format Int8, a panel is a sequence of groups. Each group has the weights of
// [Group] inputs. In a group, the weights from four consecutive inputs to an output are
// adjacent:
//
//	[Group/4][Width][4]int8  weights
//	[Width]bfloat16          scales of the outputs
type Matrix struct {
	format          Format
	inputs, outputs int
	bias            []float32

	// Only the slice for the matrix's format has weights. The other two slices are nil.
	single []float32 // weights in format F32
	half   []uint16  // weights in format F16
	bytes  []byte    // groups in format Int8
}

// groupBytes is the size in bytes of a group in format Int8.
const groupBytes = Group*Width + 2*Width

// NewMatrix returns a matrix whose weights and bias are zero.
func NewMatrix(f Format, inputs, outputs int) *Matrix {
	panels := (outputs + Width - 1) / Width
	m := &Matrix{format: f, inputs: inputs, outputs: outputs, bias: make([]float32, panels*Width)}
	switch n := panels * inputs * Width; f {
	case F32:
		m.single = unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(allocate(m, 4*n)))), n)
	case F16:
		m.half = unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(allocate(m, 2*n)))), n)
	case Int8:
		m.bytes = allocate(m, panels*m.groups()*groupBytes)
	}
	return m
}

// Inputs returns the number of inputs.
func (m *Matrix) Inputs() int { return m.inputs }

// Outputs returns the number of outputs.
func (m *Matrix) Outputs() int { return m.outputs }

// Panels returns the number of panels.
func (m *Matrix) Panels() int { return len(m.bias) / Width }

// Stride returns Panels()*Width, the length of a row of outputs with padding.
func (m *Matrix) Stride() int { return len(m.bias) }

// Bytes returns the size of the packed weights in bytes.
func (m *Matrix) Bytes() int { return 4*len(m.single) + 2*len(m.half) + len(m.bytes) }

// Packing names how weights are quantised and arranged in [Matrix.Memory]. A change that
// gives other bytes for the same weights must change it.
const Packing = "panels/1"

// Memory returns the memory of the packed weights and that of the bias, in the byte order
// of the machine. The caller may keep a copy and write it into the memory of a matrix of
// the same format and shape. The memory is valid as long as the matrix is reachable.
func (m *Matrix) Memory() (weights, bias []byte) {
	switch m.format {
	case F32:
		weights = BytesOf(m.single)
	case F16:
		weights = unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(m.half))), 2*len(m.half))
	case Int8:
		weights = m.bytes
	}
	return weights, BytesOf(m.bias)
}

// BytesOf returns the memory of numbers, in the byte order of the machine.
func BytesOf(v []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
}

func (m *Matrix) groups() int { return (m.inputs + Group - 1) / Group }

// SetBias sets the bias, one element for each output.
func (m *Matrix) SetBias(bias []float32) { copy(m.bias[:m.outputs], bias) }

// A block holds the weights from Group inputs to the outputs of one panel.
type block [Group][Width]float32

// SetInputs packs weights [inputs, Outputs()], with one row for each input from input k
// on. k must be a multiple of [Group]. The number of rows must be a multiple of Group
// too, unless the rows reach the last input. SetInputs returns an error for a weight
// that is not finite or exceeds the range of the format.
func (m *Matrix) SetInputs(k int, weights []float32) error {
	for ; len(weights) > 0; k += Group {
		n := min(Group, len(weights)/m.outputs)
		for p := range m.Panels() {
			var b block
			have := min(Width, m.outputs-p*Width)
			for i := range n {
				copy(b[i][:have], weights[i*m.outputs+p*Width:])
			}
			if err := m.set(p, k, n, &b); err != nil {
				return err
			}
		}
		weights = weights[n*m.outputs:]
	}
	return nil
}

// SetOutputs packs weights [outputs, Inputs()], with one column of the matrix for each
// output from output o on. o must be a multiple of [Width]. The number of outputs must
// be a multiple of Width too, unless they reach the last output. SetOutputs returns the
// same errors as SetInputs.
func (m *Matrix) SetOutputs(o int, weights []float32) error {
	for ; len(weights) > 0; o += Width {
		have := min(Width, len(weights)/m.inputs)
		for k := 0; k < m.inputs; k += Group {
			var b block
			n := min(Group, m.inputs-k)
			for j := range have {
				for i, w := range weights[j*m.inputs+k:][:n] {
					b[i][j] = w
				}
			}
			if err := m.set(o/Width, k, n, &b); err != nil {
				return err
			}
		}
		weights = weights[have*m.inputs:]
	}
	return nil
}

// set packs a block into a panel. The block has the weights of n inputs, beginning with
// input k.
func (m *Matrix) set(panel, k, n int, b *block) error {
	const maxFloat16 = 65504
	for _, row := range b[:n] {
		for _, w := range row {
			switch abs := math.Float32frombits(math.Float32bits(w) &^ (1 << 31)); {
			case !(abs <= math.MaxFloat32):
				return fmt.Errorf("weight %g is not finite", w)
			case abs > maxFloat16 && m.format == F16:
				return fmt.Errorf("weight %g is too large for f16: use f32", w)
			}
		}
	}
	switch m.format {
	case F32:
		for i, row := range b[:n] {
			copy(m.single[(panel*m.inputs+k+i)*Width:], row[:])
		}
	case F16:
		for i := range b[:n] {
			encodeFloat16(m.half[(panel*m.inputs+k+i)*Width:], b[i][:])
		}
	case Int8:
		quantizeBlock(m.group(panel, k/Group), b)
	}
	runtime.KeepAlive(m)
	return nil
}

func (m *Matrix) group(panel, group int) []byte {
	return m.bytes[(panel*m.groups()+group)*groupBytes:][:groupBytes]
}

// quantizeBlock packs a block as integers from -127 to 127, with one scale for each
// output. It tries a few scales, from the smallest possible scale up, and takes the
// scale with the smallest squared error. This error is 10 to 20 % less than the error
// with the smallest possible scale.
func quantizeBlock(g []byte, b *block) {
	const candidates = 5
	var most, inverse, best [Width]float32
	var scales [Width]uint16
	for _, row := range b {
		for o, w := range row {
			most[o] = max(most[o], math.Float32frombits(math.Float32bits(w)&^(1<<31)))
		}
	}
	for o := range best {
		best[o] = float32(math.Inf(1))
	}
	for c := range uint16(candidates) {
		var inv, errors [Width]float32
		for o, m := range most {
			if m >= minScaled {
				inv[o] = 1 / BFloat16frombits(bfloat16Above(m/127.49)+c) // the largest weight may become 127.49, which rounds to 127
			}
		}
		blockErrors(&errors, b, &inv)
		for o, e := range errors {
			scale := bfloat16Above(most[o]/127.49) + c
			step := BFloat16frombits(scale)
			if e = float32(e*step) * step; e < best[o] || c == 0 {
				best[o], inverse[o], scales[o] = e, inv[o], scale
			}
		}
	}
	for o, s := range scales {
		binary.LittleEndian.PutUint16(g[Group*Width+2*o:], s)
	}
	for k := range b {
		fours := (*[4 * Width]byte)(g[k/4*4*Width:])
		for o, inv := range inverse {
			fours[4*o+k%4] = byte(round(b[k][o] * inv))
		}
	}
}

// portableBlockErrors multiplies the weights of every output by the factor of the
// output, and rounds them to integers. It adds the squared rounding errors of every
// output to that output's element of errors.
func portableBlockErrors(errors *[Width]float32, b *block, factors *[Width]float32) {
	const round = 3 << 22 // adding and then subtracting this number rounds to an integer
	for _, row := range b {
		for o, w := range row {
			x := float32(w * factors[o])
			d := x - (float32(x+round) - round)
			errors[o] += float32(d * d)
		}
	}
}

// weightScale returns the scale of an output's weights in a group.
func weightScale(group []byte, output int) float32 {
	return BFloat16frombits(binary.LittleEndian.Uint16(group[Group*Width+2*output:]))
}

// Output writes the dequantised weights of output o to dst, one weight for each input.
func (m *Matrix) Output(o int, dst []float32) {
	dst = dst[:m.inputs]
	panel, o := o/Width, o%Width
	defer runtime.KeepAlive(m)
	switch m.format {
	case F32:
		column := m.single[panel*Width*m.inputs+o:]
		for k := range dst {
			dst[k] = column[k*Width]
		}
	case F16:
		column := m.half[panel*Width*m.inputs+o:]
		for k := range dst {
			dst[k] = Float16frombits(column[k*Width])
		}
	case Int8:
		for k := range dst {
			g := m.group(panel, k/Group)
			dst[k] = float32(int8(g[k%Group/4*4*Width+4*o+k%4])) * weightScale(g, o)
		}
	}
}

// Multiply computes the outputs of the panels from lo to hi-1 for the first rows of in.
// These rows must have been prepared. Multiply writes each output to the column of y
// that has its number. A row of y has Stride() elements.
func (m *Matrix) Multiply(y []float32, in *Input, rows, lo, hi int) {
	defer runtime.KeepAlive(m) // keeps the weights in memory during the call
	stride := len(m.bias)
	for r := range rows {
		copy(y[r*stride+lo*Width:r*stride+hi*Width], m.bias[lo*Width:])
	}
	if m.format == Int8 {
		size := m.groups() * groupBytes
		for p := lo; p < hi; p++ {
			multiplyBytes(y[p*Width:], stride, in, m.bytes[p*size:][:size], rows)
		}
		return
	}
	size := m.inputs * Width
	if rows <= 2*maxTile() {
		m.multiply(y[lo*Width:], in.Floats, in.Stride, lo*size, hi-lo, rows, m.inputs)
		return
	}
	// With many rows, multiply all rows with one part of the panels before the next
	// part. Then the part stays in the first-level cache.
	for p := lo; p < hi; p += partPanels {
		panels := min(partPanels, hi-p)
		for k := 0; k < m.inputs; k += partInputs {
			n := min(partInputs, m.inputs-k)
			m.multiply(y[p*Width:], in.Floats[k:], in.Stride, p*size+k*Width, panels, rows, n)
		}
	}
}

// partInputs and partPanels are the numbers of inputs and panels in a part of the
// matrix. A part fits into the first-level cache.
const (
	partInputs = 256
	partPanels = 2
)

// multiply adds the products of rows of x with panels to rows of y. The assembly fuses
// each product with its addition. at is the index of the first weight.
func (m *Matrix) multiply(y, x []float32, xStride, at, panels, rows, inputs int) {
	if m.format == F32 {
		multiplySingle(y, len(m.bias), x, xStride, m.single[at:], m.inputs*Width, rows, panels, inputs, true)
	} else {
		multiplyHalf(y, len(m.bias), x, xStride, m.half[at:], m.inputs*Width, rows, panels, inputs, true)
	}
}
