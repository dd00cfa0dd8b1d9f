package watermark

import (
	"math"

	"colophon/model"
	"colophon/model/exact"
)

// A window is the context of a token: the tokens before it, on which its noise depends.
type window [width]int

// windowAt returns the context of token i of a text. ok is false if the token carries no
// mark: if fewer tokens precede it, or if an earlier token has the same context.
func windowAt(tokens []int, i int) (w window, ok bool) {
	if i < width {
		return w, false
	}
	w = window(tokens[i-width : i])
	for j := width; j < i; j++ {
		if window(tokens[j-width:j]) == w {
			return w, false
		}
	}
	return w, true
}

// Chooser returns the chooser of the text with this seed and prompt. It has scratch space,
// so only one goroutine at a time may use it. The sampler does not ask it with temperature
// 0, so such a text has no mark.
//
// A call takes time in proportion to the length of the text and to the number of
// candidates. The scratch space has at most eight bytes for each token id, half of the
// sampler's own.
func (k Key) Chooser(seed uint64, prompt []int) model.Chooser {
	salt := k.salt(seed, prompt)
	var scratch []byte
	return func(generated []int, candidates []model.Candidate) (token int, ok bool) {
		w, ok := windowAt(generated, len(generated))
		if !ok {
			return 0, false
		}
		token, scratch = choose(k.noise(salt, w), candidates, scratch)
		return token, true
	}
}

// sparse is the number of times by which the numbers of one token cost more, computed
// alone, than in a stream. It decides only how numbers are computed.
const sparse = 32

// choose returns the candidate with the least -exact.Ln(u)/weight; of equals, the one with the
// lowest id. It also returns its scratch space for the next call.
func choose(n *noise, candidates []model.Candidate, scratch []byte) (int, []byte) {
	span := 0
	for _, c := range candidates {
		span = max(span, c.Token()+1)
	}
	dense := span < sparse*len(candidates)
	if dense {
		scratch = n.stream(scratch, span)
	}
	best, least := -1, math.Inf(1)
	for _, c := range candidates {
		weight := float64(int64(c.Weight()))
		if weight == 0 {
			continue
		}
		token := c.Token()
		var u float64
		if dense {
			u = uniform(scratch[8*token:])
		} else {
			u = n.uniform(uint32(token))
		}
		// -exact.Ln(u) is above 1-u, so most candidates need no logarithm. The factor is
		// larger than any rounding of the quotient below.
		if 1-u > float64(least*weight)*(1+0x1p-50) {
			continue
		}
		if x := -exact.Ln(u) / weight; x < least || x == least && token < best {
			best, least = token, x
		}
	}
	return best, scratch
}
