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
//
// They are halves, except beside weights that are float32.
type cache struct {
	pages  []*kernel.Panels
	tokens int // how many have been computed
}

// A layout says where in a page things are.
type layout struct {
	format         kernel.Format
	heads, headDim int
	valuePanels    int // panels of values per head
	perHead        int // numbers of one head of one layer
	total          int // numbers of a page
}

func newLayout(c Config, f kernel.Format) layout {
	l := layout{format: f, heads: c.Heads, headDim: c.HeadDim()}
	l.valuePanels = (l.headDim + kernel.Width - 1) / kernel.Width
	l.perHead = pageTokens*l.headDim + pageTokens*l.valuePanels*kernel.Width
	l.total = c.Layers * c.Heads * l.perHead
	return l
}

// newPage returns room for the keys and values of pageTokens tokens.
func (l *layout) newPage() *kernel.Panels { return kernel.NewPanels(l.format, l.total) }

// keys returns where the first panel of keys of a head of a layer is in a page.
func (l *layout) keys(layer, head int) int { return (layer*l.heads + head) * l.perHead }

// values returns where the first panel of values of a head of a layer is.
func (l *layout) values(layer, head int) int { return l.keys(layer, head) + pageTokens*l.headDim }

const (
	keyPanels  = pageTokens / kernel.Width
	valuePanel = pageTokens * kernel.Width // numbers in a panel of values
)

// store writes a head's key and value of the token at a position, both [headDim].
func (l *layout) store(c *cache, position, layer, head int, key, value []float32) {
	p, at := c.pages[position/pageTokens], position%pageTokens
	p.Set(l.keys(layer, head)+at/kernel.Width*l.headDim*kernel.Width+at%kernel.Width, kernel.Width, key)
	for d := 0; d < l.headDim; d += kernel.Width {
		n := min(kernel.Width, l.headDim-d)
		p.Set(l.values(layer, head)+d/kernel.Width*valuePanel+at*kernel.Width, 1, value[d:d+n])
	}
}
