package model

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// An adjuster changes the logits of a sampler in its first step. A nil adjuster changes
// nothing. It has scratch space, so only one goroutine at a time may use it.
type adjuster struct {
	params Params
	bias   []bias // in the order of the ids
	prompt []int  // the ids in the prompt, each once and in order; nil without a repetition penalty
	ends   []int  // the end-of-text tokens; nil if they are not held back

	logits []float32 // changed copy of the logits
	counts []int32   // number of each token in the text; all zero between calls
}

// A bias is a number to add to the logit of a token.
type bias struct {
	token int
	add   float64
}

// newAdjuster returns the adjuster of a text, or nil if the parameters need none.
func newAdjuster(p Params, prompt, ends []int) *adjuster {
	a := &adjuster{params: p}
	for _, token := range slices.Sorted(maps.Keys(p.LogitBias)) {
		a.bias = append(a.bias, bias{token, p.LogitBias[token]})
	}
	if a.repeats() {
		a.prompt = slices.Compact(slices.Sorted(slices.Values(prompt)))
	}
	if p.MinTokens > 0 {
		a.ends = slices.DeleteFunc(slices.Clone(ends), func(id int) bool { return id < 0 })
	}
	if len(a.bias) == 0 && len(a.ends) == 0 && !a.counting() {
		return nil
	}
	return a
}

// repeats reports whether there is a repetition penalty.
func (a *adjuster) repeats() bool {
	return a.params.RepetitionPenalty != 0 && a.params.RepetitionPenalty != 1
}

// counting reports whether the tokens of the text have penalties.
func (a *adjuster) counting() bool {
	return a.repeats() || a.params.FrequencyPenalty != 0 || a.params.PresencePenalty != 0
}

// early reports whether a text of n tokens must not end yet.
func (a *adjuster) early(n int) bool { return len(a.ends) > 0 && n < a.params.MinTokens }

// changes reports whether apply may change the logits that follow a text of n tokens.
func (a *adjuster) changes(n int) bool {
	return a != nil && (len(a.bias) > 0 || a.counting() || a.early(n))
}

// apply returns the changed logits, which are valid until the next call, and the token with
// the highest of them. The given logits are finite. Among the changed ones, only those of
// end-of-text tokens may be -Inf. Such a token has the weight 0, so it is never chosen.
func (a *adjuster) apply(logits []float32, generated []int) (changed []float32, first int, err error) {
	a.logits = append(a.logits[:0], logits...)
	for _, b := range a.bias {
		if b.token >= len(logits) {
			return nil, 0, fmt.Errorf("%w: logit_bias is for token %d, the model has %d", ErrParams, b.token, len(logits))
		}
		a.logits[b.token] = nearest(float64(a.logits[b.token]) + b.add)
	}
	if a.counting() {
		a.penalise(generated)
	}
	if a.early(len(generated)) {
		for _, id := range a.ends {
			a.logits[id] = float32(math.Inf(-1))
		}
	}
	for i, l := range a.logits {
		if l > a.logits[first] {
			first = i
		}
	}
	if math.IsInf(float64(a.logits[first]), -1) {
		return nil, 0, fmt.Errorf("%w: there are only end-of-text tokens", ErrLogits)
	}
	return a.logits, first, nil
}

// penalise applies the penalties. It changes each logit once, whatever the order of the
// tokens.
func (a *adjuster) penalise(generated []int) {
	if len(a.counts) < len(a.logits) {
		a.counts = make([]int32, len(a.logits))
	}
	for _, token := range generated {
		a.counts[token]++
	}
	for _, token := range a.prompt {
		if a.counts[token] == 0 {
			a.repeat(token)
		}
	}
	for _, token := range generated {
		n := a.counts[token]
		if n == 0 {
			continue // an earlier occurrence of the token has had its penalties
		}
		a.counts[token] = 0
		if a.repeats() {
			a.repeat(token)
		}
		x := &a.logits[token]
		*x = nearest(float64(*x) - float64(a.params.FrequencyPenalty*float64(n)))
		*x = nearest(float64(*x) - a.params.PresencePenalty)
	}
}

// repeat applies the repetition penalty to a token.
func (a *adjuster) repeat(token int) {
	x := float64(a.logits[token])
	if x < 0 {
		x *= a.params.RepetitionPenalty
	} else {
		x /= a.params.RepetitionPenalty
	}
	a.logits[token] = nearest(x)
}

// nearest returns the finite float32 that is nearest to x.
func nearest(x float64) float32 {
	return float32(min(max(x, -math.MaxFloat32), math.MaxFloat32))
}
