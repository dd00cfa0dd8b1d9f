package gpt2

import (
	"cmp"
	"fmt"
	"sync"
	"sync/atomic"

	"colophon/model/kernel"
)

// A network is the weights of a GPT-2, packed for the kernels.
type network struct {
	Config
	format    kernel.Format
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

// load packs the weights on some threads, a piece at a time, so that they are
// in memory once.
func load(c *Checkpoint, f kernel.Format, threads int) (*network, error) {
	n := &network{Config: c.Config, format: f, blocks: make([]block, c.Config.Layers)}
	l := loader{checkpoint: c}
	n.tokens = kernel.NewMatrix(f, n.Embd, n.Vocab)
	l.rows("wte.weight", n.Vocab, 1024, n.tokens.SetOutputs)
	l.vector("wpe.weight", &n.positions)
	for i := range n.blocks {
		b := &n.blocks[i]
		l.norm(i, "ln_1", &b.attention)
		b.qkv = l.matrix(f, i, "attn.c_attn", n.Embd, 3*n.Embd)
		b.projection = l.matrix(f, i, "attn.c_proj", n.Embd, n.Embd)
		l.norm(i, "ln_2", &b.feedForward)
		b.up = l.matrix(f, i, "mlp.c_fc", n.Embd, n.Inner)
		b.down = l.matrix(f, i, "mlp.c_proj", n.Inner, n.Embd)
	}
	l.vector("ln_f.weight", &n.final.gain)
	l.vector("ln_f.bias", &n.final.bias)
	return n, l.run(threads)
}

// matrices yields the matrices in the order in which a step multiplies them.
func (n *network) matrices(yield func(*kernel.Matrix) bool) {
	for i := range n.blocks {
		b := &n.blocks[i]
		if !yield(b.qkv) || !yield(b.projection) || !yield(b.up) || !yield(b.down) {
			return
		}
	}
	yield(n.tokens)
}

// A loader has the pieces of work that loading is.
type loader struct {
	checkpoint *Checkpoint
	pieces     []func(*buffer) error
}

// run does all the work. Of several errors it returns the first in the order
// of the pieces, with which it stops.
func (l *loader) run(threads int) error {
	errs := make([]error, len(l.pieces))
	var next atomic.Int64
	var failed atomic.Bool
	var running sync.WaitGroup
	for range threads {
		running.Go(func() {
			var b buffer
			for !failed.Load() {
				i := int(next.Add(1)) - 1
				if i >= len(l.pieces) {
					return
				}
				if errs[i] = l.pieces[i](&b); errs[i] != nil {
					failed.Store(true)
				}
			}
		})
	}
	running.Wait()
	return cmp.Or(errs...)
}

// rows passes the rows of a matrix to set, some at a time. Every step of them
// is a piece of work.
func (l *loader) rows(name string, rows, step int, set func(i int, rows []float32) error) {
	const some = 2 * kernel.Group // a multiple of what matrices want, as step is
	for begin := 0; begin < rows; begin += step {
		l.pieces = append(l.pieces, func(b *buffer) error {
			end := min(begin+step, rows)
			for i := begin; i < end; i += some {
				values, err := l.checkpoint.rows(name, i, min(i+some, end), b)
				if err != nil {
					return err
				}
				if err := set(i, values); err != nil {
					return fmt.Errorf("tensor %q: %w", name, err)
				}
			}
			return nil
		})
	}
}

func (l *loader) vector(name string, to *[]float32) {
	l.pieces = append(l.pieces, func(*buffer) (err error) {
		*to, err = l.checkpoint.Tensor(name)
		return err
	})
}

func (l *loader) norm(layer int, name string, to *norm) {
	l.vector(fmt.Sprintf("h.%d.%s.weight", layer, name), &to.gain)
	l.vector(fmt.Sprintf("h.%d.%s.bias", layer, name), &to.bias)
}

func (l *loader) matrix(f kernel.Format, layer int, name string, inputs, outputs int) *kernel.Matrix {
	m := kernel.NewMatrix(f, inputs, outputs)
	l.rows(fmt.Sprintf("h.%d.%s.weight", layer, name), inputs, inputs, m.SetInputs)
	bias := fmt.Sprintf("h.%d.%s.bias", layer, name)
	l.pieces = append(l.pieces, func(*buffer) error {
		v, err := l.checkpoint.Tensor(bias)
		if err == nil {
			m.SetBias(v)
		}
		return err
	})
	return m
}
