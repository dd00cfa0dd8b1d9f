// Package policy holds the rules for submitted prompts, user names and passwords, and
// for generated texts.
//
// Every rule is a pure function. It uses no clock and no input except its arguments,
// and is safe for concurrent use. Only [Watcher] reads a file and uses a clock. A text
// that breaks a rule gives a [Refusal]. The message of a Refusal is a constant, so it
// never repeats the submitted text.
//
// [Rules] are the refused words in prompts and in generated texts. A word matches in
// many spellings:
//
//   - in any case and font, and with marks
//   - with characters that look like its letters: letters of Cyrillic, Greek and other
//     scripts, digits and signs
//   - with repeated letters, and with invisible characters in between
//   - spread out, with up to three characters between the letters
//
// A word must begin and end at a word boundary of Unicode, or beside a letter of a script
// that does not look like Latin. So "nonviolence" does not contain the word "violence". A
// word of fewer than seven letters matches only under more conditions, because a sentence
// can contain such a word's letters by chance. For example, "ha-te" matches, but "hat 3"
// does not. The decision record 0025 lists the spellings that pass.
//
// Characters are Unicode code points, as in JSON Schema's minLength and maxLength.
package policy

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// Refusal is the error for text that breaks a rule. Refusals are comparable:
// this package returns only its Err variables.
type Refusal struct {
	Field   string // name of the refused field, which is "prompt", "username" or "password"
	Rule    string // code of the broken rule for programs, in lower case with underscores
	Message string // text for people that says what to do and never repeats the submitted text
}

// Code returns the code of the broken rule.
func (r Refusal) Code() string { return r.Rule }

// Error returns the message.
func (r Refusal) Error() string { return r.Message }

// damaged reports whether text has bytes that are not UTF-8, or the character U+FFFD. A
// decoder replaces such bytes and lone surrogates by U+FFFD.
func damaged(text string) bool {
	return !utf8.ValidString(text) || strings.ContainsRune(text, utf8.RuneError)
}

// control reports whether r is a control character, NUL included.
func control(r rune) bool { return unicode.Is(unicode.Cc, r) }

// override reports whether r overrides the direction of the letters after it. People
// then read these letters in a different order than the stored order.
func override(r rune) bool { return r == '\u202d' || r == '\u202e' }

// stripped reports whether user names must not have r because r may be part of markup
// or code. The built-in rules remove the same characters from prompts.
func stripped(r rune) bool { return strings.ContainsRune("<>{};", r) }

// ignorable reports whether r is normally not visible, such as a soft hyphen or a
// zero-width joiner. These are Unicode's default ignorable code points and the other
// format characters.
func ignorable(r rune) bool {
	return unicode.In(r, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// invisible reports whether r looks blank, such as a space or a control character.
func invisible(r rune) bool {
	const brailleBlank = '\u2800' // Unicode classifies this character as a symbol, but it looks blank
	return unicode.IsSpace(r) || ignorable(r) || control(r) || r == brailleBlank
}

// fold returns the form in which texts are compared. The form has no ignorable
// characters. It is the same for all compatibility and case variants of a text. This is
// the compatibility caseless match of the Unicode standard, definition D146. fold is
// idempotent.
func fold(text string) string {
	prepare := func(r rune) rune {
		switch {
		case ignorable(r):
			return -1
		case unicode.Is(unicode.Cherokee, r): // cases.Fold leaves Cherokee letters unchanged
			return unicode.ToUpper(r)
		}
		return r
	}
	folder := cases.Fold() // a folder has state, so each call needs its own folder
	text = folder.String(norm.NFD.String(strings.Map(prepare, text)))
	return norm.NFKC.String(folder.String(norm.NFKD.String(text)))
}
