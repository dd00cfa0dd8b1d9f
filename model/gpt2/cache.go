package gpt2

import "colophon/model/kernel"

// pageTokens is the number of tokens whose keys and values are in a page.
const pageTokens = 4 * kernel.Width

// A cache holds the keys and values of the tokens of one sequence, in pages of
// pageTokens tokens. In a page, each layer and each of its heads has
//
//	keys   [pageTokens/Width, HeadDim, Width]: panels of Width tokens, to be
//	       multiplied by a query
//	values [HeadDim/Width rounded up, pageTokens, Width]: panels of Width
//	       dimensions, to be multiplied by the weights of the tokens
type cache struct {
	pages  []page
	tokens int // how many have been computed
}

type page []float32

// A layout says where in a page things are.
type layout struct {
	heads, headDim int
	valuePanels    int // panels of values per head
	perHead        int // floats of one head of one layer
	total          int // floats of a page
}

func newLayout(c Config) layout {
	l := layout{heads: c.Heads, headDim: c.HeadDim()}
	l.valuePanels = (l.headDim + kernel.Width - 1) / kernel.Width
	l.perHead = pageTokens*l.headDim + pageTokens*l.valuePanels*kernel.Width
	l.total = c.Layers * c.Heads * l.perHead
	return l
}

// keys returns the keys of a head of a layer in a page.
func (l *layout) keys(p page, layer, head int) []float32 {
	at := (layer*l.heads + head) * l.perHead
	return p[at:][:pageTokens*l.headDim]
}

// panel returns the values of a panel of dimensions of a head of a layer.
func (l *layout) panel(p page, layer, head, panel int) []float32 {
	at := (layer*l.heads+head)*l.perHead + pageTokens*l.headDim + panel*pageTokens*kernel.Width
	return p[at:][:pageTokens*kernel.Width]
}

// store writes the key and the value of the token at a position, both
// [heads, headDim].
func (l *layout) store(c *cache, position, layer int, key, value []float32) {
	p, at := c.pages[position/pageTokens], position%pageTokens
	for head := range l.heads {
		keys := l.keys(p, layer, head)[at/kernel.Width*l.headDim*kernel.Width+at%kernel.Width:]
		for d, v := range key[head*l.headDim:][:l.headDim] {
			keys[d*kernel.Width] = v
		}
		for d := 0; d < l.headDim; d += kernel.Width {
			n := min(kernel.Width, l.headDim-d)
			copy(l.panel(p, layer, head, d/kernel.Width)[at*kernel.Width:], value[head*l.headDim+d:][:n])
		}
	}
}
