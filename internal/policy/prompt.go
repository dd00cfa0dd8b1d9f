package policy

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxPrompt is the length of the longest prompt in characters, as submitted.
const MaxPrompt = 500

// What can be wrong with a prompt.
var (
	ErrPromptLength   = Refusal{"prompt", "prompt_length", "the prompt must have 1 to 500 characters"}
	ErrPromptEncoding = Refusal{"prompt", "prompt_encoding", "the prompt is not valid Unicode text: it has a lone surrogate, bytes that are not UTF-8, or the replacement character U+FFFD that stands for them"}
	ErrPromptControl  = Refusal{"prompt", "prompt_control", "the prompt has a control character; only tab, line feed and carriage return are allowed"}
	ErrPromptBlank    = Refusal{"prompt", "prompt_blank", "nothing is left of the prompt after the characters < > { } ; and white space are removed"}
	ErrPromptWord     = Refusal{"prompt", "prompt_word", "the prompt has a word that is not allowed"}
)

// refusedWord reports whether a word of a folded prompt is not allowed.
func refusedWord(word string) bool { return word == "hate" || word == "violence" }

// betweenWords reports whether r cannot be a part of a refused word. The letters
// of scripts that do without spaces are as good as a space (UAX #29 has a word
// boundary there too).
func betweenWords(r rune) bool {
	return !unicode.In(r, unicode.L, unicode.M, unicode.N) ||
		unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar)
}

// Prompt returns the prompt without the characters <>{}; and otherwise as it
// was, or a Refusal. What it returns passes again, unchanged.
//
// A word is a run of letters, marks and digits, whatever else is around it, and
// is compared in its folded form: "Hate!", "_hate_" and "hate-speech" are
// refused for the word in them, "whatever" and "nonviolence" have another.
func Prompt(text string) (clean string, err error) {
	if damaged(text) {
		return "", ErrPromptEncoding
	}
	if n := utf8.RuneCountInString(text); n < 1 || n > MaxPrompt {
		return "", ErrPromptLength
	}
	if strings.ContainsFunc(text, func(r rune) bool { return control(r) && r != '\t' && r != '\n' && r != '\r' }) {
		return "", ErrPromptControl
	}
	clean = strings.Map(func(r rune) rune {
		if stripped(r) {
			return -1
		}
		return r
	}, text)
	if !strings.ContainsFunc(clean, func(r rune) bool { return !invisible(r) }) {
		return "", ErrPromptBlank
	}
	for word := range strings.FieldsFuncSeq(fold(clean), betweenWords) {
		if refusedWord(word) {
			return "", ErrPromptWord
		}
	}
	return clean, nil
}
