package gpt2

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"colophon/internal/strictjson"
	"colophon/model/kernel"
)

const (
	maxHeader      = 100_000_000 // largest size in bytes; the limit of the reference implementation
	maxHeaderEntry = 1 << 12     // largest size in bytes of the JSON that describes one tensor
	maxTensors     = 1 << 16
)

// elementSize is the size in bytes of an element of each dtype.
var elementSize = map[string]int64{
	"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4,
	"F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}

// A tensor is the entry of a tensor in the header of a safetensors file.
type tensor struct {
	name       string // name of the tensor in the file
	dtype      string
	shape      []int
	begin, end int64 // offsets in the file, in bytes
	file       *weightsFile
}

func (t *tensor) elements() int64 { return (t.end - t.begin) / elementSize[t.dtype] }

// readHeader reads the header of a safetensors file of size bytes and returns the
// tensors in the order of their data. It checks the numbers of all tensors against each
// other and against the size of the file.
//
// A file (github.com/huggingface/safetensors) has three parts: a little-endian uint64,
// a JSON object, and the data. The uint64 is the length of the JSON object. The tensors
// must cover the data without overlap or gap, as the reference implementation requires.
func readHeader(r io.ReaderAt, size int64) ([]tensor, error) {
	var length [8]byte
	if size < int64(len(length)) {
		return nil, fmt.Errorf("%d bytes are too few for a safetensors file", size)
	}
	if _, err := r.ReadAt(length[:], 0); err != nil && err != io.EOF {
		return nil, err
	}
	if string(length[:]) == pointerStart[:len(length)] {
		return nil, errPointer
	}
	n := binary.LittleEndian.Uint64(length[:])
	if n > maxHeader {
		return nil, fmt.Errorf("header of %d bytes is longer than %d: not a safetensors file?", n, maxHeader)
	}
	data := 8 + int64(n)
	if data > size {
		return nil, fmt.Errorf("header of %d bytes does not fit the file of %d, so the file is not complete: fetch it again", n, size)
	}
	tensors, err := parseHeader(io.NewSectionReader(r, 8, int64(n)))
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	slices.SortFunc(tensors, func(a, b tensor) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end), cmp.Compare(a.name, b.name))
	})
	at := data
	for i := range tensors {
		t := &tensors[i]
		if t.end > size-data {
			return nil, fmt.Errorf("tensor %q ends at byte %d of %d bytes of data, so the file is not complete: fetch it again", t.name, t.end, size-data)
		}
		t.begin, t.end = t.begin+data, t.end+data
		if t.begin < at {
			return nil, fmt.Errorf("tensor %q overlaps %q", t.name, tensors[i-1].name)
		}
		if t.begin > at {
			return nil, fmt.Errorf("%d bytes before tensor %q belong to no tensor", t.begin-at, t.name)
		}
		at = t.end
	}
	if at != size {
		return nil, fmt.Errorf("%d bytes at the end belong to no tensor", size-at)
	}
	return tensors, nil
}

// parseHeader returns the tensors of a header. It checks each tensor by itself, without
// comparing tensors. The offsets are relative to the start of the data, as in the
// header.
func parseHeader(r io.Reader) ([]tensor, error) {
	var tensors []tensor
	members := 0
	err := strictjson.Object(r, func(name string, value []byte) error {
		if members++; members > maxTensors {
			return fmt.Errorf("more than %d tensors", maxTensors)
		}
		if name == metadata {
			return nil
		}
		t, err := parseTensor(value)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", short(name), err)
		}
		t.name = name
		tensors = append(tensors, t)
		return nil
	})
	return tensors, jsonError("tensor", err)
}

// jsonError adds the name to an error of strictjson about a repeated name. kind says
// what has this name, such as "tensor" or "token".
func jsonError(kind string, err error) error {
	if e, ok := errors.AsType[*strictjson.Error](err); ok && e.Name != "" {
		return fmt.Errorf("%s %q is repeated: %w", kind, short(e.Name), err)
	}
	return err
}

// parseTensor reads the entry of one tensor, without its name.
func parseTensor(entry []byte) (tensor, error) {
	if len(entry) > maxHeaderEntry {
		return tensor{}, fmt.Errorf("described by %d bytes, more than %d", len(entry), maxHeaderEntry)
	}
	var e struct {
		DType   string   `json:"dtype"`
		Shape   []uint64 `json:"shape"`
		Offsets []uint64 `json:"data_offsets"`
	}
	if err := json.Unmarshal(entry, &e); err != nil {
		return tensor{}, err
	}
	if e.Shape == nil {
		return tensor{}, errors.New("shape is missing")
	}
	if len(e.Offsets) != 2 {
		return tensor{}, fmt.Errorf("data_offsets has %d numbers, want 2", len(e.Offsets))
	}
	bytes, err := byteSize(e.DType, e.Shape)
	if err != nil {
		return tensor{}, err
	}
	begin, end := e.Offsets[0], e.Offsets[1]
	if begin > end || end > math.MaxInt64/2 {
		return tensor{}, fmt.Errorf("data_offsets %v are not a range", e.Offsets)
	}
	if end-begin != uint64(bytes) {
		return tensor{}, fmt.Errorf("shape %v of %s needs %d bytes, data_offsets %v are %d", e.Shape, e.DType, bytes, e.Offsets, end-begin)
	}
	t := tensor{dtype: e.DType, shape: make([]int, len(e.Shape)), begin: int64(begin), end: int64(end)}
	for i, n := range e.Shape {
		t.shape[i] = int(n)
	}
	return t, nil
}

// byteSize returns the size of the data of a tensor. It returns an error if the
// dtype is unknown, or the size or a dimension overflows.
func byteSize(dtype string, shape []uint64) (int64, error) {
	element, ok := elementSize[dtype]
	if !ok {
		return 0, fmt.Errorf("unknown dtype %q", short(dtype))
	}
	size := uint64(element)
	for _, n := range shape {
		if n > math.MaxInt || n > 0 && size > math.MaxInt64/n {
			return 0, fmt.Errorf("shape %v is too large", shape)
		}
		size *= n
	}
	return int64(size), nil
}

// decode converts the first elements of src to float32 until dst is full. The elements
// of src are little-endian.
func decode(dst []float32, dtype string, src []byte) {
	switch dtype {
	case "F64":
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
		}
	case "F32":
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case "BF16":
		for i := range dst {
			dst[i] = kernel.BFloat16frombits(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case "F16":
		for i := range dst {
			dst[i] = kernel.Float16frombits(binary.LittleEndian.Uint16(src[2*i:]))
		}
	}
}

// short cuts a string from a file to a length that fits into an error message.
func short(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}
