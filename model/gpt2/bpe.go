package gpt2

// A word is scratch space for encoding one word.
//
// The parts of the word are a linked list over the positions of its bytes, and
// the possible merges are a heap. So a word of n bytes takes O(n log n) time.
type word struct {
	id         []int32 // the token that begins at a byte, or -1
	prev, next []int32 // the neighbouring parts; -1 and len(word) at the ends
	heap       []candidate
}

// A candidate is a merge of two adjacent parts. It is stale if either part has changed
// since the candidate was found.
type candidate struct {
	rank, at    int32 // at is the position of the left part
	left, right int32 // the ids of the parts when the candidate was found
	id          int32 // the id of the merged part
}

// encode appends the ids of s. It merges adjacent parts in the order of rank, and
// from left to right for equal ranks.
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

// find adds the merge of the part at a position with the next part to the heap, if that
// merge exists.
func (w *word) find(t *Tokenizer, at int32) {
	left, right := w.id[at], w.id[w.next[at]]
	if m, ok := t.merges[pair(left, right)]; ok {
		w.push(candidate{m.rank, at, left, right, m.id})
	}
}

// before reports whether c is merged before d.
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
