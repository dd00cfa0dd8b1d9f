package kernel

import "fmt"

// A Format says how the weights of a matrix are kept.
type Format uint8

// The formats, from the one that is used unless another is asked for.
const (
	F16  Format = iota // halves; inputs and sums are float32
	F32                // float32
	Int8               // 8 bits, with a scale for every 32 inputs of an output; inputs likewise
)

var formats = [...]string{F16: "f16", F32: "f32", Int8: "int8"}

// String returns "f16", "f32" or "int8".
func (f Format) String() string { return formats[f] }

// UnmarshalText sets f to what String would return text for.
func (f *Format) UnmarshalText(text []byte) error {
	for i, name := range formats {
		if name == string(text) {
			*f = Format(i)
			return nil
		}
	}
	return fmt.Errorf("weights %q: want f16, f32 or int8", text)
}
