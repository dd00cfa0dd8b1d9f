package model

import (
	"strings"
	"unicode/utf8"
)

// Text returns b as UTF-8 text. Text replaces bytes that are not part of a character
// with U+FFFD, one for each maximal subpart of a character. Unicode (chapter 3, "U+FFFD
// Substitution of Maximal Subparts") recommends this rule, and WHATWG's Encoding
// requires it.
func Text(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var s strings.Builder
	s.Grow(len(b) + 2*utf8.UTFMax)
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			n = subpart(b)
		}
		s.WriteRune(r)
		b = b[n:]
	}
	return s.String()
}

// subpart returns the length of the longest prefix of b that can begin a character. If
// no prefix can begin a character, it returns 1.
func subpart(b []byte) int {
	n := 1
	for n < len(b) && !utf8.FullRune(b[:n+1]) {
		n++
	}
	return n
}

// complete returns the length of b without the bytes of an incomplete last character.
func complete(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if at := len(b) - n; utf8.RuneStart(b[at]) {
			if utf8.FullRune(b[at:]) {
				break
			}
			return at
		}
	}
	return len(b)
}
