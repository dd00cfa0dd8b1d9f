package gpt2

import (
	"math"

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
	layer  int
	phase  phase

	x      []float32 // [rows, Embd]: the residual stream
	h      []float32 // [rows, Embd]: normalised, or the outcome of attention
	qkv    []float32 // [rows, stride of qkv]
	up     []float32 // [rows, stride of up]
	y      []float32 // [rows, stride of projection and down]: what is added to x
	logits []float32 // [wanted, stride of tokens]
	heads  []head    // by worker
}

// A head is scratch space for one head of attention of one row.
type head struct {
	query  []float32 // [HeadDim]
	scores []float32 // [Context rounded up to panels]
}

// A phase is a part of a block whose results are independent of each other.
type phase int

const (
	normAttention  phase = iota // over rows
	multiplyQKV                 // over panels
	attend                      // over heads of rows
	project                     // over panels
	normUp                      // over rows
	multiplyUp                  // over panels
	multiplyDown                // over panels
	normOutput                  // over wanted rows
	multiplyOutput              // over panels
)

// newForward prepares for at most rows rows at a time, wanted of them with logits.
func newForward(n *network, pool *kernel.Pool, rows, wanted int) *forward {
	b := &n.blocks[0]
	f := &forward{
		network: n,
		layout:  newLayout(n.Config),
		pool:    pool,
		rows:    make([]row, 0, rows),
		wanted:  make([]int, 0, rows),
		x:       make([]float32, rows*n.Embd),
		h:       make([]float32, rows*n.Embd),
		qkv:     make([]float32, rows*b.qkv.Stride()),
		up:      make([]float32, rows*b.up.Stride()),
		y:       make([]float32, rows*b.down.Stride()),
		logits:  make([]float32, wanted*n.tokens.Stride()),
		heads:   make([]head, pool.Threads()),
	}
	for i := range f.heads {
		panels := (n.Context + kernel.Width - 1) / kernel.Width
		f.heads[i] = head{make([]float32, n.HeadDim()), make([]float32, panels*kernel.Width)}
	}
	f.body = f.compute
	return f
}

// run computes f.rows: their keys and values go into the caches, whose pages
// must be there, and the logits where they are wanted.
func (f *forward) run() {
	f.embed()
	for f.layer = range f.blocks {
		f.block()
	}
	f.output()
}

func (f *forward) embed() {
	for i, r := range f.rows {
		x := f.x[i*f.Embd:][:f.Embd]
		f.tokens.Output(r.token, x)
		kernel.Add(x, f.positions[r.position*f.Embd:][:f.Embd])
	}
}

func (f *forward) block() {
	b := &f.blocks[f.layer]
	f.overRows(normAttention, len(f.rows))
	f.overPanels(multiplyQKV, b.qkv)
	for i, r := range f.rows {
		qkv := f.qkv[i*b.qkv.Stride():]
		f.layout.store(r.cache, r.position, f.layer, qkv[f.Embd:][:f.Embd], qkv[2*f.Embd:][:f.Embd])
	}
	f.phase = attend
	f.pool.Run(len(f.rows)*f.Heads, 1, f.body)
	f.overPanels(project, b.projection)
	f.overRows(normUp, len(f.rows))
	f.overPanels(multiplyUp, b.up)
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
	for i, w := range f.wanted {
		copy(f.rows[w].logits, f.logits[i*f.tokens.Stride():][:f.Vocab])
	}
}

func (f *forward) overRows(p phase, rows int) {
	f.phase = p
	f.pool.Run(rows, 4, f.body)
}

func (f *forward) overPanels(p phase, m *kernel.Matrix) {
	f.phase = p
	f.pool.Run(m.Panels(), max(1, m.Panels()/(8*f.pool.Threads())), f.body)
}

// compute does a range of a phase.
func (f *forward) compute(worker, lo, hi int) {
	b := &f.blocks[f.layer]
	switch f.phase {
	case normAttention:
		f.normalize(&b.attention, lo, hi)
	case multiplyQKV:
		b.qkv.Multiply(f.qkv, f.h, f.Embd, len(f.rows), lo, hi)
	case attend:
		for i := lo; i < hi; i++ {
			f.attend(&f.heads[worker], i/f.Heads, i%f.Heads)
		}
	case project:
		b.projection.Multiply(f.y, f.h, f.Embd, len(f.rows), lo, hi)
		f.add(b.projection, lo, hi)
	case normUp:
		f.normalize(&b.feedForward, lo, hi)
	case multiplyUp:
		b.up.Multiply(f.up, f.h, f.Embd, len(f.rows), lo, hi)
		for i := range f.rows {
			row := f.up[i*b.up.Stride():][:b.up.Stride()]
			kernel.GELU(row[lo*kernel.Width : hi*kernel.Width])
		}
	case multiplyDown:
		b.down.Multiply(f.y, f.up, b.up.Stride(), len(f.rows), lo, hi)
		f.add(b.down, lo, hi)
	case normOutput:
		for i := lo; i < hi; i++ {
			x := f.x[f.wanted[i]*f.Embd:][:f.Embd]
			kernel.Normalize(f.h[i*f.Embd:], x, f.final.gain, f.final.bias, f.Epsilon)
		}
	case multiplyOutput:
		f.tokens.Multiply(f.logits, f.h, f.Embd, len(f.wanted), lo, hi)
	}
}

func (f *forward) normalize(n *norm, lo, hi int) {
	for i := lo; i < hi; i++ {
		kernel.Normalize(f.h[i*f.Embd:], f.x[i*f.Embd:][:f.Embd], n.gain, n.bias, f.Epsilon)
	}
}

// add adds the outputs of some panels of m, in y, to the residual stream.
func (f *forward) add(m *kernel.Matrix, lo, hi int) {
	lo, hi = lo*kernel.Width, min(hi*kernel.Width, m.Outputs())
	for i := range f.rows {
		kernel.Add(f.x[i*f.Embd:][lo:hi], f.y[i*m.Stride():][lo:hi])
	}
}

// attend computes one head of one row: the average of the values of its
// sequence up to its position, weighted by the softmax of query times keys.
func (f *forward) attend(s *head, row, number int) {
	r, dim := &f.rows[row], f.layout.headDim
	scale := float32(1 / math.Sqrt(float64(dim)))
	query := f.qkv[row*f.blocks[f.layer].qkv.Stride()+number*dim:][:dim]
	for d, q := range query {
		s.query[d] = q * scale
	}
	n := r.position + 1
	for t := 0; t < n; t += kernel.Width {
		keys := f.layout.keys(r.cache.pages[t/pageTokens], f.layer, number)
		sums := (*[kernel.Width]float32)(s.scores[t:])
		*sums = [kernel.Width]float32{}
		kernel.MultiplyAdd(sums, s.query, keys[t%pageTokens*dim:])
	}
	scores := s.scores[:n]
	kernel.Softmax(scores)
	out := f.h[row*f.Embd+number*dim:][:dim]
	for p := range f.layout.valuePanels {
		var sums [kernel.Width]float32
		for t := 0; t < n; t += pageTokens {
			values := f.layout.panel(r.cache.pages[t/pageTokens], f.layer, number, p)
			kernel.MultiplyAdd(&sums, scores[t:min(t+pageTokens, n)], values)
		}
		copy(out[p*kernel.Width:], sums[:])
	}
}
