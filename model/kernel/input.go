package kernel

// An Input holds rows of inputs for [Matrix.Multiply]. Write the values to
// Floats, where row r begins at r*Stride, and then call Prepare.
type Input struct {
	Floats []float32 // inputs, of shape [rows, Stride]
	Stride int       // number of elements from one row to the next

	inputs int
	groups int // number of groups in a row, each of Group inputs

	// The following fields hold quantised rows, for format Int8 only. An input is an
	// integer from -127 to 127, times the scale of its group. The integer -128 stands
	// for NaN. The AVX-512 version reads packed. The other versions read values and
	// scales.
	values []int16       // quantised inputs, of shape [rows, groups, Group]
	scales []float32     // scales of the groups, of shape [rows, groups]
	packed []packedGroup // quantised groups with their scales, of shape [rows, groups]
}

// A packedGroup is a group of quantised inputs in the layout that the AVX-512 assembly
// reads. The offsets in gen/multiply.go must agree with it.
type packedGroup struct {
	values [Group]byte // int8 numbers
	scale  float32
	offset int32 // -128 times the sum of values
}

// NewInput returns an Input with the given number of rows, for a matrix in format f.
// Each row has the given number of inputs. The stride must be at least inputs.
func NewInput(f Format, rows, inputs, stride int) *Input {
	in := &Input{Floats: make([]float32, rows*stride), Stride: stride, inputs: inputs}
	if f == Int8 {
		in.groups = (inputs + Group - 1) / Group
		in.scales = make([]float32, rows*in.groups)
		in.values = make([]int16, rows*in.groups*Group)
		in.packed = make([]packedGroup, rows*in.groups)
	}
	return in
}

// Row returns the inputs of row r.
func (in *Input) Row(r int) []float32 { return in.Floats[r*in.Stride:][:in.inputs] }

// Prepare makes the rows from lo to hi-1 ready for Multiply. If the format is Int8, it
// quantises these rows.
func (in *Input) Prepare(lo, hi int) {
	if in.values == nil {
		return
	}
	for r := lo; r < hi; r++ {
		in.quantize(r)
	}
}

// quantize writes each group of a row as integers with a scale. The largest magnitude
// of the integers in a group is 127. The last group is padded with zeros.
func (in *Input) quantize(row int) {
	x := in.Row(row)
	for done := in.quantizePrefix(row); done < len(x); done += Group {
		var group [Group]float32
		copy(group[:], x[done:])
		at := row*in.groups + done/Group
		values := (*[Group]int16)(in.values[at*Group:])
		in.scales[at] = quantizeGroup(values, &group)
		packed := packedGroup{scale: in.scales[at]}
		for i, v := range values {
			packed.values[i] = byte(v)
			packed.offset -= 128 * int32(v)
		}
		in.packed[at] = packed
	}
}
