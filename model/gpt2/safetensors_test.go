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
		byName := func(a, b fileTensor) int { return cmp.Compare(a.name, b.name) } // empty tensors have no order
		slices.SortFunc(want, byName)
		slices.SortFunc(got, byName)
		if !slices.EqualFunc(got, want, func(a, b fileTensor) bool {
			return a.name == b.name && a.dtype == b.dtype && slices.Equal(a.shape, b.shape) && bytes.Equal(a.data, b.data)
		}) {
			t.Fatalf("wrote %v, read %v", want, got)
		}
	})
}

// The writer gives the bytes of the embedded model, whose digest is published.
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

func TestWriteSafetensorsRefuses(t *testing.T) {
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

// fullDisk accepts no byte.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, nil }
