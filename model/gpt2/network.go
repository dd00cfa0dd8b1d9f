package gpt2

import (
	"cmp"
	"fmt"
	"sync"
	"sync/atomic"

	"colophon/model/kernel"
)

// A network has the weights of a GPT-2 model, packed for the kernels.
type network struct {
	Config
	format    kernel.Format
	embedding *kernel.Matrix // Embd inputs and Vocab outputs; column t is the embedding of token t
	lmHead    *kernel.Matrix // weights of the output layer, with Embd inputs and Vocab outputs; the embedding unless the network is Untied
	positions []float32      // position embeddings, of shape [Context, Embd]
	blocks    []block
	finalNorm norm
}

// A block is one transformer block.
type block struct {
	attentionNorm   norm
	qkv             *kernel.Matrix // weights with Embd inputs and 3*Embd outputs, which are the query, key and value, each [Heads, HeadDim]
	projection      *kernel.Matrix // weights of the output of attention, with Embd inputs and Embd outputs
	feedForwardNorm norm
	up              *kernel.Matrix // weights of the first feed-forward layer, with Embd inputs and Inner outputs
	down            *kernel.Matrix // weights of the second feed-forward layer, with Inner inputs and Embd outputs
}

// A norm has the parameters of one layer norm.
type norm struct{ gain, bias []float32 }

// newNetwork returns a network whose weights are zero.
func newNetwork(c Config, f kernel.Format) *network {
	vector := func() []float32 { return make([]float32, c.Embd) }
	n := &network{Config: c, format: f, blocks: make([]block, c.Layers)}
	n.embedding = kernel.NewMatrix(f, c.Embd, c.Vocab)
	n.lmHead = n.embedding
	if c.Untied {
		n.lmHead = kernel.NewMatrix(f, c.Embd, c.Vocab)
	}
	n.positions = make([]float32, c.Context*c.Embd)
	for i := range n.blocks {
		n.blocks[i] = block{
			attentionNorm:   norm{vector(), vector()},
			qkv:             kernel.NewMatrix(f, c.Embd, 3*c.Embd),
			projection:      kernel.NewMatrix(f, c.Embd, c.Embd),
			feedForwardNorm: norm{vector(), vector()},
			up:              kernel.NewMatrix(f, c.Embd, c.Inner),
			down:            kernel.NewMatrix(f, c.Inner, c.Embd),
		}
	}
	n.finalNorm = norm{vector(), vector()}
	return n
}

// load reads and packs the weights on the given number of threads. It reads a few rows
// at a time, so the weights are in memory only once.
func load(c *Checkpoint, f kernel.Format, threads int) (*network, error) {
	n := newNetwork(c.Config, f)
	l := loader{checkpoint: c}
	l.rows(embeddingName, n.Vocab, 1024, n.embedding.SetOutputs)
	if n.Untied {
		l.rows(outputName, n.Vocab, 1024, n.lmHead.SetOutputs)
	}
	l.vector("wpe.weight", into(n.positions))
	for i, b := range n.blocks {
		l.norm(i, "ln_1", b.attentionNorm)
		l.matrix(i, "attn.c_attn", b.qkv)
		l.matrix(i, "attn.c_proj", b.projection)
		l.norm(i, "ln_2", b.feedForwardNorm)
		l.matrix(i, "mlp.c_fc", b.up)
		l.matrix(i, "mlp.c_proj", b.down)
	}
	l.vector("ln_f.weight", into(n.finalNorm.gain))
	l.vector("ln_f.bias", into(n.finalNorm.bias))
	return n, runAll(threads, l.tasks)
}

// matrices yields the weight matrices in the order in which a step multiplies them.
func (n *network) matrices(yield func(*kernel.Matrix) bool) {
	for i := range n.blocks {
		b := &n.blocks[i]
		if !yield(b.qkv) || !yield(b.projection) || !yield(b.up) || !yield(b.down) {
			return
		}
	}
	yield(n.lmHead)
}

// A loader collects tasks that read and pack parts of a checkpoint.
type loader struct {
	checkpoint *Checkpoint
	tasks      []func(*buffer) error
}

// runAll runs tasks in parallel and stops at an error. If several tasks fail, it returns
// the error of the earliest task.
func runAll(threads int, tasks []func(*buffer) error) error {
	errs := make([]error, len(tasks))
	var next atomic.Int64
	var failed atomic.Bool
	var running sync.WaitGroup
	for range threads {
		running.Go(func() {
			var b buffer
			for !failed.Load() {
				i := int(next.Add(1)) - 1
				if i >= len(tasks) {
					return
				}
				if errs[i] = tasks[i](&b); errs[i] != nil {
					failed.Store(true)
				}
			}
		})
	}
	running.Wait()
	return cmp.Or(errs...)
}

// rows adds tasks that read the rows of a matrix and pass them to set, some rows at a
// time. Each task has step rows.
func (l *loader) rows(name string, rows, step int, set func(i int, rows []float32) error) {
	const some = 2 * kernel.Group // number of rows that set gets at a time; i must be a multiple of Group or Width
	for begin := 0; begin < rows; begin += step {
		l.tasks = append(l.tasks, func(b *buffer) error {
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

// vector adds a task that reads a tensor and passes it to set. Like a matrix, it must be finite: a single
// other value makes all logits those of no text.
func (l *loader) vector(name string, set func([]float32)) {
	l.tasks = append(l.tasks, func(*buffer) error {
		values, err := l.checkpoint.Tensor(name)
		if err != nil {
			return err
		}
		for _, v := range values {
			if v-v != 0 { // infinite or NaN
				return fmt.Errorf("tensor %q: value %g is not finite", name, v)
			}
		}
		set(values)
		return nil
	})
}

// into returns a function for vector that copies the values.
func into(to []float32) func([]float32) { return func(values []float32) { copy(to, values) } }

// norm adds tasks that read one layer norm of a block.
func (l *loader) norm(layer int, name string, to norm) {
	l.vector(fmt.Sprintf("h.%d.%s.weight", layer, name), into(to.gain))
	l.vector(fmt.Sprintf("h.%d.%s.bias", layer, name), into(to.bias))
}

// matrix adds tasks that read and pack a matrix of a block, and its bias.
func (l *loader) matrix(layer int, name string, m *kernel.Matrix) {
	l.rows(fmt.Sprintf("h.%d.%s.weight", layer, name), m.Inputs(), m.Inputs(), m.SetInputs)
	l.vector(fmt.Sprintf("h.%d.%s.bias", layer, name), m.SetBias)
}
