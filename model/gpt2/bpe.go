package gpt2

// A word is the working memory for encoding one word of a text.
//
// Merges join the bytes of the word to longer and longer parts. The parts are a linked
// list over the positions of the bytes. The possible merges are in a heap, so a word of
// n bytes takes O(n log n) time.
type word struct {
	id         []int32 // for each position in the word, the token id of the part that begins there, or -1
	prev, next []int32 // positions of the neighbouring parts; -1 before the first part, the length of the word after the last
	heap       []candidate
}

// A candidate is a possible merge of two adjacent parts. It is stale if either part has
// changed since the candidate was found.
type candidate struct {
	rank, at    int32 // rank of the merge, and position of the left part
	left, right int32 // token ids of the two parts when the candidate was found
	id          int32 // token id of the merged part
}

// encode appends the token ids of the word s to ids. It merges adjacent parts in the
// order of rank, and from left to right for equal ranks.
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

// find adds a candidate to the heap if the part at a position can merge with the next
// part.
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
