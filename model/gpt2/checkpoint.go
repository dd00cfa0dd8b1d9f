package gpt2

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A Checkpoint is an opened model. It has the contents of config.json and the tensors
// of model.safetensors, which are exactly those that the config requires. Values are
// read on demand, so they need not be in memory twice. The file must not change while
// the Checkpoint is open. All methods except Close are safe for concurrent use.
type Checkpoint struct {
	Config Config

	file    io.ReaderAt
	size    int64
	close   func() error
	tensors map[string]tensor // tensors by their names without the prefix "transformer."
}

// ReadCheckpoint opens config.json and model.safetensors and checks that they fit
// together. Tensors may be F32, F16 or BF16, and their names may have the prefix
// "transformer.". The causal-mask buffers of older files are ignored. An lm_head.weight
// is accepted if it equals wte.weight.
func ReadCheckpoint(fsys fs.FS) (*Checkpoint, error) {
	config, err := ReadConfig(fsys)
	if err != nil {
		return nil, err
	}
	f, err := fsys.Open("model.safetensors")
	if err != nil {
		return nil, fmt.Errorf("read model.safetensors: %w", err)
	}
	c := &Checkpoint{Config: config, close: f.Close}
	if err := c.read(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("read model.safetensors: %w", err)
	}
	return c, nil
}

// read reads the header of model.safetensors and checks the tensors in it.
func (c *Checkpoint) read(f fs.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	c.size = info.Size()
	var ok bool
	if c.file, ok = f.(io.ReaderAt); !ok {
		b, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		c.file, c.size = bytes.NewReader(b), int64(len(b))
	}
	tensors, err := readHeader(c.file, c.size)
	if err != nil {
		return err
	}
	c.tensors = make(map[string]tensor, len(tensors))
	for _, t := range tensors {
		name := strings.TrimPrefix(t.name, "transformer.")
		if isMaskBuffer(name, c.Config.Layers) {
			continue
		}
		if other, ok := c.tensors[name]; ok {
			return fmt.Errorf("%q and %q are the same tensor", other.name, t.name)
		}
		c.tensors[name] = t
	}
	if err := c.check(); err != nil {
		return err
	}
	return c.checkTied()
}

// isMaskBuffer reports whether name is a mask buffer of a block whose number is below
// layers. A mask buffer is the causal mask or the value for masked scores.
func isMaskBuffer(name string, layers int) bool {
	rest, ok := strings.CutPrefix(name, "h.")
	if !ok {
		return false
	}
	number, rest, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(number)
	return err == nil && n >= 0 && n < layers && (rest == "attn.bias" || rest == "attn.masked_bias")
}

// check returns an error unless the tensors are exactly those that the config requires.
// The tensor lm_head.weight may be present too.
func (c *Checkpoint) check() error {
	var missing []string
	want := map[string]bool{"lm_head.weight": true}
	for name, shape := range c.Config.Tensors() {
		want[name] = true
		t, ok := c.tensors[name]
		if !ok {
			missing = append(missing, name)
			continue
		}
		if err := t.check(shape); err != nil {
			return err
		}
	}
	if t, ok := c.tensors["lm_head.weight"]; ok {
		if err := t.check([]int{c.Config.Vocab, c.Config.Embd}); err != nil {
			return err
		}
	}
	var extra []string
	for name, t := range c.tensors {
		if !want[name] {
			extra = append(extra, short(t.name))
		}
	}
	slices.Sort(extra)
	switch {
	case missing != nil && extra != nil:
		return fmt.Errorf("tensors do not fit the config: missing %s; unknown %s", list(missing), list(extra))
	case missing != nil:
		return fmt.Errorf("tensors do not fit the config: missing %s", list(missing))
	case extra != nil:
		return fmt.Errorf("tensors do not fit the config: unknown %s", list(extra))
	}
	return nil
}

// check returns an error unless the tensor has the given shape and a supported type.
func (t tensor) check(shape []int) error {
	if !slices.Equal(t.shape, shape) {
		return fmt.Errorf("tensor %q has shape %v, the config asks for %v", t.name, t.shape, shape)
	}
	if t.dtype != "F32" && t.dtype != "F16" && t.dtype != "BF16" {
		return fmt.Errorf("tensor %q is %s, want F32, F16 or BF16", t.name, t.dtype)
	}
	return nil
}

// list joins names. If there are many, it joins the first few and adds a count.
func list(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// checkTied returns an error if lm_head.weight is present and differs from wte.weight.
// GPT-2 uses one matrix both for the embeddings and for the output.
func (c *Checkpoint) checkTied() error {
	if _, ok := c.tensors["lm_head.weight"]; !ok {
		return nil
	}
	const some = 64
	var head, tokens buffer
	for i := 0; i < c.Config.Vocab; i += some {
		a, err := c.rows("lm_head.weight", i, min(i+some, c.Config.Vocab), &head)
		if err != nil {
			return err
		}
		b, err := c.rows("wte.weight", i, min(i+some, c.Config.Vocab), &tokens)
		if err != nil {
			return err
		}
		for i := range a {
			if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
				return errors.New("lm_head.weight differs from wte.weight: an untied output matrix is not supported")
			}
		}
	}
	return nil
}

// Tensors yields the name and shape of every tensor of a network in the order of the
// forward pass. Matrices have the shape [inputs, outputs]. The embeddings are
// wte.weight [Vocab, Embd] and wpe.weight [Context, Embd].
func (c Config) Tensors() iter.Seq2[string, []int] {
	type entry struct {
		name  string
		shape []int
	}
	d := c.Embd
	block := []entry{
		{"ln_1.weight", []int{d}}, {"ln_1.bias", []int{d}},
		{"attn.c_attn.weight", []int{d, 3 * d}}, {"attn.c_attn.bias", []int{3 * d}},
		{"attn.c_proj.weight", []int{d, d}}, {"attn.c_proj.bias", []int{d}},
		{"ln_2.weight", []int{d}}, {"ln_2.bias", []int{d}},
		{"mlp.c_fc.weight", []int{d, c.Inner}}, {"mlp.c_fc.bias", []int{c.Inner}},
		{"mlp.c_proj.weight", []int{c.Inner, d}}, {"mlp.c_proj.bias", []int{d}},
	}
	return func(yield func(string, []int) bool) {
		if !yield("wte.weight", []int{c.Vocab, d}) || !yield("wpe.weight", []int{c.Context, d}) {
			return
		}
		for l := range c.Layers {
			for _, e := range block {
				if !yield(fmt.Sprintf("h.%d.%s", l, e.name), e.shape) {
					return
				}
			}
		}
		if yield("ln_f.weight", []int{d}) {
			yield("ln_f.bias", []int{d})
		}
	}
}

// Tensor reads the values of a tensor in row-major order. The name must be a name from
// [Config.Tensors], which also gives the shape.
func (c *Checkpoint) Tensor(name string) ([]float32, error) {
	t, ok := c.tensors[name]
	if !ok {
		return nil, fmt.Errorf("no tensor %q", name)
	}
	if t.elements() == 0 {
		return nil, nil
	}
	length := t.rowLength()
	values := make([]float32, 0, t.elements())
	var b buffer
	for some := max(1, 1<<16/length); len(values) < cap(values); {
		i := len(values) / length
		rows, err := c.rows(name, i, min(i+some, cap(values)/length), &b)
		if err != nil {
			return nil, err
		}
		values = append(values, rows...)
	}
	return values, nil
}

// rowLength returns the number of elements in a row, which is the last dimension.
func (t *tensor) rowLength() int { return t.shape[len(t.shape)-1] }

// A buffer is memory that successive reads of rows share.
type buffer struct {
	raw    []byte
	values []float32
}

// rows reads the rows from lo to hi-1 of a tensor. The result is valid until the buffer
// is used again.
func (c *Checkpoint) rows(name string, lo, hi int, b *buffer) ([]float32, error) {
	t := c.tensors[name]
	n, size := (hi-lo)*t.rowLength(), int(elementSize[t.dtype])
	if len(b.values) < n {
		b.values = make([]float32, n)
	}
	if len(b.raw) < n*size {
		b.raw = make([]byte, n*size)
	}
	values, raw := b.values[:n], b.raw[:n*size]
	at := t.begin + int64(lo)*int64(t.rowLength()*size)
	if _, err := io.ReadFull(io.NewSectionReader(c.file, at, int64(len(raw))), raw); err != nil {
		return nil, fmt.Errorf("read tensor %q: %w", t.name, err)
	}
	decode(values, t.dtype, raw)
	return values, nil
}

// Digest reads all of model.safetensors and returns its SHA-256 as
// "sha256:<hex>".
func (c *Checkpoint) Digest() (string, error) {
	h := sha256.New()
	if _, err := io.CopyBuffer(h, io.NewSectionReader(c.file, 0, c.size), make([]byte, 1<<20)); err != nil {
		return "", fmt.Errorf("read model.safetensors: %w", err)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// Close closes the file. No method may be called afterwards.
func (c *Checkpoint) Close() error { return c.close() }
