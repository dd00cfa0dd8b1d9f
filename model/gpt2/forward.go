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
	logits   []float32 // [Vocab], where the logits go, or nil
}

// A forward computes rows of any sequences together. A row sees the rows of
// its own sequence before it, in the cache or among those it comes with; what
// is computed for it depends on those alone.
type forward struct {
	*network
	layout layout
	pool   *kernel.Pool
	body   func(worker, lo, hi int) // compute, as a value made once

	rows   []row
	wanted []int // the rows whose logits are wanted
	runs   []run
	apart  bool // no two runs are of one sequence
	layer  int
	phase  phase
	lap    time.Time // when the last phase ended
	times  Times

	x      []float32     // [rows, Embd]: the residual stream
	h      *kernel.Input // [rows, Embd]: normalised, or the outcome of attention
	qkv    []float32     // [rows, stride of qkv]
	up     *kernel.Input // [rows, Inner], with the stride of up
	y      []float32     // [rows, stride of projection and down]: what is added to x
	logits []float32     // [wanted, stride of tokens]
	heads  []head        // by worker
}

// A phase is a part of the computation whose results are independent of each
// other.
type phase int

const (
	embed          phase = iota // over rows
	normAttention               // over rows
	multiplyQKV                 // over panels
	store                       // over rows, where a sequence has several runs
	attend                      // over heads of runs
	prepareAttend               // over rows
	project                     // over panels
	normUp                      // over rows
	multiplyUp                  // over panels
	prepareUp                   // over rows
	multiplyDown                // over panels
	normOutput                  // over wanted rows
	multiplyOutput              // over panels
	handOut                     // over wanted rows
)

// Times says where the time of steps has gone. What one step computes serially
// and what it leaves to all threads counts alike: how long it took.
type Times struct {
	Steps     int
	Products  time.Duration // with the weights; biases, GELU and residual sums go along
	Attention time.Duration // keys and values, stored ones and their use
	Rows      time.Duration // embedding, normalising, quantising and handing out
}

// newForward prepares for at most rows rows at a time, wanted of them with logits.
func newForward(n *network, pool *kernel.Pool, rows, wanted int) *forward {
	b := &n.blocks[0]
	f := &forward{
		network: n,
		layout:  newLayout(n.Config, n.format),
		pool:    pool,
		rows:    make([]row, 0, rows),
		wanted:  make([]int, 0, rows),
		runs:    make([]run, 0, rows),
		x:       make([]float32, rows*n.Embd),
		h:       kernel.NewInput(n.format, rows, n.Embd, n.Embd),
		qkv:     make([]float32, rows*b.qkv.Stride()),
		up:      kernel.NewInput(n.format, rows, n.Inner, b.up.Stride()),
		y:       make([]float32, rows*b.down.Stride()),
		logits:  make([]float32, wanted*n.tokens.Stride()),
		heads:   make([]head, pool.Threads()),
	}
	for i := range f.heads {
		f.heads[i] = newHead(n.Config, &f.layout)
	}
	f.body = f.compute
	return f
}

// run computes f.rows: their keys and values go into the caches, whose pages
// must be there, and the logits where they are wanted.
func (f *forward) run() {
	f.times.Steps++
	f.lap = time.Now()
	f.start()
	for f.layer = range f.blocks {
		f.block()
		runtime.Gosched() // a step is long for whoever waits for this thread
	}
	f.output()
}

// start fills the residual stream.
func (f *forward) start() {
	f.runs, f.apart = f.runs[:0], true
	for i, r := range f.rows {
		if n := len(f.runs) - 1; n >= 0 && f.runs[n].rows < maxRun {
			first := f.rows[f.runs[n].first]
			if first.cache == r.cache && first.position+f.runs[n].rows == r.position {
				f.runs[n].rows++
				continue
			}
		}
		if i > 0 && f.rows[i-1].cache == r.cache {
			f.apart = false
		}
		f.runs = append(f.runs, run{i, 1})
	}
	f.overRows(embed, len(f.rows))
}

func (f *forward) block() {
	b := &f.blocks[f.layer]
	f.overRows(normAttention, len(f.rows))
	f.overPanels(multiplyQKV, b.qkv)
	if !f.apart { // or else attend does it: no other run waits for it
		f.overRows(store, len(f.rows))
	}
	f.over(attend, len(f.runs)*f.Heads, 1)
	f.overRows(prepareAttend, len(f.rows))
	f.overPanels(project, b.projection)
	f.overRows(normUp, len(f.rows))
	f.overPanels(multiplyUp, b.up)
	f.overRows(prepareUp, len(f.rows))
	f.overPanels(multiplyDown, b.down)
}

func (f *forward) output() {
	f.wanted = f.wanted[:0]
	for i, r := range f.rows {
		if r.logits != nil {
			f.wanted = append(f.wanted, i)
		}
	}
	f.overRows(normOutput, len(f.wanted))
	f.overPanels(multiplyOutput, f.tokens)
	f.overRows(handOut, len(f.wanted))
}

func (f *forward) overRows(p phase, rows int) { f.over(p, rows, 4) }

// overPanels splits panels into ranges that are multiples of four, which the
// kernels like best, and short, so that no thread waits long for the last.
func (f *forward) overPanels(p phase, m *kernel.Matrix) {
	f.over(p, m.Panels(), min(max(m.Panels()/(8*f.pool.Threads())&^3, 4), 16))
}

// over computes a phase, in ranges of 0 to n-1.
func (f *forward) over(p phase, n, chunk int) {
	f.phase = p
	f.pool.Run(n, chunk, f.body)
	now := time.Now()
	took := now.Sub(f.lap)
	f.lap = now
	switch p {
	case multiplyQKV, project, multiplyUp, multiplyDown, multiplyOutput:
		f.times.Products += took
	case store, attend:
		f.times.Attention += took
	default:
		f.times.Rows += took
	}
}

// compute does a range of a phase.
func (f *forward) compute(worker, lo, hi int) {
	b := &f.blocks[f.layer]
	switch f.phase {
	case embed:
		for i := lo; i < hi; i++ {
			x, r := f.x[i*f.Embd:][:f.Embd], &f.rows[i]
			f.tokens.Output(r.token, x)
			kernel.Add(x, f.positions[r.position*f.Embd:][:f.Embd])
		}
	case normAttention:
		f.normalize(&b.attention, lo, hi)
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
			f.attend(&f.heads[worker], f.runs[i/f.Heads], i%f.Heads)
		}
	case prepareAttend:
		f.h.Prepare(lo, hi)
	case project:
		b.projection.Multiply(f.y, f.h, len(f.rows), lo, hi)
		f.add(b.projection, lo, hi)
	case normUp:
		f.normalize(&b.feedForward, lo, hi)
	case multiplyUp:
		b.up.Multiply(f.up.Floats, f.h, len(f.rows), lo, hi)
		for i := range f.rows {
			kernel.GELU(f.up.Floats[i*f.up.Stride:][lo*kernel.Width : hi*kernel.Width])
		}
	case prepareUp:
		f.up.Prepare(lo, hi)
	case multiplyDown:
		b.down.Multiply(f.y, f.up, len(f.rows), lo, hi)
		f.add(b.down, lo, hi)
	case normOutput:
		for i := lo; i < hi; i++ {
			x := f.x[f.wanted[i]*f.Embd:][:f.Embd]
			kernel.Normalize(f.h.Row(i), x, f.final.gain, f.final.bias, f.Epsilon)
		}
		f.h.Prepare(lo, hi)
	case multiplyOutput:
		f.tokens.Multiply(f.logits, f.h, len(f.wanted), lo, hi)
	case handOut:
		for i := lo; i < hi; i++ {
			copy(f.rows[f.wanted[i]].logits, f.logits[i*f.tokens.Stride():][:f.Vocab])
		}
	}
}

func (f *forward) normalize(n *norm, lo, hi int) {
	for i := lo; i < hi; i++ {
		kernel.Normalize(f.h.Row(i), f.x[i*f.Embd:][:f.Embd], n.gain, n.bias, f.Epsilon)
	}
	f.h.Prepare(lo, hi)
}

// store puts one head's key and value of a row into the cache.
func (f *forward) store(row, head int) {
	r, dim, qkv := &f.rows[row], f.layout.headDim, f.qkv[row*f.blocks[f.layer].qkv.Stride():]
	f.layout.store(r.cache, r.position, f.layer, head, qkv[f.Embd+head*dim:][:dim], qkv[2*f.Embd+head*dim:][:dim])
}

// add adds the outputs of some panels of m, in y, to the residual stream.
func (f *forward) add(m *kernel.Matrix, lo, hi int) {
	lo, hi = lo*kernel.Width, min(hi*kernel.Width, m.Outputs())
	for i := range f.rows {
		kernel.Add(f.x[i*f.Embd:][lo:hi], f.y[i*m.Stride():][lo:hi])
	}
}
