package gpt2

import (
	"runtime"
	"time"

	"colophon/model/kernel"
)

// A row is one token of one sequence on its way through the network.
type row struct {
	cache    *cache
	position int
	token    int
	logits   []float32 // destination of the row's logits, of shape [Vocab]; nil if the caller does not want them
}

// A forward computes a forward pass over rows of any sequences together. A row attends
// to the earlier positions of its own sequence, which are in the cache or among the
// rows. The result of a row depends on nothing else.
type forward struct {
	*network
	layout layout
	pool   *kernel.Pool
	body   func(worker, lo, hi int) // the method value f.compute, created once to save allocations

	rows        []row
	wanted      []int // indexes of the rows whose logits are wanted
	spans       []span
	oneSpanEach bool // true if no sequence has two spans
	layer       int
	phase       phase
	phaseEnd    time.Time // end of the last phase
	times       Times

	x      []float32     // residual stream, of shape [rows, Embd]
	h      *kernel.Input // output of a layer norm or of attention, of shape [rows, Embd]
	qkv    []float32     // queries, keys and values, of shape [rows, stride of qkv]
	up     *kernel.Input // inner part of the feed-forward layer, of shape [rows, Inner], with the stride of up
	y      []float32     // output of attention or of the feed-forward layer, of shape [rows, stride of projection and down]
	logits []float32     // logits of the wanted rows, of shape [wanted, stride of lmHead]
	heads  []head        // working memory for attention, one for each worker

	activate func([]float32) // activation function
}

// A phase is a part of the forward pass. The results of a phase do not depend on each
// other, so threads compute them in parallel.
type phase int

const (
	embed          phase = iota // in parallel over rows
	normAttention               // in parallel over rows
	multiplyQKV                 // in parallel over panels
	store                       // in parallel over rows; only if a sequence has several spans
	attend                      // in parallel over the heads of spans
	prepareAttend               // in parallel over rows
	project                     // in parallel over panels
	normUp                      // in parallel over rows
	multiplyUp                  // in parallel over panels
	prepareUp                   // in parallel over rows
	multiplyDown                // in parallel over panels
	normOutput                  // in parallel over the wanted rows
	multiplyOutput              // in parallel over panels
	copyLogits                  // in parallel over the wanted rows
)

// Times is the total wall-clock time of an engine's steps, by part of the forward pass.
type Times struct {
	Steps     int           // number of steps
	Products  time.Duration // products with weights, including biases, GELU and residual additions
	Attention time.Duration // storing keys and values, and attention
	Rows      time.Duration // embedding, layer norms, quantising and copying logits
}

// newForward returns a forward for at most the given number of rows. It has memory for the
// logits of the given number of wanted rows, and gets more when a step wants more.
func newForward(n *network, pool *kernel.Pool, rows, wanted int) *forward {
	b := &n.blocks[0]
	f := &forward{
		network: n,
		layout:  newLayout(n.Config, n.format),
		pool:    pool,
		rows:    make([]row, 0, rows),
		wanted:  make([]int, 0, rows),
		spans:   make([]span, 0, rows),
		x:       make([]float32, rows*n.Embd),
		h:       kernel.NewInput(n.format, rows, n.Embd, n.Embd),
		qkv:     make([]float32, rows*b.qkv.Stride()),
		up:      kernel.NewInput(n.format, rows, n.Inner, b.up.Stride()),
		y:       make([]float32, rows*b.down.Stride()),
		logits:  make([]float32, wanted*n.lmHead.Stride()),
		heads:   make([]head, pool.Threads()),

		activate: [...]func([]float32){GELUTanh: kernel.GELU, GELU: kernel.ExactGELU, ReLU: kernel.ReLU, SiLU: kernel.SiLU, Tanh: kernel.Tanh}[n.Activation],
	}
	for i := range f.heads {
		f.heads[i] = newHead(n.Config, &f.layout)
	}
	f.body = f.compute
	return f
}

// run computes f.rows. It stores the keys and values of the rows in their caches, which
// must have pages for them. It writes the logits of the rows whose logits are wanted.
func (f *forward) run() {
	f.times.Steps++
	f.phaseEnd = time.Now()
	f.start()
	for f.layer = range f.blocks {
		f.block()
		runtime.Gosched() // lets other goroutines run, so that they need not wait for a whole step
	}
	f.output()
}

// start divides the rows into spans and fills the residual stream with the sums
// of token and position embeddings.
func (f *forward) start() {
	f.spans, f.oneSpanEach = f.spans[:0], true
	for i, r := range f.rows {
		if n := len(f.spans) - 1; n >= 0 && f.spans[n].rows < maxSpan {
			first := f.rows[f.spans[n].first]
			if first.cache == r.cache && first.position+f.spans[n].rows == r.position {
				f.spans[n].rows++
				continue
			}
		}
		if i > 0 && f.rows[i-1].cache == r.cache {
			f.oneSpanEach = false
		}
		f.spans = append(f.spans, span{i, 1})
	}
	f.overRows(embed, len(f.rows))
}

// block adds the output of block f.layer to the residual stream.
func (f *forward) block() {
	b := &f.blocks[f.layer]
	f.overRows(normAttention, len(f.rows))
	f.overPanels(multiplyQKV, b.qkv)
	if !f.oneSpanEach { // otherwise attend stores the keys and values, because no other span reads them
		f.overRows(store, len(f.rows))
	}
	f.over(attend, len(f.spans)*f.Heads, 1)
	f.overRows(prepareAttend, len(f.rows))
	f.overPanels(project, b.projection)
	f.overRows(normUp, len(f.rows))
	f.overPanels(multiplyUp, b.up)
	f.overRows(prepareUp, len(f.rows))
	f.overPanels(multiplyDown, b.down)
}

// output computes the logits of the rows whose logits are wanted.
func (f *forward) output() {
	f.wanted = f.wanted[:0]
	for i, r := range f.rows {
		if r.logits != nil {
			f.wanted = append(f.wanted, i)
		}
	}
	if n := len(f.wanted) * f.lmHead.Stride(); n > len(f.logits) {
		f.logits = make([]float32, n)
	}
	f.overRows(normOutput, len(f.wanted))
	f.overPanels(multiplyOutput, f.lmHead)
	f.overRows(copyLogits, len(f.wanted))
}

// overRows computes a phase over the rows. A thread takes four rows at a time.
func (f *forward) overRows(p phase, rows int) { f.over(p, rows, 4) }

// overPanels computes a phase over the panels of m. A thread takes a multiple of four
// panels at a time, because that suits the kernels. It takes few at a time, so that all
// threads finish at about the same time.
func (f *forward) overPanels(p phase, m *kernel.Matrix) {
	f.over(p, m.Panels(), min(max(m.Panels()/(8*f.pool.Threads())&^3, 4), 16))
}

// over computes a phase over the indexes from 0 to n-1, in ranges of chunk indexes. It
// adds the duration of the phase to f.times.
func (f *forward) over(p phase, n, chunk int) {
	f.phase = p
	f.pool.Run(n, chunk, f.body)
	now := time.Now()
	took := now.Sub(f.phaseEnd)
	f.phaseEnd = now
	switch p {
	case multiplyQKV, project, multiplyUp, multiplyDown, multiplyOutput:
		f.times.Products += took
	case store, attend:
		f.times.Attention += took
	default:
		f.times.Rows += took
	}
}

// compute computes the current phase for the indexes from lo to hi-1.
func (f *forward) compute(worker, lo, hi int) {
	b := &f.blocks[f.layer]
	switch f.phase {
	case embed:
		for i := lo; i < hi; i++ {
			x, r := f.x[i*f.Embd:][:f.Embd], &f.rows[i]
			f.embedding.Output(r.token, x)
			kernel.Add(x, f.positions[r.position*f.Embd:][:f.Embd])
		}
	case normAttention:
		f.normalize(&b.attentionNorm, lo, hi)
	case multiplyQKV:
		b.qkv.Multiply(f.qkv, f.h, len(f.rows), lo, hi)
	case store:
		for i := lo; i < hi; i++ {
			for head := range f.Heads {
				f.store(i, head)
			}
		}
	case attend:
		for i := lo; i < hi; i++ {
			f.attend(&f.heads[worker], f.spans[i/f.Heads], i%f.Heads)
		}
	case prepareAttend:
		f.h.Prepare(lo, hi)
	case project:
		b.projection.Multiply(f.y, f.h, len(f.rows), lo, hi)
		f.add(b.projection, lo, hi)
	case normUp:
		f.normalize(&b.feedForwardNorm, lo, hi)
	case multiplyUp:
		b.up.Multiply(f.up.Floats, f.h, len(f.rows), lo, hi)
		for i := range f.rows {
			f.activate(f.up.Floats[i*f.up.Stride:][lo*kernel.Width : hi*kernel.Width])
		}
	case prepareUp:
		f.up.Prepare(lo, hi)
	case multiplyDown:
		b.down.Multiply(f.y, f.up, len(f.rows), lo, hi)
		f.add(b.down, lo, hi)
	case normOutput:
		for i := lo; i < hi; i++ {
			x := f.x[f.wanted[i]*f.Embd:][:f.Embd]
			kernel.Normalize(f.h.Row(i), x, f.finalNorm.gain, f.finalNorm.bias, f.Epsilon)
		}
		f.h.Prepare(lo, hi)
	case multiplyOutput:
		f.lmHead.Multiply(f.logits, f.h, len(f.wanted), lo, hi)
	case copyLogits:
		for i := lo; i < hi; i++ {
			copy(f.rows[f.wanted[i]].logits, f.logits[i*f.lmHead.Stride():][:f.Vocab])
		}
	}
}

// normalize writes the layer norm of the rows from lo to hi-1 to f.h. It prepares these
// rows of f.h for the next product.
func (f *forward) normalize(n *norm, lo, hi int) {
	for i := lo; i < hi; i++ {
		kernel.Normalize(f.h.Row(i), f.x[i*f.Embd:][:f.Embd], n.gain, n.bias, f.Epsilon)
	}
	f.h.Prepare(lo, hi)
}

// store stores the key and value of one head of a row in the cache.
func (f *forward) store(row, head int) {
	r, dim, qkv := &f.rows[row], f.layout.headDim, f.qkv[row*f.blocks[f.layer].qkv.Stride():]
	f.layout.store(r.cache, r.position, f.layer, head, qkv[f.Embd+head*dim:][:dim], qkv[2*f.Embd+head*dim:][:dim])
}

// add adds the outputs of m, which are in f.y, to the residual stream. It does this for
// the panels from lo to hi-1.
func (f *forward) add(m *kernel.Matrix, lo, hi int) {
	lo, hi = lo*kernel.Width, min(hi*kernel.Width, m.Outputs())
	for i := range f.rows {
		kernel.Add(f.x[i*f.Embd:][lo:hi], f.y[i*m.Stride():][lo:hi])
	}
}
