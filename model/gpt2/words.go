package gpt2

import (
	"iter"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Words yields the words of a text, which a tokenizer encodes one by one. All words
// together are the whole text. The words are the matches of GPT-2's pattern
// (github.com/openai/gpt-2, encoder.py):
//
//	's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// where \s is Unicode White_Space. A byte that is not UTF-8 counts as a symbol.
func Words(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for text := text; text != ""; {
			n := firstWord(text)
			if !yield(text[:n]) {
				return
			}
			text = text[n:]
		}
	}
}

// firstWord returns the length of the first word of a text that is not empty.
func firstWord(s string) int {
	if s[0] == '\'' {
		for _, c := range [...]string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"} {
			if strings.HasPrefix(s, c) {
				return len(c)
			}
		}
	}
	start := 0
	if s[0] == ' ' && len(s) > 1 {
		start = 1
	}
	k, n := kindAt(s[start:])
	if k == space {
		return firstSpaces(s)
	}
	end := start + n
	for end < len(s) {
		next, n := kindAt(s[end:])
		if next != k {
			break
		}
		end += n
	}
	return end
}

// firstSpaces matches \s+(?!\S)|\s+ at the start of s and returns the length of the
// match. It matches all white space at the start. If a word follows, the match leaves
// out the last white space character, unless it is the only one.
func firstSpaces(s string) int {
	end, last := 0, 0
	for end < len(s) {
		k, n := kindAt(s[end:])
		if k != space {
			if last > 0 {
				return last
			}
			break
		}
		last, end = end, end+n
	}
	return end
}

// A kind is a class of characters in the pattern.
type kind int

const (
	symbol kind = iota
	letter
	number
	space
)

// kindAt classifies the first character of s and returns its length in bytes.
// A byte that does not begin a character is a symbol.
func kindAt(s string) (kind, int) {
	if c := s[0]; c < utf8.RuneSelf {
		switch {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z':
			return letter, 1
		case '0' <= c && c <= '9':
			return number, 1
		case c == ' ' || '\t' <= c && c <= '\r':
			return space, 1
		}
		return symbol, 1
	}
	r, n := utf8.DecodeRuneInString(s)
	switch {
	case unicode.IsLetter(r):
		return letter, n
	case unicode.IsNumber(r):
		return number, n
	case unicode.IsSpace(r):
		return space, n
	}
	return symbol, n
}
