package model

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"colophon/model/exact"
)

// ErrLogits is returned if a logit is not finite, if the number of logits is 0 or too
// large, or if no token may be chosen.
var ErrLogits = errors.New("unusable logits")

// maxVocab is the largest number of token ids. With this limit, the sum of all sampling
// weights is below 2^64.
const maxVocab = 1 << 20

// A Sampler chooses tokens. The choice depends only on the parameters of the sampler, the
// prompt, the logits and the text so far. The text matters to penalties and to a [Chooser];
// otherwise only its number of tokens does. A Sampler has scratch space, so only one
// goroutine at a time may use it.
//
// All arithmetic except the exponential is exact or rounded in a way that step 1 and step 4
// define, so a program in any language can repeat these steps:
//
//  1. Change the logits by the parameters that name tokens; see below.
//  2. Order the tokens by logit, highest first, and then by id, lowest first. With
//     temperature 0, choose the first.
//  3. If top_k is not 0, keep the first top_k.
//  4. The weight of a token is the integer nearest to 2^43 * e^((l-m)/t), computed
//     in float64. Here l is the logit of the token, m is the highest logit and t is
//     the temperature. Let W be the sum of the weights.
//  5. Let M be the integer part of 2^53 * min_p. Keep the tokens whose weight is at least
//     M/2^10, which is min_p times the highest weight. From now on, W is the sum of the
//     weights of these tokens.
//  6. Let P be the integer part of 2^53 * top_p. Keep the fewest tokens, in order,
//     whose weights add up to at least P*W/2^53 and to at least 1. From now on, W is
//     the sum of the weights of these tokens.
//  7. Append to "colophon sampler v1\x00" the seed and the index of the token among
//     the generated tokens, from 0. Seed and index are big-endian 64-bit integers.
//     Let U be the first 53 bits of the SHA-256 of this string. Choose the first
//     token, in order, at which the weights add up to more than U*W/2^53.
//
// A [Chooser] in the parameters is asked after step 6. If it chooses, step 7 is omitted.
//
// Step 1 changes the logit x of each token as follows. Each change is computed in float64,
// every operation is rounded, and the result is rounded to float32. A result that is too
// large for float32 becomes the nearest finite number.
//
//  1. Add the number that logit_bias has for the token.
//  2. If the prompt or the text so far has the token, repetition_penalty r makes it x*r for
//     a negative x, and x/r otherwise. It is the rule of Nitish Shirish Keskar and others,
//     "CTRL" (2019), as Hugging Face's RepetitionPenaltyLogitsProcessor has it.
//  3. If the text so far has the token n times, n above 0, subtract frequency_penalty * n.
//  4. If the text so far has the token, subtract presence_penalty. These two rules are
//     OpenAI's.
//  5. While the text has fewer than min_tokens tokens, the tokens that end a text are not
//     among the candidates, and temperature 0 does not choose them.
//
// The order of all these steps is that of vLLM (vllm/v1/sample/sampler.py). There the
// end-of-text token gets the logit -Inf before the other changes, which is the same. Hugging
// Face applies min_p after top_p. That keeps another set of tokens if both are set.
type Sampler struct {
	params     Params
	adjuster   *adjuster // nil if step 1 changes nothing
	candidates []Candidate

	kept  []Candidate // candidates of the last call of Sample after step 6; nil at temperature 0
	total uint64      // sum of their weights
}

// A Chooser may choose the next token of a text in place of a sampler's random numbers.
// generated has the tokens of the text so far, without the prompt. candidates has the
// tokens that the sampler may choose, in any order and each once. At least one of them
// has a weight above 0. A Chooser returns one of these tokens, or false to leave the
// choice to the sampler.
//
// The result must depend only on the arguments and on what the Chooser was made for, and
// never on earlier calls. Otherwise an interrupted text cannot be continued. A Chooser
// must not change or keep the slices.
type Chooser func(generated []int, candidates []Candidate) (token int, ok bool)

// A Candidate is a token that a sampler may choose.
type Candidate struct {
	key    uint64 // sort key of the token, with the token id in the low 32 bits
	weight uint64
}

// Token returns the id of the token.
func (c Candidate) Token() int { return int(uint32(c.key)) }

// Weight returns the weight of the token. It is at most 2^43, and 0 for a token that must
// not be chosen. The sampler chooses tokens in proportion to their weights.
func (c Candidate) Weight() uint64 { return c.weight }

// NewSampler returns a sampler for the continuation of a prompt. ends has the ids of
// the tokens that end a text; -1 is no token. All other ids, those of the prompt and all that
// are passed to Sample, must be in the vocabulary. An error wraps [ErrParams].
func NewSampler(p Params, prompt []int, ends ...int) (*Sampler, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	return &Sampler{params: p, adjuster: newAdjuster(p, prompt, ends)}, nil
}

// Sample chooses the next token from logits, which has one logit for each token id.
// generated has the tokens of the text so far, without the prompt. The error wraps
// [ErrLogits], or [ErrParams] if logit_bias names a token that has no logit.
func (s *Sampler) Sample(logits []float32, generated []int) (int, error) {
	first, err := argmax(logits)
	if err == nil && s.adjuster.changes(len(generated)) {
		logits, first, err = s.adjuster.apply(logits, generated)
	}
	if err != nil || s.params.Temperature == 0 {
		return first, err
	}
	if k := s.params.TopK; k > 0 && k < len(logits) {
		s.candidates = topK(slices.Grow(s.candidates[:0], k), logits, k)
	} else {
		s.keepAll(logits)
	}
	total := s.weigh(logits, float64(logits[first]))
	if p := s.params.MinP; p > 0 {
		total = s.keepLikely((uint64(p*(1<<53)) + 1<<10 - 1) >> 10)
	}
	kept := s.candidates
	if p := s.params.TopP; p < 1 {
		need := scale(uint64(p*(1<<53)), total, true)
		var n int
		n, total = selectFirst(kept, max(need, 1))
		kept = kept[:n]
	}
	s.kept, s.total = kept, total
	if s.params.Choose != nil {
		if token, ok := s.params.Choose(generated, kept); ok {
			return token, nil
		}
	}
	n, _ := selectFirst(kept, scale(uniform(s.params.Seed, uint64(len(generated))), total, false)+1)
	return int(uint32(kept[n-1].key)), nil
}

// argmax returns the token with the highest logit. If several logits are equal, it
// returns the token with the lowest id. The error wraps [ErrLogits] if a logit is not
// finite, or if the number of logits is 0 or too large.
func argmax(logits []float32) (int, error) {
	if n := len(logits); n == 0 || n > maxVocab {
		return 0, fmt.Errorf("%w: %d, want 1 to %d", ErrLogits, n, maxVocab)
	}
	first, highest := 0, logits[0]
	var zero float32 // becomes NaN if a logit is not finite
	for i, l := range logits {
		zero += l - l
		if l > highest {
			first, highest = i, l
		}
	}
	if zero != 0 {
		i := slices.IndexFunc(logits, func(l float32) bool { return l-l != 0 })
		return 0, fmt.Errorf("%w: token %d has %g", ErrLogits, i, logits[i])
	}
	return first, nil
}

// uniform returns 53 pseudo-random bits that depend only on the seed and the index.
func uniform(seed, index uint64) uint64 {
	const name = "colophon sampler v1\x00"
	var b [len(name) + 16]byte
	copy(b[:], name)
	binary.BigEndian.PutUint64(b[len(name):], seed)
	binary.BigEndian.PutUint64(b[len(name)+8:], index)
	sum := sha256.Sum256(b[:])
	return binary.BigEndian.Uint64(sum[:]) >> 11
}

// scale returns part*total/2^53. It rounds up if up is true, and otherwise down.
func scale(part, total uint64, up bool) uint64 {
	hi, lo := bits.Mul64(part, total)
	if up {
		var carry uint64
		lo, carry = bits.Add64(lo, 1<<53-1, 0)
		hi += carry
	}
	return hi<<11 | lo>>53
}

// key returns the sort key of a token. Ascending keys order tokens by logit, highest
// first, and then by id, lowest first.
func key(logit float32, id int) uint64 {
	b := math.Float32bits(logit)
	switch {
	case logit == 0: // -0 and 0 must have the same key
		b = 1 << 31
	case b>>31 == 0:
		b |= 1 << 31
	default:
		b = ^b
	}
	return uint64(^b)<<32 | uint64(uint32(id))
}

// keepAll makes all tokens candidates and sets their keys.
func (s *Sampler) keepAll(logits []float32) {
	s.candidates = slices.Grow(s.candidates[:0], len(logits))[:len(logits)]
	for i, l := range logits {
		s.candidates[i].key = key(l, i)
	}
}

// topK appends the first k tokens, in the order of their keys, to h, which is empty. It
// collects them in a heap whose top is the last token in this order.
func topK(h []Candidate, logits []float32, k int) []Candidate {
	for i, l := range logits[:k] {
		h = append(h, Candidate{key: key(l, i)})
	}
	for i := k/2 - 1; i >= 0; i-- {
		sink(h, i)
	}
	lowest := logits[uint32(h[0].key)]
	for i, l := range logits[k:] {
		if l > lowest { // for an equal logit, this token comes later in order, because its id is higher
			h[0].key = key(l, k+i)
			sink(h, 0)
			lowest = logits[uint32(h[0].key)]
		}
	}
	return h
}

// sink moves element i of a heap down until none of its children has a higher key.
func sink(h []Candidate, i int) {
	for {
		last := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h); c++ {
			if h[c].key > h[last].key {
				last = c
			}
		}
		if last == i {
			return
		}
		h[i], h[last] = h[last], h[i]
		i = last
	}
}

// weigh sets the weights of the candidates and returns their sum. The sum cannot
// overflow, because maxVocab limits the number of candidates.
func (s *Sampler) weigh(logits []float32, highest float64) uint64 {
	var total uint64
	for i := range s.candidates {
		c := &s.candidates[i]
		x := (float64(logits[uint32(c.key)]) - highest) / s.params.Temperature
		c.weight = uint64(float64(exact.Exp(x)*(1<<43)) + 0.5)
		total += c.weight
	}
	return total
}

// keepLikely keeps the candidates whose weight is at least least, and returns the sum of
// their weights.
func (s *Sampler) keepLikely(least uint64) (total uint64) {
	kept := s.candidates[:0]
	for _, c := range s.candidates {
		if c.weight >= least {
			kept = append(kept, c)
			total += c.weight
		}
	}
	s.candidates = kept
	return total
}

// selectFirst returns the smallest n for which the weights of the first n candidates,
// in the order of their keys, add up to at least need. It also returns the sum of these
// weights. It moves these candidates to c[:n], and the last of them to c[n-1]. The sum
// of all weights must be at least need.
func selectFirst(c []Candidate, need uint64) (n int, sum uint64) {
	lo, hi := 0, len(c) // the last of the first n candidates is in c[lo:hi]
	for tries := 0; hi-lo > 12 && tries < 40; tries++ {
		m, weight := partition(c[lo:hi])
		m += lo
		if sum+weight >= need {
			hi = m
		} else {
			lo, sum = m, sum+weight
		}
	}
	slices.SortFunc(c[lo:hi], func(a, b Candidate) int {
		if a.key < b.key {
			return -1
		}
		return 1
	})
	for n = lo; sum < need; n++ {
		sum += c[n].weight
	}
	return n, sum
}

// partition moves the candidates whose keys are below a pivot to the front of c. It
// returns their number and the sum of their weights. The number is more than 0 and less
// than len(c).
func partition(c []Candidate) (n int, weight uint64) {
	x, y, z := c[0].key, c[len(c)/2].key, c[len(c)-1].key
	pivot := max(min(x, y), min(max(x, y), z)) // the median of three keys
	for i := range c {
		if c[i].key < pivot {
			weight += c[i].weight
			c[n], c[i] = c[i], c[n]
			n++
		}
	}
	return n, weight
}
