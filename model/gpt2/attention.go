package gpt2

import (
	"math"

	"colophon/model/kernel"
)

// A run is rows of one sequence that follow each other: they read the same keys
// and values, but for the last few.
type run struct {
	first, rows int
}

// maxRun is the most rows of a run.
const maxRun = 6

// A head is scratch space for one head of attention of a run.
type head struct {
	queries []float32 // [maxRun, HeadDim]
	scores  []float32 // [maxRun, tokens]
	tokens  int       // Context rounded up to pages
	out     []float32 // [maxRun, HeadDim rounded up to panels]
}

func newHead(c Config, l *layout) head {
	tokens := (c.Context + pageTokens - 1) / pageTokens * pageTokens
	return head{
		queries: make([]float32, maxRun*l.headDim),
		scores:  make([]float32, maxRun*tokens),
		tokens:  tokens,
		out:     make([]float32, maxRun*l.valuePanels*kernel.Width),
	}
}

// attend computes one head of a run: for each row, the average of the values
// of its sequence up to its position, weighted by the softmax of query times
// keys.
func (f *forward) attend(s *head, run run, number int) {
	dim, stride := f.layout.headDim, f.blocks[f.layer].qkv.Stride()
	if f.apart {
		for r := range run.rows {
			f.store(run.first+r, number)
		}
	}
	first := &f.rows[run.first]
	scale := float32(1 / math.Sqrt(float64(dim)))
	for r := range run.rows {
		query := f.qkv[(run.first+r)*stride+number*dim:][:dim]
		for d, q := range query {
			s.queries[r*dim+d] = q * scale
		}
	}
	n := first.position + run.rows // tokens that the last row sees
	for r := range run.rows {
		clear(s.scores[r*s.tokens:][:(n+kernel.Width-1)/kernel.Width*kernel.Width])
	}
	at := f.layout.keys(f.layer, number)
	for t := 0; t < n; t += pageTokens {
		panels := (min(pageTokens, n-t) + kernel.Width - 1) / kernel.Width
		first.cache.pages[t/pageTokens].MultiplyAdd(s.scores[t:], s.tokens, s.queries, dim,
			run.rows, dim, at, dim*kernel.Width, panels)
	}
	clear(s.out)
	for r := range run.rows {
		kernel.Softmax(s.scores[r*s.tokens:][:first.position+r+1])
	}
	f.average(s, first.cache, number, 0, run.rows, 0, first.position+1)
	for r := 1; r < run.rows; r++ {
		f.average(s, first.cache, number, r, r+1, first.position+1, first.position+r+1)
	}
	width := f.layout.valuePanels * kernel.Width
	for r := range run.rows {
		copy(f.h.Row(run.first + r)[number*dim:][:dim], s.out[r*width:])
	}
}

// average adds the values of tokens from up to to, times their weights in rows
// lo up to hi, to the outcome for these rows.
func (f *forward) average(s *head, c *cache, number, lo, hi, from, to int) {
	width := f.layout.valuePanels * kernel.Width
	at := f.layout.values(f.layer, number)
	for from < to {
		n := min(to, (from/pageTokens+1)*pageTokens) - from
		c.pages[from/pageTokens].MultiplyAdd(s.out[lo*width:], width, s.scores[lo*s.tokens+from:], s.tokens,
			hi-lo, n, at+from%pageTokens*kernel.Width, valuePanel, f.layout.valuePanels)
		from += n
	}
}
