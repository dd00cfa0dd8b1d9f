package gpt2

// A word is scratch space for encoding one word of a text.
//
// The parts of the word are a linked list over the positions of its bytes, and
// the pairs that could be merged a heap, so that a word of n bytes takes
// O(n log n) steps, however long it is.
type word struct {
	id         []int32 // the token that starts at a byte; -1 where none does
	prev, next []int32 // the neighbouring parts; -1 and the length at the ends
	heap       []candidate
}

// A candidate is a merge of the parts at two positions that were neighbours
// when it was found; it is void if either has changed since.
type candidate struct {
	rank, at    int32
	left, right int32 // the ids that were there
	id          int32 // the id that replaces them
}

// encode appends the ids of s. Of all pairs of neighbours that have a merge,
// the one with the lowest rank is merged first, the leftmost of several.
func (w *word) encode(ids []int, t *Tokenizer, s string) []int {
	n := int32(len(s))
	w.id, w.prev, w.next, w.heap = w.id[:0], w.prev[:0], w.next[:0], w.heap[:0]
	for i := range n {
		w.id = append(w.id, t.bytes[s[i]])
		w.prev = append(w.prev, i-1)
		w.next = append(w.next, i+1)
	}
	for i := range n - 1 {
		w.find(t, i)
	}
	for len(w.heap) > 0 {
		c := w.pop()
		right := w.next[c.at]
		if w.id[c.at] != c.left || right >= n || w.id[right] != c.right {
			continue
		}
		w.id[c.at], w.id[right] = c.id, -1
		after := w.next[right]
		w.next[c.at] = after
		if after < n {
			w.prev[after] = c.at
			w.find(t, c.at)
		}
		if before := w.prev[c.at]; before >= 0 {
			w.find(t, before)
		}
	}
	for i := int32(0); i < n; i = w.next[i] {
		ids = append(ids, int(w.id[i]))
	}
	return ids
}

// find adds the merge of the parts at position at and after it, if there is one.
func (w *word) find(t *Tokenizer, at int32) {
	left, right := w.id[at], w.id[w.next[at]]
	if m, ok := t.merges[pair(left, right)]; ok {
		w.push(candidate{m.rank, at, left, right, m.id})
	}
}

func (c candidate) before(d candidate) bool {
	return c.rank < d.rank || c.rank == d.rank && c.at < d.at
}

func (w *word) push(c candidate) {
	h := append(w.heap, c)
	i := len(h) - 1
	for i > 0 && h[i].before(h[(i-1)/2]) {
		h[i], h[(i-1)/2] = h[(i-1)/2], h[i]
		i = (i - 1) / 2
	}
	w.heap = h
}

func (w *word) pop() candidate {
	h := w.heap
	top, last := h[0], len(h)-1
	h[0] = h[last]
	h = h[:last]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < last; c++ {
			if h[c].before(h[least]) {
				least = c
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	w.heap = h
	return top
}
