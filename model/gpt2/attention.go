package gpt2

import (
	"math"

	"colophon/model/kernel"
)

// A span is a group of consecutive rows of one sequence. A row is one token. Attention
// computes the rows of a span together, because they read almost the same keys and
// values.
type span struct {
	first, rows int
}

// maxSpan is the largest number of rows in a span.
const maxSpan = 6

// A head is the memory in which a worker computes one attention head for the rows of a
// span.
type head struct {
	queries []float32 // scaled queries, of shape [maxSpan, HeadDim]
	scores  []float32 // attention scores and then weights, of shape [maxSpan, tokens]
	tokens  int       // number of tokens in the context, rounded up to whole pages of the cache
	out     []float32 // outputs, of shape [maxSpan, HeadDim rounded up to panels]
}

func newHead(c Config, l *layout) head {
	tokens := (c.Context + pageTokens - 1) / pageTokens * pageTokens
	return head{
		queries: make([]float32, maxSpan*l.headDim),
		scores:  make([]float32, maxSpan*tokens),
		tokens:  tokens,
		out:     make([]float32, maxSpan*l.valuePanels*kernel.Width),
	}
}

// attend computes one head of a span. For each row it averages the values of the
// sequence up to the position of the row. The weights of the average are the softmax of
// the scaled products of the row's query with the keys.
func (f *forward) attend(s *head, span span, number int) {
	dim, stride := f.layout.headDim, f.blocks[f.layer].qkv.Stride()
	if f.oneSpanEach {
		for r := range span.rows {
			f.store(span.first+r, number)
		}
	}
	first := &f.rows[span.first]
	scale := f.scoreScale(f.layer)
	for r := range span.rows {
		query := f.qkv[(span.first+r)*stride+number*dim:][:dim]
		for d, q := range query {
			s.queries[r*dim+d] = q * scale
		}
	}
	n := first.position + span.rows // number of tokens that the last row attends to
	for r := range span.rows {
		clear(s.scores[r*s.tokens:][:(n+kernel.Width-1)/kernel.Width*kernel.Width])
	}
	at := f.layout.keys(f.layer, number)
	for t := 0; t < n; t += pageTokens {
		panels := (min(pageTokens, n-t) + kernel.Width - 1) / kernel.Width
		first.cache.pages[t/pageTokens].MultiplyAdd(s.scores[t:], s.tokens, s.queries, dim,
			span.rows, dim, at, dim*kernel.Width, panels)
	}
	clear(s.out)
	for r := range span.rows {
		kernel.Softmax(s.scores[r*s.tokens:][:first.position+r+1])
	}
	f.average(s, first.cache, number, 0, span.rows, 0, first.position+1)
	for r := 1; r < span.rows; r++ {
		f.average(s, first.cache, number, r, r+1, first.position+1, first.position+r+1)
	}
	width := f.layout.valuePanels * kernel.Width
	for r := range span.rows {
		copy(f.h.Row(span.first + r)[number*dim:][:dim], s.out[r*width:])
	}
}

// average multiplies the values of the tokens [from, to) by their attention weights, and
// adds the products to the output of the rows [lo, hi).
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

// scoreScale returns the factor for the attention scores of a block.
func (c Config) scoreScale(block int) float32 {
	scale := 1.0
	if !c.Unscaled {
		scale = 1 / math.Sqrt(float64(c.HeadDim()))
	}
	if c.ScaleByLayer {
		scale /= float64(block + 1)
	}
	return float32(scale)
}
