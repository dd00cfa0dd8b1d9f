package model

import (
	"bytes"
	"slices"
)

// A holdback turns tokens into deltas. It holds tokens back until later tokens cannot
// change their text. Then their text ends with a whole character, and no stop string
// can begin in their text and end after it.
//
// A stop string that ends in the text of the first tokens may be ordinary text.
type holdback struct {
	stops   [][]byte
	ignored int       // number of tokens in whose text a stop string is ordinary text
	tokens  int       // number of tokens so far, including those that were emitted
	after   int       // length of the text in which a stop string is ordinary text
	pending []pending // tokens that have not been emitted yet
	text    []byte    // text of the pending tokens, up to the last whole character
	tail    []byte    // bytes of the incomplete character that follows the text
}

// A pending is a token that has not been emitted yet, with the boundary between this
// token and the next.
type pending struct {
	token    int
	end      int            // length of holdback.text up to the boundary
	whole    bool           // true if a character ends at the boundary
	logprobs *TokenLogprobs // nil if the text has none
}

// newHoldback returns a holdback for a new text. A stop string that ends in the text of the
// first ignored tokens is ordinary text.
func newHoldback(stops []string, ignored int) *holdback {
	h := &holdback{ignored: ignored}
	for _, s := range stops {
		h.stops = append(h.stops, []byte(s))
	}
	return h
}

// resume prepares the holdback to continue an interrupted text. past has the tokens that
// were already emitted, and decode returns their bytes. last is true if no token follows.
// resume reports whether the text of past contains a stop string.
func (h *holdback) resume(past []int, decode func([]int) []byte, last bool) bool {
	b := decode(past)
	n := complete(b)
	if last {
		n = len(b)
	}
	h.tail = append(h.tail, b[n:]...)
	h.tokens = len(past)
	if h.tokens <= h.ignored {
		return false
	}
	first := decode(past[:h.ignored])
	_, found := h.findStop([]byte(Text(b[:n])), len(Text(first[:complete(first)])))
	return found
}

// add adds a token that decodes to the bytes b. It reports whether the text now
// contains a stop string. If so, it cuts off the text from the stop string on.
func (h *holdback) add(token int, b []byte, logprobs *TokenLogprobs) bool {
	h.tail = append(h.tail, b...)
	n := complete(h.tail)
	h.grow(n)
	h.tokens++
	h.pending = append(h.pending, pending{token, len(h.text), len(h.tail) == 0, logprobs})
	return h.truncate()
}

// grow moves the first n bytes of the tail to the text.
func (h *holdback) grow(n int) {
	h.text = append(h.text, Text(h.tail[:n])...)
	h.tail = slices.Delete(h.tail, 0, n)
}

// truncate cuts off the text from the first stop string on. It reports whether the text
// contains a stop string.
func (h *holdback) truncate() bool {
	if h.tokens <= h.ignored {
		h.after = len(h.text)
	}
	start, found := h.findStop(h.text, h.after)
	if found {
		h.text, h.tail = h.text[:start], nil
	}
	return found
}

// findStop returns the start of the stop string that ends first in text, after the position
// after. If several stop strings end at the same position, it returns the start of the
// longest.
func (h *holdback) findStop(text []byte, after int) (start int, found bool) {
	end := 0
	for _, s := range h.stops {
		from := min(max(0, after+1-len(s)), len(text)) // a stop string that begins before ends at after or before
		i := bytes.Index(text[from:], s)
		if i >= 0 {
			i += from
		}
		if i >= 0 && (!found || i+len(s) < end || i+len(s) == end && i < start) {
			start, end, found = i, i+len(s), true
		}
	}
	return start, found
}

// certain removes and returns the tokens whose text later tokens cannot change. No stop
// string can begin in their text and end in later text. certain returns false if there
// are no such tokens.
func (h *holdback) certain() (Delta, bool) {
	begun := len(h.text) // start of the first unfinished stop string
	for _, s := range h.stops {
		for n := min(len(s)-1, len(h.text)); n > len(h.text)-begun; n-- {
			if bytes.HasSuffix(h.text, s[:n]) {
				begun = len(h.text) - n
			}
		}
	}
	n := len(h.pending)
	for n > 0 && !(h.pending[n-1].whole && h.pending[n-1].end <= begun) {
		n--
	}
	if n == 0 {
		return Delta{}, false
	}
	return h.take(n, h.pending[n-1].end), true
}

// finish removes and returns all pending tokens. ok is false if no token is pending.
// found reports whether the text of the last bytes completes a stop string.
func (h *holdback) finish() (d Delta, ok, found bool) {
	h.grow(len(h.tail))
	found = h.truncate()
	if len(h.pending) == 0 {
		return Delta{}, false, found
	}
	return h.take(len(h.pending), len(h.text)), true, found
}

// take removes and returns the first n tokens and the text up to end.
func (h *holdback) take(n, end int) Delta {
	d := Delta{Tokens: make([]int, n), Text: string(h.text[:end])}
	for i, p := range h.pending[:n] {
		d.Tokens[i] = p.token
		if p.logprobs != nil {
			d.Logprobs = append(d.Logprobs, *p.logprobs)
		}
	}
	h.pending = slices.Delete(h.pending, 0, n)
	h.text = slices.Delete(h.text, 0, end)
	h.after = max(0, h.after-end)
	for i := range h.pending {
		h.pending[i].end -= end
	}
	return d
}
