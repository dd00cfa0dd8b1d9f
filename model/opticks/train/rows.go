package main

import (
	"math"
	"math/rand/v2"
	"slices"

	"colophon/model/gomlx"
	"colophon/model/gpt2"
)

// rows draws the rows of training batches at random from the text.
type rows struct {
	bpe    *encoding
	words  []string // words of all sections; "" marks the end of a text and is also the first element
	tokens int      // number of tokens in all words
}

func newRows(bpe *encoding, sections []string) *rows {
	r := &rows{bpe: bpe, words: []string{""}}
	for _, section := range sections {
		r.words = append(slices.AppendSeq(r.words, gpt2.Words(section)), "")
	}
	for _, w := range r.words {
		r.tokens += len(r.ids(w, nil))
	}
	return r
}

// ids returns the token ids of a word, with BPE-dropout if dropout is not nil.
func (r *rows) ids(word string, dropout *rand.Rand) []int {
	switch {
	case word == "":
		return []int{r.bpe.eot()}
	case dropout != nil:
		return r.bpe.merge(word, dropout, bpeDropout)
	default:
		return r.bpe.encode(word)
	}
}

// batch returns the tokens of a step and their targets. The target of a token is the
// token that follows it. The result depends only on the seed and the step.
func (r *rows) batch(step int) (tokens, targets [][]int32) {
	rng := rand.New(rand.NewPCG(recipe.Seed, uint64(step)+1))
	for row := range batch {
		var dropout *rand.Rand
		if row%2 == 1 && step < recipe.Steps-recipe.CoolDown {
			dropout = rng
		}
		var ids []int32
		for at := rng.IntN(len(r.words)); len(ids) <= config.Context; at = (at + 1) % len(r.words) {
			for _, id := range r.ids(r.words[at], dropout) {
				ids = append(ids, int32(id))
			}
		}
		tokens = append(tokens, ids[:config.Context])
		targets = append(targets, ids[1:config.Context+1])
	}
	return tokens, targets
}

// A heldOut is the text that training does not use, in rows of the length of the
// context. An incomplete last row is omitted.
type heldOut struct {
	tokens, targets [][]int32
	bytes           int // number of bytes in the text that the targets decode to
}

func newHeldOut(bpe *encoding, sections []string) *heldOut {
	ids := []int{bpe.eot()}
	for _, section := range sections {
		for w := range gpt2.Words(section) {
			ids = append(ids, bpe.encode(w)...)
		}
		ids = append(ids, bpe.eot())
	}
	h := &heldOut{}
	for c := config.Context; len(ids) > c; ids = ids[c:] {
		row := make([]int32, c+1)
		for i, id := range ids[:c+1] {
			row[i] = int32(id)
			if i > 0 && id != bpe.eot() {
				h.bytes += len(bpe.tokens[id])
			}
		}
		h.tokens, h.targets = append(h.tokens, row[:c]), append(h.targets, row[1:])
	}
	return h
}

// size returns the number of target tokens.
func (h *heldOut) size() int { return len(h.tokens) * config.Context }

// loss returns the mean loss of the given weights, in nats per token.
func (h *heldOut) loss(trainer *gomlx.Trainer, weights [][]float32) (float64, error) {
	total := 0.0
	for i := range h.tokens {
		nats, err := trainer.Loss(weights, h.tokens[i:i+1], h.targets[i:i+1])
		if err != nil {
			return 0, err
		}
		total += nats
	}
	return total / float64(len(h.tokens)), nil
}

// bitsPerByte converts a loss from nats per token to bits per byte.
func (h *heldOut) bitsPerByte(nats float64) float64 {
	return nats / math.Ln2 * float64(h.size()) / float64(h.bytes)
}
