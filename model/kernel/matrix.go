package kernel

// Width is the number of outputs in a panel.
const Width = 16

// A Matrix maps vectors of inputs to vectors of outputs: out = in·W + bias.
//
// The weights are packed in panels of [Width] outputs: panel p holds, for each
// input k in order, the weights from k to outputs p*Width up to (p+1)*Width.
// Outputs beyond the last have weight 0. A panel is read from start to end for
// every row, and Width sums run side by side.
type Matrix struct {
	inputs, outputs int
	panels, bias    []float32
}

// NewMatrix returns a matrix of zeros.
func NewMatrix(inputs, outputs int) *Matrix {
	n := (outputs + Width - 1) / Width * Width
	return &Matrix{inputs, outputs, make([]float32, n*inputs), make([]float32, n)}
}

// Inputs returns the number of inputs.
func (m *Matrix) Inputs() int { return m.inputs }

// Outputs returns the number of outputs.
func (m *Matrix) Outputs() int { return m.outputs }

// Panels returns the number of panels.
func (m *Matrix) Panels() int { return len(m.bias) / Width }

// Stride returns Panels()*Width, the length of a row of results.
func (m *Matrix) Stride() int { return len(m.bias) }

// SetBias sets what is added to each output.
func (m *Matrix) SetBias(bias []float32) { copy(m.bias[:m.outputs], bias) }

// SetInput sets the weights from input k to every output.
func (m *Matrix) SetInput(k int, weights []float32) {
	for o := 0; o < m.outputs; o += Width {
		copy(m.panels[o*m.inputs+k*Width:][:Width], weights[o:min(o+Width, m.outputs)])
	}
}

// SetOutput sets the weights from every input to output o.
func (m *Matrix) SetOutput(o int, weights []float32) {
	column := m.panels[o/Width*Width*m.inputs+o%Width:]
	for k, w := range weights[:m.inputs] {
		column[k*Width] = w
	}
}

// Output copies the weights from every input to output o into dst.
func (m *Matrix) Output(o int, dst []float32) {
	column := m.panels[o/Width*Width*m.inputs+o%Width:]
	for k := range dst[:m.inputs] {
		dst[k] = column[k*Width]
	}
}

// Multiply computes the outputs of panels lo up to hi for some rows: a row of
// x starts every xStride elements and has Inputs() of them, a row of y has
// Stride().
func (m *Matrix) Multiply(y, x []float32, xStride, rows, lo, hi int) {
	stride := len(m.bias)
	for p := lo; p < hi; p++ {
		panel := m.panels[p*Width*m.inputs:][:m.inputs*Width]
		bias := (*[Width]float32)(m.bias[p*Width:])
		for r := range rows {
			sums := (*[Width]float32)(y[r*stride+p*Width:])
			*sums = *bias
			MultiplyAdd(sums, x[r*xStride:][:m.inputs], panel)
		}
	}
}
