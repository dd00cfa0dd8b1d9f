package model

import (
	"bytes"
	"slices"
)

// A holdback turns tokens into deltas. It holds tokens back until later tokens cannot
// change their text. Then their text ends with a whole character, and no stop string
// can begin in their text and end after it.
type holdback struct {
	stops   [][]byte
	pending []pending // tokens that have not been emitted yet
	text    []byte    // text of the pending tokens, up to the last whole character
	tail    []byte    // bytes of the incomplete character that follows the text
}

// A pending is a token that has not been emitted yet, with the boundary between this
// token and the next.
type pending struct {
	token int
	end   int  // length of holdback.text up to the boundary
	whole bool // true if a character ends at the boundary
}

func newHoldback(stops []string) *holdback {
	h := &holdback{}
	for _, s := range stops {
		h.stops = append(h.stops, []byte(s))
	}
	return h
}

// resume prepares the holdback to continue an interrupted text. past has the bytes of the
// tokens that were already emitted. last is true if no token follows. resume reports
// whether the text of past contains a stop string.
func (h *holdback) resume(past []byte, last bool) bool {
	n := complete(past)
	if last {
		n = len(past)
	}
	h.tail = append(h.tail, past[n:]...)
	_, found := h.findStop([]byte(Text(past[:n])))
	return found
}

// add adds a token that decodes to the bytes b. It reports whether the text now
// contains a stop string. If so, it cuts off the text from the stop string on.
func (h *holdback) add(token int, b []byte) bool {
	h.tail = append(h.tail, b...)
	n := complete(h.tail)
	h.text = append(h.text, Text(h.tail[:n])...)
	h.tail = slices.Delete(h.tail, 0, n)
	h.pending = append(h.pending, pending{token, len(h.text), len(h.tail) == 0})
	return h.truncate()
}

// truncate cuts off the text from the first stop string on. It reports whether the text
// contains a stop string.
func (h *holdback) truncate() bool {
	start, found := h.findStop(h.text)
	if found {
		h.text, h.tail = h.text[:start], nil
	}
	return found
}

// findStop returns the start of the stop string that ends first in text. If several
// stop strings end at the same position, it returns the start of the longest.
func (h *holdback) findStop(text []byte) (start int, found bool) {
	end := 0
	for _, s := range h.stops {
		i := bytes.Index(text, s)
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
	h.text = append(h.text, Text(h.tail)...)
	h.tail = nil
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
	}
	h.pending = slices.Delete(h.pending, 0, n)
	h.text = slices.Delete(h.text, 0, end)
	for i := range h.pending {
		h.pending[i].end -= end
	}
	return d
}
