package kernel

import (
	"runtime"
	"unsafe"
)

// Panels stores numbers that arrive one by one, such as attention keys and values. They
// have the layout of a panel of a [Matrix], which has [Width] numbers for each input.
type Panels struct {
	single []float32 // exactly one of single and half is set
	half   []uint16
}

// NewPanels returns Panels with n zeros. The zeros are float32 if f is F32, and
// otherwise binary16.
func NewPanels(f Format, n int) *Panels {
	p := new(Panels)
	if f == F32 {
		p.single = unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(allocate(p, 4*n)))), n)
	} else {
		p.half = unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(allocate(p, 2*n)))), n)
	}
	return p
}

// Len returns the number of elements of p.
func (p *Panels) Len() int { return len(p.single) + len(p.half) }

// Set writes the elements of x to the indexes at, at+step, at+2*step and so on.
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

// MultiplyAdd adds the products of rows of x with panels to rows of y: y[r, panel, o]
// += x[r, k] * panel[k, o], for k in order. It does not fuse products with additions.
// The first panel begins at index at, and the panels are stride elements apart.
func (p *Panels) MultiplyAdd(y []float32, yStride int, x []float32, xStride, rows, inputs, at, stride, panels int) {
	defer runtime.KeepAlive(p)
	if p.single != nil {
		multiplySingle(y, yStride, x, xStride, p.single[at:], stride, rows, panels, inputs, false)
	} else {
		multiplyHalf(y, yStride, x, xStride, p.half[at:], stride, rows, panels, inputs, false)
	}
}
