package model

import (
	"cmp"
	"math"
	"slices"

	"colophon/model/exact"
)

// MaxLogprobs is the largest number of alternatives whose log probabilities a text has.
const MaxLogprobs = 20

// Logprob is the natural logarithm of the probability that a model gives to a token.
type Logprob struct {
	Token   int     `json:"token"`
	Logprob float32 `json:"logprob"`
}

// TokenLogprobs has the log probabilities of one position of a text.
type TokenLogprobs struct {
	Logprob float32   `json:"logprob"`       // of the token that the text has
	Top     []Logprob `json:"top,omitempty"` // of the likeliest tokens, highest first, and of equals by id
}

// Logprobs returns the log probabilities of a position from its logits, for the token that the
// text has there, and for the n likeliest tokens. They are those of the model's own
// distribution, whatever the parameters of the text are. The logits must be finite.
//
// The result depends only on the arguments, and has the same bits on every machine: the log
// probability of a token with the logit l is (l-m) - ln(S), rounded to float32. Here m is
// the highest logit, and S is the sum of e^(l-m) over all tokens, in float64 and in the order
// of the ids. Terms below e^-40 count as 0. A number too large for float32 becomes the
// nearest finite number.
func Logprobs(logits []float32, token, n int) TokenLogprobs {
	highest := float64(slices.Max(logits))
	sum := 0.0
	for _, l := range logits {
		sum += exact.Exp(float64(l) - highest)
	}
	logSum := exact.Ln(sum)
	of := func(token int) float32 { return nearest((float64(logits[token]) - highest) - logSum) }
	p := TokenLogprobs{Logprob: of(token)}
	if n = min(n, len(logits)); n == 0 {
		return p
	}
	likeliest := topK(make([]Candidate, 0, n), logits, n)
	slices.SortFunc(likeliest, func(a, b Candidate) int { return cmp.Compare(a.key, b.key) })
	p.Top = make([]Logprob, n)
	for i, c := range likeliest {
		p.Top[i] = Logprob{c.Token(), of(c.Token())}
	}
	return p
}

// EqualLogprobs reports whether a and b have the same bits.
func EqualLogprobs(a, b TokenLogprobs) bool {
	same := func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }
	return same(a.Logprob, b.Logprob) && slices.EqualFunc(a.Top, b.Top, func(a, b Logprob) bool {
		return a.Token == b.Token && same(a.Logprob, b.Logprob)
	})
}
