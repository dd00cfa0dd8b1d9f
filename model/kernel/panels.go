package kernel

import (
	"runtime"
	"unsafe"
)

// Panels has numbers that come one by one, such as keys and values, laid out as
// the panels of a matrix are: [Width] numbers for each of some inputs.
type Panels struct {
	single []float32
	half   []uint16
}

// NewPanels returns n zeros, kept as halves if the format is not F32.
func NewPanels(f Format, n int) *Panels {
	p := new(Panels)
	if f == F32 {
		p.single = unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(allocate(p, 4*n)))), n)
	} else {
		p.half = unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(allocate(p, 2*n)))), n)
	}
	return p
}

// Len returns the number of numbers.
func (p *Panels) Len() int { return len(p.single) + len(p.half) }

// Set writes x to places at, at+step, at+2*step and so on.
func (p *Panels) Set(at, step int, x []float32) {
	defer runtime.KeepAlive(p)
	if p.single != nil {
		for i, v := range x {
			p.single[at+i*step] = v
		}
		return
	}
	var half [64]uint16
	for len(x) > 0 {
		n := min(len(half), len(x))
		encodeFloat16(half[:], x[:n])
		for i, h := range half[:n] {
			p.half[at+i*step] = h
		}
		x, at = x[n:], at+n*step
	}
}

// MultiplyAdd adds the products of rows of x with some panels to rows of y. The
// first panel starts at a place, the others stride apart, and each has as many
// inputs as a row of x: y[r, panel, o] += x[r, k] panel[k, o] for k in order.
func (p *Panels) MultiplyAdd(y []float32, yStride int, x []float32, xStride, rows, inputs, at, stride, panels int) {
	defer runtime.KeepAlive(p)
	if p.single != nil {
		multiplySingle(y, yStride, x, xStride, p.single[at:], stride, rows, panels, inputs, false)
	} else {
		multiplyHalf(y, yStride, x, xStride, p.half[at:], stride, rows, panels, inputs, false)
	}
}
