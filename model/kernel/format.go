package kernel

import "fmt"

// A Format says how the weights of a matrix are stored and multiplied.
type Format uint8

// These are the formats of weights. The zero value, F16, is the default.
const (
	F16  Format = iota // IEEE 754 binary16; inputs and sums are float32
	F32                // weights, inputs and sums are float32
	Int8               // int8 with a scale for every Group inputs of an output; inputs are quantised in the same way
)

var formats = [...]string{F16: "f16", F32: "f32", Int8: "int8"}

// String returns "f16", "f32" or "int8".
func (f Format) String() string { return formats[f] }

// UnmarshalText accepts the names that String returns, and refuses all others.
func (f *Format) UnmarshalText(text []byte) error {
	for i, name := range formats {
		if name == string(text) {
			*f = Format(i)
			return nil
		}
	}
	return fmt.Errorf("weights %q: want f16, f32 or int8", text)
}
