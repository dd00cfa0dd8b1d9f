package gpt2

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"colophon/model/kernel"
	"colophon/model/opticks"
)

// file returns a safetensors file with the given header, followed by data zero bytes.
func file(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

func TestReadHeaderRefusesInvalidHeaders(t *testing.T) {
	for _, c := range []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "0 bytes are too few"},
		{"seven bytes", make([]byte, 7), "7 bytes are too few"},
		{"no header", make([]byte, 8), "header: the text ends early"},
		{"huge header", []byte("GGUF\x03\x00\x00\x00"), "longer than 100000000: not a safetensors file?"},
		{"header beyond the end", file(`{}`, 0)[:9], "header of 2 bytes does not fit the file of 9"},
		{"an array", file(`[]`, 0), "not a JSON object"},
		{"truncated", file(`{"a":{"dtype":"F32"`, 0), "the text ends early"},
		{"two objects", file(`{}{}`, 0), "something follows"},
		{"no shape", file(`{"a":{"dtype":"F32","data_offsets":[0,4]}}`, 4), `tensor "a": shape is missing`},
		{"no offsets", file(`{"a":{"dtype":"F32","shape":[1]}}`, 4), `data_offsets has 0 numbers`},
		{"three offsets", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}`, 4), `data_offsets has 3 numbers`},
		{"backwards", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}`, 4), "are not a range"},
		{"negative", file(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, 4), `tensor "a"`},
		{"fraction", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4.5]}}`, 4), `tensor "a"`},
		{"not a tensor", file(`{"a":1}`, 4), `tensor "a"`},
		{"too short", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 4), "needs 8 bytes"},
		{"overflow", file(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0), "is too large"},
		{"overflow to the size", file(`{"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,0]}}`, 0), "is too large"},
		{"overflow by zero", file(`{"a":{"dtype":"F32","shape":[0,18446744073709551615],"data_offsets":[0,0]}}`, 0), "is too large"},
		{"offset overflow", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]}}`, 1), "are not a range"},
		{"beyond the end", file(`{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}`, 8), "ends at byte 9 of 8"},
		{"hole at the start", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), `1 bytes before tensor "a"`},
		{"hole between", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}`, 4), `2 bytes before tensor "b"`},
		{"hole at the end", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 3), "2 bytes at the end"},
		{"overlap", file(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3), `"b" overlaps "a"`},
		{"same range", file(`{"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 2), `"b" overlaps "a"`},
		{"same name", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), `"a" is repeated`},
		{"long entry", file(`{"a":{"dtype":"U8","shape":[1`+strings.Repeat(",1", 3000)+`],"data_offsets":[0,1]}}`, 1), "described by 60"},
		{"long name", file(`{"`+strings.Repeat("n", 5000)+`":{}}`, 1), strings.Repeat("n", 80) + "..."},
	} {
		_, err := readHeader(bytes.NewReader(c.file), int64(len(c.file)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("%s: message of %d bytes", c.name, len(err.Error()))
		}
	}
	good := file(`{"__metadata__":{"a":"b"},"empty":{"dtype":"F64","shape":[0,3],"data_offsets":[1,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   `, 1)
	if ts, err := readHeader(bytes.NewReader(good), int64(len(good))); err != nil || len(ts) != 2 {
		t.Errorf("%v, %v", ts, err)
	}
}

func TestDecodeIsExactForEveryType(t *testing.T) {
	got := make([]float32, 3)
	decode(got, "BF16", []byte{0x80, 0x3f, 0x49, 0x40, 0x00, 0x80})
	if got[0] != 1 || got[1] != 3.140625 || got[2] != 0 || !math.Signbit(float64(got[2])) {
		t.Errorf("bfloat16: %g", got)
	}
	decode(got, "F16", []byte{0x00, 0x3c, 0x01, 0x00, 0x00, 0xc0})
	if got[0] != 1 || got[1] != 1.0/(1<<24) || got[2] != -2 {
		t.Errorf("float16: %g", got)
	}
}

func TestWrittenTensorsAreReadBack(t *testing.T) {
	dtypes := slices.Sorted(maps.Keys(elementSize))
	rapid.Check(t, func(t *rapid.T) {
		var want []fileTensor
		for _, name := range rapid.SliceOfNDistinct(rapid.String(), 0, 8, rapid.ID).Draw(t, "names") {
			if name == metadata {
				continue
			}
			x := fileTensor{name, rapid.SampledFrom(dtypes).Draw(t, "dtype"), rapid.SliceOfN(rapid.IntRange(0, 5), 0, 4).Draw(t, "shape"), nil}
			size := int(elementSize[x.dtype])
			for _, n := range x.shape {
				size *= n
			}
			x.data = rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "data")
			want = append(want, x)
		}
		b := writeSafetensors(want)
		if n := binary.LittleEndian.Uint64(b); n%8 != 0 {
			t.Fatalf("header of %d bytes is not padded", n)
		}
		tensors, err := readHeader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		got := []fileTensor{}
		for _, x := range tensors {
			got = append(got, fileTensor{x.name, x.dtype, x.shape, b[x.begin:x.end]})
		}
		byName := func(a, b fileTensor) int { return cmp.Compare(a.name, b.name) } // sorts by name, because empty tensors have no order in the file
		slices.SortFunc(want, byName)
		slices.SortFunc(got, byName)
		if !slices.EqualFunc(got, want, func(a, b fileTensor) bool {
			return a.name == b.name && a.dtype == b.dtype && slices.Equal(a.shape, b.shape) && bytes.Equal(a.data, b.data)
		}) {
			t.Fatalf("wrote %v, read %v", want, got)
		}
	})
}

// WriteSafetensors must give the same bytes as the file of the embedded model, whose
// digest is published.
func TestWriterReproducesTheEmbeddedModel(t *testing.T) {
	f, err := opticks.Files().Open("model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	ck, err := ReadCheckpoint(opticks.Files())
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	var tensors []Tensor
	for name, shape := range ck.Config.Tensors() {
		values, err := ck.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		x, err := NewTensor(name, "F16", shape, values)
		if err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, x)
	}
	var got bytes.Buffer
	if err := WriteSafetensors(&got, tensors); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("wrote %d bytes that differ from the %d of the model: %v", got.Len(), len(want), err)
	}
}

func TestNewTensorRoundsToItsType(t *testing.T) {
	values := []float32{1, -2.5, 0.1, 65504, float32(math.Inf(1)), 0}
	for dtype, round := range map[string]func(float32) float32{
		"F32": func(v float32) float32 { return v },
		"F16": func(v float32) float32 { return kernel.Float16frombits(kernel.Float16bits(v)) },
	} {
		x, err := NewTensor("a", dtype, []int{2, 3}, values)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := WriteSafetensors(&b, []Tensor{x}); err != nil {
			t.Fatal(err)
		}
		got := make([]float32, len(values))
		decode(got, dtype, b.Bytes()[b.Len()-len(values)*int(elementSize[dtype]):])
		for i, v := range values {
			if got[i] != round(v) {
				t.Errorf("%s: wrote %g, read %g", dtype, v, got[i])
			}
		}
	}
	if _, err := NewTensor("a", "I8", nil, values); err == nil {
		t.Error("NewTensor accepts I8")
	}
}

func TestWriteSafetensorsRefusesInvalidTensors(t *testing.T) {
	data := func(n int) io.Reader { return bytes.NewReader(make([]byte, n)) }
	for _, c := range []struct {
		name    string
		tensors []Tensor
		want    string
	}{
		{"repeated name", []Tensor{{"a", "U8", nil, data(1)}, {"a", "U8", nil, data(1)}}, "repeated"},
		{"reserved name", []Tensor{{"__metadata__", "U8", nil, data(1)}}, "reserved"},
		{"invalid name", []Tensor{{"\xff", "U8", nil, data(1)}}, "not UTF-8"},
		{"unknown type", []Tensor{{"a", "Q4", nil, data(1)}}, `unknown dtype "Q4"`},
		{"negative dimension", []Tensor{{"a", "U8", []int{-1}, data(1)}}, "is negative"},
		{"overflow", []Tensor{{"a", "F64", []int{1 << 31, 1 << 31}, data(1)}}, "is too large"},
		{"overflow of the sum", []Tensor{{"a", "U8", []int{1 << 61}, data(1)}, {"b", "U8", []int{1 << 62}, data(1)}}, "more than 4611686018427387903 bytes"},
		{"short data", []Tensor{{"a", "U8", []int{5}, data(4)}}, "data ends after 4 of 5 bytes"},
		{"long data", []Tensor{{"a", "U8", []int{5}, data(6)}}, "more than 5 bytes"},
	} {
		if err := WriteSafetensors(io.Discard, c.tensors); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if err := WriteSafetensors(fullDisk{}, []Tensor{{"a", "U8", []int{5}, data(5)}}); err != io.ErrShortWrite {
		t.Errorf("full disk: %v", err)
	}
}

// fullDisk is a writer that writes no byte and returns no error, so that bufio reports
// a short write.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, nil }
