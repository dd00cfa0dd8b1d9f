package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"colophon/model/gpt2"
)

// endOfText is GPT-2's special token at the end of a text.
const endOfText = "<|endoftext|>"

// An encoding is a byte-level BPE vocabulary. Its tokens are in the order of GPT-2: the
// 256 bytes in byteOrder, the merged tokens in the order of the merges, and endOfText.
type encoding struct {
	tokens []string         // bytes of each token, by id
	merges [][2]int         // element i is the pair of ids that becomes the id 256+i
	ranks  map[[2]int]int   // index of each pair in merges
	words  map[string][]int // ids of the words that encode has encoded before
}

// learn builds a vocabulary with the given number of tokens. It repeatedly merges the
// pair of tokens that is most often adjacent within a word. If several pairs are
// equally frequent, it merges the pair whose bytes sort first.
func learn(text string, size int) (*encoding, error) {
	e := &encoding{ranks: map[[2]int]int{}, words: map[string][]int{}}
	for _, b := range byteOrder {
		e.tokens = append(e.tokens, string([]byte{b}))
	}
	counts := map[string]int{}
	for w := range gpt2.Words(text) {
		counts[w]++
	}
	type word struct {
		ids   []int
		count int
	}
	var words []word
	for w, n := range counts {
		words = append(words, word{e.spell(w), n})
	}
	pairs := map[[2]int]int{}
	for len(e.tokens) < size-1 {
		clear(pairs)
		for _, w := range words {
			for i := range len(w.ids) - 1 {
				pairs[[2]int{w.ids[i], w.ids[i+1]}] += w.count
			}
		}
		if len(pairs) == 0 {
			return nil, fmt.Errorf("learn %d tokens: the text has only %d", size, len(e.tokens)+1)
		}
		var best [2]int
		for p, n := range pairs {
			if n > pairs[best] || n == pairs[best] && cmp.Or(
				strings.Compare(e.tokens[p[0]], e.tokens[best[0]]), strings.Compare(e.tokens[p[1]], e.tokens[best[1]])) < 0 {
				best = p
			}
		}
		id := len(e.tokens)
		e.ranks[best] = len(e.merges)
		e.merges = append(e.merges, best)
		e.tokens = append(e.tokens, e.tokens[best[0]]+e.tokens[best[1]])
		for i := range words {
			words[i].ids = replacePair(words[i].ids, best, id)
		}
	}
	e.tokens = append(e.tokens, endOfText)
	return e, nil
}

// replacePair replaces every occurrence of a pair in ids by id. It goes from left to
// right and changes ids in place.
func replacePair(ids []int, pair [2]int, id int) []int {
	n := 0
	for i := 0; i < len(ids); i++ {
		if i+1 < len(ids) && ids[i] == pair[0] && ids[i+1] == pair[1] {
			ids[n] = id
			i++
		} else {
			ids[n] = ids[i]
		}
		n++
	}
	return ids[:n]
}

// spell returns the token ids of the single bytes of a word.
func (e *encoding) spell(word string) []int {
	ids := make([]int, len(word))
	for i := range len(word) {
		ids[i] = slices.Index(byteOrder, word[i])
	}
	return ids
}

// eot returns the id of the end-of-text token.
func (e *encoding) eot() int { return len(e.tokens) - 1 }

// encode returns the token ids of a word. The word must come from gpt2.Words.
func (e *encoding) encode(word string) []int {
	ids, ok := e.words[word]
	if !ok {
		ids = e.merge(word, nil, 0)
		e.words[word] = ids
	}
	return ids
}

// merge merges the adjacent pair with the lowest rank until no pair is left. With p >
// 0, it ignores each possible merge with probability p in each round. So the same word
// is encoded in different ways (Provilkov et al., 2020, "BPE-Dropout").
func (e *encoding) merge(word string, rng *rand.Rand, p float64) []int {
	ids := e.spell(word)
	for {
		best := len(e.merges)
		for i := range len(ids) - 1 {
			rank, ok := e.ranks[[2]int{ids[i], ids[i+1]}]
			if ok && rank < best && (p == 0 || rng.Float64() >= p) {
				best = rank
			}
		}
		if best == len(e.merges) {
			return ids
		}
		ids = replacePair(ids, e.merges[best], 256+best)
	}
}

// files returns the contents of vocab.json and merges.txt.
func (e *encoding) files() (vocab, merges []byte, err error) {
	var list bytes.Buffer
	list.WriteString("#version: 0.2\n")
	for _, m := range e.merges {
		fmt.Fprintf(&list, "%s %s\n", printable(e.tokens[m[0]]), printable(e.tokens[m[1]]))
	}
	ids := map[string]int{endOfText: e.eot()}
	for id, t := range e.tokens[:e.eot()] {
		ids[printable(t)] = id
	}
	vocab, err = json.Marshal(ids)
	return vocab, list.Bytes(), err
}

// byteOrder has the bytes in the order of GPT-2's byte tokens. This is the order of the
// characters that stand for the bytes.
var byteOrder = func() []byte {
	alphabet := gpt2.ByteAlphabet()
	order := make([]byte, len(alphabet))
	for b := range order {
		order[b] = byte(b)
	}
	slices.SortFunc(order, func(a, b byte) int { return cmp.Compare(alphabet[a], alphabet[b]) })
	return order
}()

// printable returns the characters that stand for the bytes of s.
func printable(s string) string {
	alphabet := gpt2.ByteAlphabet()
	var out strings.Builder
	for i := range len(s) {
		out.WriteRune(alphabet[s[i]])
	}
	return out.String()
}
