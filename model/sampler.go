package model

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"unicode/utf8"
)

var (
	// ErrParams is returned for invalid Params.
	ErrParams = errors.New("invalid parameters")

	// ErrLogits is returned if a logit is not finite, or if the number of logits is 0
	// or too large.
	ErrLogits = errors.New("unusable logits")
)

// maxVocab is the largest number of token ids. With this limit, the sum of all sampling
// weights is below 2^64.
const maxVocab = 1 << 20

// Validate returns an error that wraps [ErrParams] and names the first invalid
// field.
func (p Params) Validate() error {
	switch {
	case p.MaxTokens < 1:
		return fmt.Errorf("%w: max_tokens is %d, want at least 1", ErrParams, p.MaxTokens)
	case !(p.Temperature >= 0 && p.Temperature <= math.MaxFloat64):
		return fmt.Errorf("%w: temperature is %g, want 0 or more", ErrParams, p.Temperature)
	case p.TopK < 0:
		return fmt.Errorf("%w: top_k is %d, want 0 or more", ErrParams, p.TopK)
	case !(p.TopP >= 0 && p.TopP <= 1):
		return fmt.Errorf("%w: top_p is %g, want 0 to 1", ErrParams, p.TopP)
	}
	for _, s := range p.Stop {
		if s == "" || !utf8.ValidString(s) {
			return fmt.Errorf("%w: a stop string is empty or not UTF-8", ErrParams)
		}
	}
	return nil
}

// A Sampler chooses tokens. The choice depends only on the parameters of the sampler,
// the logits and the index of the token. A Sampler has scratch space, so only one
// goroutine at a time may use it.
//
// All arithmetic except the exponential is exact, so a program in any language can
// repeat these steps:
//
//  1. Order the tokens by logit, highest first, and then by id, lowest first. With
//     temperature 0, choose the first.
//  2. If top_k is not 0, keep the first top_k.
//  3. The weight of a token is the integer nearest to 2^43 * e^((l-m)/t), computed
//     in float64. Here l is the logit of the token, m is the highest logit and t is
//     the temperature. Let W be the sum of the weights.
//  4. Let P be the integer part of 2^53 * top_p. Keep the fewest tokens, in order,
//     whose weights add up to at least P*W/2^53 and to at least 1. From now on, W is
//     the sum of the weights of these tokens.
//  5. Append to "colophon sampler v1\x00" the seed and the index of the token among
//     the generated tokens, from 0. Seed and index are big-endian 64-bit integers.
//     Let U be the first 53 bits of the SHA-256 of this string. Choose the first
//     token, in order, at which the weights add up to more than U*W/2^53.
type Sampler struct {
	params     Params
	candidates []candidate
}

// A candidate is a token that the sampler may choose.
type candidate struct {
	key    uint64 // sort key of the token, with the token id in the low 32 bits
	weight uint64
}

// NewSampler returns a sampler, or an error that wraps [ErrParams].
func NewSampler(p Params) (*Sampler, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	return &Sampler{params: p}, nil
}

// Sample chooses the next token from logits, which has one logit for each token id.
// index is the position of the token among the generated tokens, from 0. The error
// wraps [ErrLogits].
func (s *Sampler) Sample(logits []float32, index int) (int, error) {
	first, err := argmax(logits)
	if err != nil || s.params.Temperature == 0 {
		return first, err
	}
	if k := s.params.TopK; k > 0 && k < len(logits) {
		s.keepTopK(logits, k)
	} else {
		s.keepAll(logits)
	}
	total := s.weigh(logits, float64(logits[first]))
	kept := s.candidates
	if p := s.params.TopP; p < 1 {
		need := scale(uint64(p*(1<<53)), total, true)
		var n int
		n, total = selectFirst(kept, max(need, 1))
		kept = kept[:n]
	}
	n, _ := selectFirst(kept, scale(uniform(s.params.Seed, uint64(index)), total, false)+1)
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

// keepTopK makes the first k tokens, in the order of their keys, the candidates. It
// collects them in a heap whose top is the last candidate in this order.
func (s *Sampler) keepTopK(logits []float32, k int) {
	h := slices.Grow(s.candidates[:0], k)
	for i, l := range logits[:k] {
		h = append(h, candidate{key: key(l, i)})
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
	s.candidates = h
}

// sink moves element i of a heap down until none of its children has a higher key.
func sink(h []candidate, i int) {
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
		c.weight = uint64(float64(exp(x)*(1<<43)) + 0.5)
		total += c.weight
	}
	return total
}

// selectFirst returns the smallest n for which the weights of the first n candidates,
// in the order of their keys, add up to at least need. It also returns the sum of these
// weights. It moves these candidates to c[:n], and the last of them to c[n-1]. The sum
// of all weights must be at least need.
func selectFirst(c []candidate, need uint64) (n int, sum uint64) {
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
	slices.SortFunc(c[lo:hi], func(a, b candidate) int {
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
func partition(c []candidate) (n int, weight uint64) {
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
