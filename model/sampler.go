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
	// ErrParams is returned when Params are not what their fields say.
	ErrParams = errors.New("invalid parameters")

	// ErrLogits is returned when an engine's logits are not all finite numbers.
	ErrLogits = errors.New("unusable logits")
)

// maxTokens is the most token ids that can be told apart: their weights must
// not add up to 2^64.
const maxTokens = 1 << 20

// Validate returns an error that wraps [ErrParams] and names the first field
// that is not what it should be.
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

// A Sampler chooses tokens. It keeps scratch space, so one goroutine at a time
// may use it, but no state: what it chooses depends on its parameters, the
// logits and the index alone.
//
// The choice is made in exact arithmetic, but for the exponential, so that it
// can be repeated in any language:
//
//  1. Tokens are ordered by logit, highest first, and then by id, lowest first.
//     With temperature 0 the first one is the choice.
//  2. If top_k is not 0, the first top_k stay.
//  3. The weight of a token is the integer nearest to 2^43 * e^((l-m)/t), where
//     l is its logit, m the highest one and t the temperature, in float64. Let
//     W be the sum of the weights.
//  4. The fewest tokens stay, in order, whose weights add up to at least
//     P*W/2^53, where P is the integer part of 2^53 * top_p, and to at least 1.
//     Let W now be that sum.
//  5. Let U be the first 53 bits of SHA-256 of the 18 letters and one zero byte
//     "colophon sampler v1\x00", the seed and the index of the token among those
//     generated, from 0, both as big-endian 64-bit integers. The choice is the
//     first token, in order, with which the weights add up to more than U*W/2^53.
type Sampler struct {
	params Params
	items  []item
}

// An item is a token that may be chosen.
type item struct {
	key    uint64 // ascending in the order of tokens; the low half is the id
	weight uint64
}

// NewSampler returns a sampler, or an error that wraps [ErrParams].
func NewSampler(p Params) (*Sampler, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	return &Sampler{params: p}, nil
}

// Sample chooses the token with an index among those generated, by the logits
// of all tokens.
func (s *Sampler) Sample(logits []float32, index int) (int, error) {
	first, err := likeliest(logits)
	if err != nil || s.params.Temperature == 0 {
		return first, err
	}
	if k := s.params.TopK; k > 0 && k < len(logits) {
		s.takeFirst(logits, k)
	} else {
		s.takeAll(logits)
	}
	total := s.weigh(logits, float64(logits[first]))
	items := s.items
	if p := s.params.TopP; p < 1 {
		need := scale(uint64(p*(1<<53)), total, true)
		var n int
		n, total = cut(items, max(need, 1))
		items = items[:n]
	}
	n, _ := cut(items, scale(uniform(s.params.Seed, uint64(index)), total, false)+1)
	return int(uint32(items[n-1].key)), nil
}

// likeliest returns the first token in order, and checks that all logits are finite.
func likeliest(logits []float32) (int, error) {
	if n := len(logits); n == 0 || n > maxTokens {
		return 0, fmt.Errorf("%w: there are %d", ErrLogits, n)
	}
	first, most := 0, logits[0]
	var zero float32 // as long as every logit is finite
	for i, l := range logits {
		zero += l - l
		if l > most {
			first, most = i, l
		}
	}
	if zero != 0 {
		i := slices.IndexFunc(logits, func(l float32) bool { return l-l != 0 })
		return 0, fmt.Errorf("%w: that of token %d is %g", ErrLogits, i, logits[i])
	}
	return first, nil
}

// uniform returns 53 random bits that are a function of the seed and the index.
func uniform(seed, index uint64) uint64 {
	const name = "colophon sampler v1\x00"
	var b [len(name) + 16]byte
	copy(b[:], name)
	binary.BigEndian.PutUint64(b[len(name):], seed)
	binary.BigEndian.PutUint64(b[len(name)+8:], index)
	sum := sha256.Sum256(b[:])
	return binary.BigEndian.Uint64(sum[:]) >> 11
}

// scale returns part/2^53 of total, rounded up or down.
func scale(part, total uint64, up bool) uint64 {
	hi, lo := bits.Mul64(part, total)
	if up {
		var carry uint64
		lo, carry = bits.Add64(lo, 1<<53-1, 0)
		hi += carry
	}
	return hi<<11 | lo>>53
}

// key returns a number that is lower the earlier a token is in order.
func key(logit float32, id int) uint64 {
	b := math.Float32bits(logit)
	switch {
	case logit == 0: // -0 is no lower than 0
		b = 1 << 31
	case b>>31 == 0:
		b |= 1 << 31
	default:
		b = ^b
	}
	return uint64(^b)<<32 | uint64(uint32(id))
}

func (s *Sampler) takeAll(logits []float32) {
	s.items = slices.Grow(s.items[:0], len(logits))[:len(logits)]
	for i, l := range logits {
		s.items[i].key = key(l, i)
	}
}

// takeFirst takes the first k tokens in order, by a heap with the last on top.
func (s *Sampler) takeFirst(logits []float32, k int) {
	h := slices.Grow(s.items[:0], k)
	for i, l := range logits[:k] {
		h = append(h, item{key: key(l, i)})
	}
	for i := k/2 - 1; i >= 0; i-- {
		sink(h, i)
	}
	lowest := logits[uint32(h[0].key)]
	for i, l := range logits[k:] {
		if l > lowest { // an equal one has a higher id than those taken
			h[0].key = key(l, k+i)
			sink(h, 0)
			lowest = logits[uint32(h[0].key)]
		}
	}
	s.items = h
}

func sink(h []item, i int) {
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

// weigh sets the weights of the items and returns their sum. It cannot
// overflow, see maxTokens.
func (s *Sampler) weigh(logits []float32, most float64) uint64 {
	var total uint64
	for i := range s.items {
		it := &s.items[i]
		x := (float64(logits[uint32(it.key)]) - most) / s.params.Temperature
		it.weight = uint64(float64(exp(x)*(1<<43)) + 0.5)
		total += it.weight
	}
	return total
}

// cut reorders items so that the first n, by order, are at the front, with the
// last of them at n-1, where n is the fewest whose weights add up to at least
// need. It returns n and that sum. All weights together must reach need.
func cut(items []item, need uint64) (n int, sum uint64) {
	lo, hi := 0, len(items) // the last of the n is in items[lo:hi]
	for tries := 0; hi-lo > 12 && tries < 40; tries++ {
		m, weight := partition(items[lo:hi])
		m += lo
		if sum+weight >= need {
			hi = m
		} else {
			lo, sum = m, sum+weight
		}
	}
	slices.SortFunc(items[lo:hi], func(a, b item) int {
		if a.key < b.key {
			return -1
		}
		return 1
	})
	for n = lo; sum < need; n++ {
		sum += items[n].weight
	}
	return n, sum
}

// partition moves the earlier of some items to the front and returns how many
// they are, which is neither none nor all, and the sum of their weights.
func partition(items []item) (n int, weight uint64) {
	a, b, c := items[0].key, items[len(items)/2].key, items[len(items)-1].key
	pivot := max(min(a, b), min(max(a, b), c)) // the middle one
	for i := range items {
		if items[i].key < pivot {
			weight += items[i].weight
			items[n], items[i] = items[i], items[n]
			n++
		}
	}
	return n, weight
}
