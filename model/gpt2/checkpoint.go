package gpt2

import (
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
// of the weights, which are exactly those that the config requires. Values are read on
// demand, so they need not be in memory twice. The files must not change while the
// Checkpoint is open. All methods except Close are safe for concurrent use.
type Checkpoint struct {
	Config Config

	files   []*weightsFile
	tensors map[string]tensor // tensors by their names without the prefix "transformer."
}

// ReadCheckpoint opens config.json and the weights, and checks that they fit together.
// The weights are in model.safetensors, or in the files that model.safetensors.index.json
// names. Tensors may be F64, F32, F16 or BF16, and their names may have the prefix
// "transformer.". The causal-mask buffers of older files are ignored, and tensors of other
// heads than lm_head. If the output layer is tied to the embeddings, the one matrix may be
// wte.weight or lm_head.weight, or both if they are equal.
func ReadCheckpoint(fsys fs.FS) (*Checkpoint, error) {
	config, err := ReadConfig(fsys)
	if err != nil {
		return nil, err
	}
	files, index, err := openWeights(fsys)
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{Config: config, files: files, tensors: map[string]tensor{}}
	if err := c.read(index); err != nil {
		return nil, errors.Join(err, closeAll(files))
	}
	return c, nil
}

// read reads the headers of the files and checks the tensors in them.
func (c *Checkpoint) read(index map[string]string) error {
	var other []string // names of tensors that the network does not have
	for _, f := range c.files {
		tensors, err := readHeader(f.data, f.size)
		if err != nil {
			return fmt.Errorf("read %s: %w", f.name, err)
		}
		for _, t := range tensors {
			t.file = f
			name := strings.TrimPrefix(t.name, "transformer.")
			if isMaskBuffer(name, c.Config.Layers) {
				continue
			}
			if file, ok := index[t.name]; ok && file != f.name {
				return fmt.Errorf("read %s: tensor %q is here, and %s says that it is in %s", f.name, short(t.name), indexName, file)
			}
			if before, ok := c.tensors[name]; ok {
				return fmt.Errorf("read %s: %q and %q are the same tensor", f.name, short(before.name), short(t.name))
			}
			if c.tensors[name] = t; !isPart(name) {
				other = append(other, short(t.name))
			}
		}
	}
	if err := c.chooseOutput(); err != nil {
		return err
	}
	return c.check(other)
}

// isPart reports whether a tensor belongs to the part of a network that this package
// computes. Tensors of other heads do not.
func isPart(name string) bool {
	for _, part := range []string{"wte.", "wpe.", "h.", "ln_f."} {
		if strings.HasPrefix(name, part) {
			return true
		}
	}
	return name == outputName
}

// name returns the names of the files, for errors about all of them.
func (c *Checkpoint) name() string {
	if len(c.files) == 1 {
		return c.files[0].name
	}
	return indexName
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

// check returns an error unless the tensors are exactly those that the config requires,
// apart from those of other heads, which it removes.
func (c *Checkpoint) check(other []string) error {
	var missing, unknown []string
	want := map[string]bool{}
	for name, shape := range c.Config.Tensors() {
		want[name] = true
		t, ok := c.tensors[name]
		if !ok {
			missing = append(missing, name)
			continue
		}
		if err := t.check(shape); err != nil {
			return fmt.Errorf("read %s: %w", t.file.name, err)
		}
	}
	for name, t := range c.tensors {
		switch {
		case want[name]:
		case isPart(name):
			unknown = append(unknown, short(t.name))
		default:
			delete(c.tensors, name)
		}
	}
	if missing != nil { // the names of the others may show why
		unknown = append(unknown, other...)
	}
	slices.Sort(unknown)
	var parts []string
	if missing != nil {
		parts = append(parts, "missing "+list(missing))
	}
	if unknown != nil {
		parts = append(parts, "unknown "+list(unknown))
	}
	if parts != nil {
		return fmt.Errorf("read %s: tensors do not fit config.json: %s", c.name(), strings.Join(parts, "; "))
	}
	return nil
}

// check returns an error unless the tensor has the given shape and a supported type.
func (t tensor) check(shape []int) error {
	if !slices.Equal(t.shape, shape) {
		return fmt.Errorf("tensor %q has shape %v, config.json asks for %v", t.name, t.shape, shape)
	}
	switch t.dtype {
	case "F64", "F32", "F16", "BF16":
		return nil
	}
	return fmt.Errorf("tensor %q is %s, want F64, F32, F16 or BF16", t.name, t.dtype)
}

// list joins names. If there are many, it joins the first few and adds a count.
func list(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// The names of the embeddings and of the weights of an output layer of its own.
const (
	embeddingName = "wte.weight"
	outputName    = "lm_head.weight"
)

// chooseOutput leaves one matrix for the embeddings and the output layer, unless the
// output layer has weights of its own. It returns an error if the file has two that
// differ, and config.json does not say that they may.
func (c *Checkpoint) chooseOutput() error {
	head, ok := c.tensors[outputName]
	if !ok || c.Config.Untied {
		return nil
	}
	embedding, ok := c.tensors[embeddingName]
	if !ok {
		c.tensors[embeddingName] = head
		delete(c.tensors, outputName)
		return nil
	}
	shape := []int{c.Config.Vocab, c.Config.Embd}
	for _, t := range []tensor{embedding, head} {
		if err := t.check(shape); err != nil {
			return fmt.Errorf("read %s: %w", t.file.name, err)
		}
	}
	if err := c.checkTied(); err != nil {
		return fmt.Errorf("read %s: %w", head.file.name, err)
	}
	delete(c.tensors, outputName)
	return nil
}

// checkTied returns an error if the output layer differs from the embeddings.
func (c *Checkpoint) checkTied() error {
	const some = 64
	var head, tokens buffer
	for i := 0; i < c.Config.Vocab; i += some {
		a, err := c.rows(outputName, i, min(i+some, c.Config.Vocab), &head)
		if err != nil {
			return err
		}
		b, err := c.rows(embeddingName, i, min(i+some, c.Config.Vocab), &tokens)
		if err != nil {
			return err
		}
		for i := range a {
			if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
				return errors.New("lm_head.weight differs from wte.weight, and versions of transformers disagree which of them counts: set tie_word_embeddings to false in config.json to use both, or remove lm_head.weight")
			}
		}
	}
	return nil
}

// Tensors yields the name and shape of every tensor of a network in the order of the
// forward pass. Matrices have the shape [inputs, outputs]. The embeddings are
// wte.weight [Vocab, Embd] and wpe.weight [Context, Embd]. If the network is Untied, the
// last tensor is lm_head.weight [Vocab, Embd].
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
		if !yield(embeddingName, []int{c.Vocab, d}) || !yield("wpe.weight", []int{c.Context, d}) {
			return
		}
		for l := range c.Layers {
			for _, e := range block {
				if !yield(fmt.Sprintf("h.%d.%s", l, e.name), e.shape) {
					return
				}
			}
		}
		if yield("ln_f.weight", []int{d}) && yield("ln_f.bias", []int{d}) && c.Untied {
			yield(outputName, []int{c.Vocab, d})
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
	if _, err := io.ReadFull(io.NewSectionReader(t.file.data, at, int64(len(raw))), raw); err != nil {
		return nil, fmt.Errorf("read tensor %q: %w", t.name, err)
	}
	decode(values, t.dtype, raw)
	return values, nil
}

// Digest reads all weights and returns their digest, as [JoinDigests] defines it.
func (c *Checkpoint) Digest() (string, error) { return digestOf(c.files) }

// DTypes returns the types of the tensors, such as "F32", in order.
func (c *Checkpoint) DTypes() []string {
	var types []string
	for _, t := range c.tensors {
		types = append(types, t.dtype)
	}
	slices.Sort(types)
	return slices.Compact(types)
}

// Close closes the files. No method may be called afterwards.
func (c *Checkpoint) Close() error { return closeAll(c.files) }
