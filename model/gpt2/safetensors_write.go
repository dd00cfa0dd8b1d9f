package gpt2

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"unicode/utf8"

	"colophon/model/kernel"
)

// metadata is the name of the header member that is not a tensor.
const metadata = "__metadata__"

// A Tensor is one tensor of a file that [WriteSafetensors] writes.
type Tensor struct {
	Name  string
	DType string    // type of the elements as the format names it, such as "F32", "F16" or "BF16"
	Shape []int     // empty for a scalar
	Data  io.Reader // the elements in row-major order, little-endian
}

// NewTensor returns a tensor with the given values, which are in row-major order. dtype
// must be "F32" or "F16". Values are rounded to nearest even if dtype is "F16".
func NewTensor(name, dtype string, shape []int, values []float32) (Tensor, error) {
	var data []byte
	switch dtype {
	case "F32":
		for _, v := range values {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
		}
	case "F16":
		for _, v := range values {
			data = binary.LittleEndian.AppendUint16(data, kernel.Float16bits(v))
		}
	default:
		return Tensor{}, fmt.Errorf("tensor %q: dtype %q, want F32 or F16", name, dtype)
	}
	return Tensor{name, dtype, shape, bytes.NewReader(data)}, nil
}

// WriteSafetensors writes a safetensors file with the data of the tensors in the
// order given. The header has the metadata {"format": "pt"}, which Hugging Face's
// readers require, and is padded to a multiple of 8 bytes.
//
// It returns an error for a name that is repeated, reserved or not UTF-8, for an
// unknown dtype, and for an impossible shape. Data that is longer or shorter than the
// shape is an error too. After an error, w has only part of a file.
func WriteSafetensors(w io.Writer, tensors []Tensor) error {
	type entry struct {
		DType   string   `json:"dtype"`
		Shape   []uint64 `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	header, end := map[string]any{metadata: map[string]string{"format": "pt"}}, int64(0)
	for _, t := range tensors {
		if _, ok := header[t.Name]; ok || !utf8.ValidString(t.Name) {
			return fmt.Errorf("tensor %q: the name is repeated, reserved or not UTF-8", short(t.Name))
		}
		e := entry{t.DType, []uint64{}, [2]int64{end, 0}}
		for _, n := range t.Shape {
			if n < 0 {
				return fmt.Errorf("tensor %q: shape %v is negative", short(t.Name), t.Shape)
			}
			e.Shape = append(e.Shape, uint64(n))
		}
		size, err := byteSize(t.DType, e.Shape)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", short(t.Name), err)
		}
		if size > math.MaxInt64/2-end {
			return fmt.Errorf("tensor %q: more than %d bytes of data", short(t.Name), int64(math.MaxInt64/2))
		}
		end += size
		e.Offsets[1] = end
		header[t.Name] = e
	}
	text, err := json.Marshal(header)
	if err != nil {
		return err
	}
	for len(text)%8 != 0 {
		text = append(text, ' ')
	}
	out := bufio.NewWriterSize(w, 1<<20)
	// The errors need no check here, because Flush returns the first error of a
	// bufio.Writer.
	_, _ = out.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(text))))
	_, _ = out.Write(text)
	for _, t := range tensors {
		offsets := header[t.Name].(entry).Offsets
		size := offsets[1] - offsets[0]
		n, err := io.Copy(out, io.LimitReader(t.Data, size))
		if err != nil {
			return fmt.Errorf("write tensor %q: %w", short(t.Name), err)
		}
		if n < size {
			return fmt.Errorf("write tensor %q: data ends after %d of %d bytes", short(t.Name), n, size)
		}
		if n, _ := io.ReadFull(t.Data, make([]byte, 1)); n > 0 {
			return fmt.Errorf("write tensor %q: more than %d bytes of data", short(t.Name), size)
		}
	}
	return out.Flush()
}
