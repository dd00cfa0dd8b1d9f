package kernel

// An Input has rows of inputs of a matrix. Who fills it writes to Floats, where
// row r starts at r*Stride, and then calls Prepare.
type Input struct {
	Floats []float32
	Stride int

	inputs int
	groups int       // of Group inputs
	values []int16   // [rows, groups, Group], at most 127 from 0, in format Int8
	scales []float32 // [rows, groups], by which to multiply values
}

// NewInput returns room for rows of some inputs of a matrix with a format.
func NewInput(f Format, rows, inputs, stride int) *Input {
	in := &Input{Floats: make([]float32, rows*stride), Stride: stride, inputs: inputs}
	if f == Int8 {
		in.groups = (inputs + Group - 1) / Group
		in.values = make([]int16, rows*in.groups*Group)
		in.scales = make([]float32, rows*in.groups)
	}
	return in
}

// Row returns the inputs of a row.
func (in *Input) Row(r int) []float32 { return in.Floats[r*in.Stride:][:in.inputs] }

// Prepare makes rows lo up to hi ready to be multiplied.
func (in *Input) Prepare(lo, hi int) {
	if in.values == nil {
		return
	}
	for r := lo; r < hi; r++ {
		quantize(in.values[r*in.groups*Group:][:in.groups*Group], in.scales[r*in.groups:], in.Row(r))
	}
}

// quantize writes groups of x as multiples of a scale, the largest of which is
// 127. The last group is filled up with zeros.
func quantize(q []int16, scales, x []float32) {
	done := quantizeSome(q, scales, x)
	for ; done < len(x); done += Group {
		var group [Group]float32
		copy(group[:], x[done:])
		scales[done/Group] = quantizeGroup((*[Group]int16)(q[done:]), &group)
	}
}
