package model

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The holdback must not hold back a token longer than necessary. Every boundary between
// pending tokens must be inside a character, or inside text that may become a stop
// string.
func TestHoldbackEmitsAsEarlyAsPossible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, prompt, p := drawRun(t)
		full, _ := generate(t, e, prompt, nil, p)
		tokens, _ := join(full)
		var emitted, held []int
		h := newHoldback(p.Stop, p.MinTokens)
		for _, id := range tokens {
			held = append(held, id)
			if h.add(id, e.Decode([]int{id}), nil) {
				return
			}
			if d, ok := h.certain(); ok {
				emitted = append(emitted, d.Tokens...)
				held = held[len(d.Tokens):]
			}
			all := e.Decode(held)
			whole := []byte(Text(all[:complete(all)]))
			for n := 1; n <= len(held); n++ {
				b := e.Decode(held[:n])
				if complete(b) < len(b) {
					continue
				}
				across := false
				for from := range len(Text(b)) {
					across = across || begins(p.Stop, whole[from:])
				}
				if !across {
					t.Fatalf("after %v, %v are held back, of which the first %d are certain", emitted, held, n)
				}
			}
		}
	})
}

// begins reports whether text is a prefix of a stop string.
func begins(stops []string, text []byte) bool {
	return slices.ContainsFunc(stops, func(s string) bool { return strings.HasPrefix(s, string(text)) })
}

func TestHoldbackEndsTheTextBeforeStopStrings(t *testing.T) {
	for _, c := range []struct {
		tokens []string // texts of the tokens, in the order of generation
		stop   []string
		want   []string // texts of the emitted deltas
	}{
		{[]string{"a", "b", "c"}, nil, []string{"a", "b", "c"}},
		{[]string{"a", "b", "c"}, []string{"x"}, []string{"a", "b", "c"}},
		{[]string{"one", " END", "more"}, []string{"END"}, []string{"one", " "}},
		{[]string{"one E", "N", "D", "more"}, []string{"END"}, []string{"one "}},
		{[]string{"E", "N", "x", "y"}, []string{"END"}, []string{"ENx", "y"}},
		{[]string{"E", "E", "E", "N", "x"}, []string{"END"}, []string{"E", "E", "ENx"}},
		{[]string{"E", "E", "E"}, []string{"END"}, []string{"E", "EE"}},
		{[]string{"abc"}, []string{"c", "bc", "b"}, []string{"a"}},
		{[]string{"abc"}, []string{"c", "bc"}, []string{"a"}},
		{[]string{"abc"}, []string{"abc", "b"}, []string{"a"}},
		{[]string{"END"}, []string{"END"}, []string{""}},
		{[]string{"\xf0\x9f", "\x98\x80", "!"}, []string{"😀!"}, []string{""}},
		{[]string{"\xf0\x9f", "\x98", "A"}, nil, []string{"\ufffdA"}},
		{[]string{"A", "\xf0\x9f", "\x98"}, nil, []string{"A", "\ufffd"}},
		{[]string{"A", "\xf0\x9f", "\x98"}, []string{"\ufffd"}, []string{"A", ""}},
		{[]string{"\xff", "A"}, nil, []string{"\ufffd", "A"}},
	} {
		h := newHoldback(c.stop, 0)
		got := []string{}
		for i, s := range c.tokens {
			if h.add(i, []byte(s), nil) {
				break
			}
			if i == len(c.tokens)-1 {
				break
			}
			if d, ok := h.certain(); ok {
				got = append(got, d.Text)
			}
		}
		if d, ok, _ := h.finish(); ok {
			got = append(got, d.Text)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q with stops %q: %q, want %q", c.tokens, c.stop, got, c.want)
		}
	}
}
