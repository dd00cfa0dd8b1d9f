package kernel

// An Input has rows of inputs of a matrix. Who fills it writes to Floats, where
// row r starts at r*Stride, and then calls Prepare.
type Input struct {
	Floats []float32
	Stride int

	inputs int
	groups int // of Group inputs

	// In format Int8: the inputs as multiples, at most 127, of a scale, and -128
	// for what is not a number. With AVX-512 they are in wide.
	values []int16      // [rows, groups, Group]
	scales []float32    // [rows, groups]
	wide   []inputGroup // [rows, groups]
}

// An inputGroup is a group of inputs as the assembly wants it.
type inputGroup struct {
	values [Group]byte // int8
	scale  float32
	offset int32 // -128 times the sum of values
}

// NewInput returns room for rows of some inputs of a matrix with a format.
func NewInput(f Format, rows, inputs, stride int) *Input {
	in := &Input{Floats: make([]float32, rows*stride), Stride: stride, inputs: inputs}
	if f == Int8 {
		in.groups = (inputs + Group - 1) / Group
		in.scales = make([]float32, rows*in.groups)
		in.values = make([]int16, rows*in.groups*Group)
		in.wide = make([]inputGroup, rows*in.groups)
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
		in.quantize(r)
	}
}

// quantize writes groups of a row as multiples of a scale, the largest of which
// is 127. The last group is filled up with zeros.
func (in *Input) quantize(row int) {
	x := in.Row(row)
	for done := in.quantizeSome(row); done < len(x); done += Group {
		var group [Group]float32
		copy(group[:], x[done:])
		at := row*in.groups + done/Group
		values := (*[Group]int16)(in.values[at*Group:])
		in.scales[at] = quantizeGroup(values, &group)
		wide := inputGroup{scale: in.scales[at]}
		for i, v := range values {
			wide.values[i] = byte(v)
			wide.offset -= 128 * int32(v)
		}
		in.wide[at] = wide
	}
}
