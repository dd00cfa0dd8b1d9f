package model

import (
	"bytes"
	"slices"
)

// An output turns tokens into deltas.
type output struct {
	stops [][]byte
	held  []held // tokens that have not been emitted
	text  []byte // of the held tokens, in whole characters
	tail  []byte // after text: the beginning of a character
}

// A held token and the boundary after it.
type held struct {
	token int
	end   int  // length of the text before the boundary
	whole bool // a character ends there
}

func newOutput(stops []string) *output {
	o := &output{}
	for _, s := range stops {
		o.stops = append(o.stops, []byte(s))
	}
	return o
}

// resume prepares for the token after those whose bytes are given.
// It reports whether their text has a stop string; last says that no token
// follows.
func (o *output) resume(past []byte, last bool) bool {
	n := complete(past)
	if last {
		n = len(past)
	}
	o.tail = append(o.tail, past[n:]...)
	_, found := o.stop([]byte(Text(past[:n])))
	return found
}

// add adds a token and reports whether the text has a stop string now, before
// which it then ends.
func (o *output) add(token int, b []byte) bool {
	o.tail = append(o.tail, b...)
	n := complete(o.tail)
	o.text = append(o.text, Text(o.tail[:n])...)
	o.tail = slices.Delete(o.tail, 0, n)
	o.held = append(o.held, held{token, len(o.text), len(o.tail) == 0})
	return o.truncate()
}

// truncate ends the text before a stop string, if it has one.
func (o *output) truncate() bool {
	start, found := o.stop(o.text)
	if found {
		o.text, o.tail = o.text[:start], nil
	}
	return found
}

// stop returns where the stop string starts that ends first in text, the
// longest of several that end there.
func (o *output) stop(text []byte) (start int, found bool) {
	end := 0
	for _, s := range o.stops {
		i := bytes.Index(text, s)
		if i >= 0 && (!found || i+len(s) < end || i+len(s) == end && i < start) {
			start, end, found = i, i+len(s), true
		}
	}
	return start, found
}

// certain takes out the tokens whose text is certain, if there are any: those
// before the last boundary that no stop string can still be found across.
func (o *output) certain() (Delta, bool) {
	begun := len(o.text) // where the first stop string begins that may be under way
	for _, s := range o.stops {
		for n := min(len(s)-1, len(o.text)); n > len(o.text)-begun; n-- {
			if bytes.HasSuffix(o.text, s[:n]) {
				begun = len(o.text) - n
			}
		}
	}
	n := len(o.held)
	for n > 0 && !(o.held[n-1].whole && o.held[n-1].end <= begun) {
		n--
	}
	if n == 0 {
		return Delta{}, false
	}
	return o.take(n, o.held[n-1].end), true
}

// finish takes out everything that is held. It reports whether there are any
// tokens, and whether a stop string was found in what the last bytes became.
func (o *output) finish() (d Delta, any, found bool) {
	o.text = append(o.text, Text(o.tail)...)
	o.tail = nil
	found = o.truncate()
	if len(o.held) == 0 {
		return Delta{}, false, found
	}
	return o.take(len(o.held), len(o.text)), true, found
}

// take takes out the first n tokens and the text up to end.
func (o *output) take(n, end int) Delta {
	d := Delta{Tokens: make([]int, n), Text: string(o.text[:end])}
	for i, h := range o.held[:n] {
		d.Tokens[i] = h.token
	}
	o.held = slices.Delete(o.held, 0, n)
	o.text = slices.Delete(o.text, 0, end)
	for i := range o.held {
		o.held[i].end -= end
	}
	return d
}
