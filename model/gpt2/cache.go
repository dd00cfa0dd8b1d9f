package gpt2

import "colophon/model/kernel"

// pageTokens is the number of tokens whose keys and values fit into a page of the KV
// cache.
const pageTokens = 4 * kernel.Width

// A cache is the paged KV cache of one sequence. In a page, each head of each
// layer has
//
//	keys   [pageTokens/Width, HeadDim, Width]: panels of Width tokens, which
//	       a query multiplies
//	values [HeadDim/Width rounded up, pageTokens, Width]: panels of Width
//	       dimensions, which the attention weights multiply
//
// The keys and values are float32 if the weights are float32, and otherwise binary16.
type cache struct {
	pages  []*kernel.Panels
	tokens int // number of tokens whose keys and values are in the cache
}

// A layout computes where the keys and values of a head begin in a page of the KV
// cache.
type layout struct {
	format         kernel.Format
	heads, headDim int
	valuePanels    int // number of panels that hold the values of one head
	perHead        int // number of elements that one head of one layer has in a page
	total          int // number of elements in a page
}

// valuePanel is the number of elements in one panel of values.
const valuePanel = pageTokens * kernel.Width

func newLayout(c Config, f kernel.Format) layout {
	l := layout{format: f, heads: c.Heads, headDim: c.HeadDim()}
	l.valuePanels = (l.headDim + kernel.Width - 1) / kernel.Width
	l.perHead = pageTokens*l.headDim + l.valuePanels*valuePanel
	l.total = c.Layers * c.Heads * l.perHead
	return l
}

// newPage allocates a page of the KV cache.
func (l *layout) newPage() *kernel.Panels { return kernel.NewPanels(l.format, l.total) }

// pageBytes returns the size of a page in bytes.
func (l *layout) pageBytes() int64 {
	if l.format == kernel.F32 {
		return 4 * int64(l.total)
	}
	return 2 * int64(l.total)
}

// keys returns the index of the first panel of keys of a head.
func (l *layout) keys(layer, head int) int { return (layer*l.heads + head) * l.perHead }

// values returns the index of the first panel of values of a head.
func (l *layout) values(layer, head int) int { return l.keys(layer, head) + pageTokens*l.headDim }

// store writes the key and the value of one head for the token at a position. The key
// and the value have headDim elements each.
func (l *layout) store(c *cache, position, layer, head int, key, value []float32) {
	p, at := c.pages[position/pageTokens], position%pageTokens
	p.Set(l.keys(layer, head)+at/kernel.Width*l.headDim*kernel.Width+at%kernel.Width, kernel.Width, key)
	for d := 0; d < l.headDim; d += kernel.Width {
		n := min(kernel.Width, l.headDim-d)
		p.Set(l.values(layer, head)+d/kernel.Width*valuePanel+at*kernel.Width, 1, value[d:d+n])
	}
}
