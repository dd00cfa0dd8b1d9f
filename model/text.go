package model

import (
	"slices"
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
		r, n := first(b)
		s.WriteRune(r)
		b = b[n:]
	}
	return s.String()
}

// Offsets returns the offset of each of consecutive pieces of bytes in their [Text], in
// characters. A piece that begins inside a character has the offset of that character. A
// piece without bytes has the offset of the next byte.
func Offsets(pieces [][]byte) []int {
	b := slices.Concat(pieces...)
	offsets := make([]int, len(pieces))
	start, end, n := 0, 0, 0 // the piece begins at start, and the first n characters end at end
	for i, piece := range pieces {
		for end <= start && end < len(b) {
			_, size := first(b[end:])
			end += size
			n++
		}
		offsets[i] = n
		if end > start {
			offsets[i]--
		}
		start += len(piece)
	}
	return offsets
}

// first returns the first character of the Text of b, and the number of bytes that it stands
// for. b must not be empty.
func first(b []byte) (r rune, n int) {
	r, n = utf8.DecodeRune(b)
	if r == utf8.RuneError && n == 1 {
		n = subpart(b)
	}
	return r, n
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
