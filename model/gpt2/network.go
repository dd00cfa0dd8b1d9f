package gpt2

import (
	"fmt"

	"colophon/model/kernel"
)

// A network is the weights of a GPT-2, packed for the kernels.
type network struct {
	Config
	tokens    *kernel.Matrix // Embd to Vocab: the output layer, and by column the embedding
	positions []float32      // [Context, Embd]
	blocks    []block
	final     norm
}

type block struct {
	attention   norm
	qkv         *kernel.Matrix // Embd to 3*Embd: query, key and value, each [Heads, HeadDim]
	projection  *kernel.Matrix // Embd to Embd
	feedForward norm
	up          *kernel.Matrix // Embd to Inner
	down        *kernel.Matrix // Inner to Embd
}

type norm struct{ gain, bias []float32 }

// load packs the weights row by row, so that they are in memory once.
func load(c *Checkpoint) (*network, error) {
	l := loader{checkpoint: c}
	n := &network{Config: c.Config, blocks: make([]block, c.Config.Layers)}
	n.tokens = kernel.NewMatrix(n.Embd, n.Vocab)
	l.each("wte.weight", n.tokens.SetOutput)
	n.positions = l.vector("wpe.weight")
	for i := range n.blocks {
		b := &n.blocks[i]
		b.attention = l.norm(i, "ln_1")
		b.qkv = l.matrix(i, "attn.c_attn", n.Embd, 3*n.Embd)
		b.projection = l.matrix(i, "attn.c_proj", n.Embd, n.Embd)
		b.feedForward = l.norm(i, "ln_2")
		b.up = l.matrix(i, "mlp.c_fc", n.Embd, n.Inner)
		b.down = l.matrix(i, "mlp.c_proj", n.Inner, n.Embd)
	}
	n.final = norm{l.vector("ln_f.weight"), l.vector("ln_f.bias")}
	return n, l.err
}

// A loader reads tensors until there is an error, which it keeps.
type loader struct {
	checkpoint *Checkpoint
	err        error
}

func (l *loader) each(name string, f func(i int, row []float32)) {
	if l.err != nil {
		return
	}
	i := 0
	for row, err := range l.checkpoint.rows(name) {
		if err != nil {
			l.err = err
			return
		}
		f(i, row)
		i++
	}
}

func (l *loader) vector(name string) []float32 {
	if l.err != nil {
		return nil
	}
	var v []float32
	v, l.err = l.checkpoint.Tensor(name)
	return v
}

func (l *loader) norm(layer int, name string) norm {
	return norm{l.vector(fmt.Sprintf("h.%d.%s.weight", layer, name)), l.vector(fmt.Sprintf("h.%d.%s.bias", layer, name))}
}

func (l *loader) matrix(layer int, name string, inputs, outputs int) *kernel.Matrix {
	m := kernel.NewMatrix(inputs, outputs)
	l.each(fmt.Sprintf("h.%d.%s.weight", layer, name), m.SetInput)
	m.SetBias(l.vector(fmt.Sprintf("h.%d.%s.bias", layer, name)))
	return m
}
