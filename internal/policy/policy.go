// Package policy holds the rules for text: prompts, user names and passwords that
// come from outside, and texts that are generated.
//
// Every rule is a pure function: no clock, no input but its arguments, safe for
// concurrent use. Only [Watcher] reads a file and has a clock. Text that breaks a
// rule is answered with a [Refusal], whose message is a constant and so never repeats
// what was submitted.
//
// [Rules] are the words that are refused, in prompts and in generated texts
// alike, however they are spelt: in any case and font, with marks, with letters of
// Cyrillic, Greek and other scripts and with digits and signs that look like
// those of the word, with letters that repeat, with invisible characters in
// between, and spread out with up to three characters between the letters. A word
// is what Unicode has between word boundaries, and what stands beside letters of
// a script that is not taken for Latin: "nonviolence" is another one than
// "violence". Words of fewer than seven letters are looked for with more care, as
// those of a sentence have their letters by chance: "ha-te" is one, "hat 3" none.
//
// Characters are Unicode code points, as in JSON Schema's minLength and
// maxLength.
package policy

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// Refusal is the error for text that breaks a rule. Refusals are comparable:
// the ones that this package returns are its Err variables.
type Refusal struct {
	Field   string // what was refused: "prompt", "username" or "password"
	Code    string // which rule it broke, for programs: lower case with underscores
	Message string // which rule it broke and what to do, for people; never the text itself
}

// Error returns the message.
func (r Refusal) Error() string { return r.Message }

// damaged reports whether text is not what its sender can have meant: bytes
// that are not UTF-8, or U+FFFD, which is what a decoder puts in place of such
// bytes and of lone surrogates.
func damaged(text string) bool {
	return !utf8.ValidString(text) || strings.ContainsRune(text, utf8.RuneError)
}

// control reports whether r is a control character, NUL included.
func control(r rune) bool { return unicode.Is(unicode.Cc, r) }

// override reports whether r makes the letters after it run in one direction,
// whatever they are: then a text is not read as it is spelt.
func override(r rune) bool { return r == '\u202d' || r == '\u202e' }

// stripped reports whether r is one of the characters that user names must not
// have, which are those that prompts lose if nothing else is decided.
func stripped(r rune) bool { return strings.ContainsRune("<>{};", r) }

// ignorable reports whether r normally shows nothing and stands for nothing,
// such as a soft hyphen or a zero-width joiner (Unicode's default ignorable
// code points, and the other format characters).
func ignorable(r rune) bool {
	return unicode.In(r, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// invisible reports whether r leaves no mark on paper.
func invisible(r rune) bool {
	const brailleBlank = '\u2800' // a symbol to Unicode, blank to the eye
	return unicode.IsSpace(r) || ignorable(r) || control(r) || r == brailleBlank
}

// fold returns the form in which texts are compared: without ignorable
// characters, and the same for all compatibility and case variants (the
// compatibility caseless match of the Unicode standard, definition D146).
// Folding twice is folding once.
func fold(text string) string {
	prepare := func(r rune) rune {
		switch {
		case ignorable(r):
			return -1
		case unicode.Is(unicode.Cherokee, r): // which cases.Fold leaves out
			return unicode.ToUpper(r)
		}
		return r
	}
	folder := cases.Fold() // has a state of its own
	text = folder.String(norm.NFD.String(strings.Map(prepare, text)))
	return norm.NFKC.String(folder.String(norm.NFKD.String(text)))
}
