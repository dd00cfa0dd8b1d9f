package policy

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxPrompt is the maximum length of a short prompt in characters.
const MaxPrompt = 500

// Rules.Prompt returns these refusals.
var (
	ErrPromptLength   = Refusal{"prompt", "prompt_length", "the prompt must have 1 to 500 characters"}
	ErrPromptEncoding = Refusal{"prompt", "prompt_encoding", "the prompt is not valid Unicode text: it has a lone surrogate, bytes that are not UTF-8, or the replacement character U+FFFD that stands for them"}
	ErrPromptControl  = Refusal{"prompt", "prompt_control", "the prompt has a control character or one that overrides the direction of text; only tab, line feed and carriage return are allowed"}
	ErrPromptBlank    = Refusal{"prompt", "prompt_blank", "the prompt is empty without white space and the removed characters, such as < > { } ;"}
	ErrPromptWord     = Refusal{"prompt", "prompt_word", "the prompt has a word that is not allowed"}
)

// Prompt removes from a short prompt the characters that the rules remove, and returns the
// rest unchanged. If the prompt breaks a rule, it returns a Refusal. Prompt is
// idempotent.
func (r *Rules) Prompt(text string) (clean string, err error) {
	if n := utf8.RuneCountInString(text); !damaged(text) && (n < 1 || n > MaxPrompt) {
		return "", ErrPromptLength
	}
	return r.LongPrompt(text)
}

// LongPrompt is like Prompt for a prompt of any length. Its caller bounds the length.
func (r *Rules) LongPrompt(text string) (clean string, err error) {
	if damaged(text) {
		return "", ErrPromptEncoding
	}
	if strings.ContainsFunc(text, func(c rune) bool { return control(c) && c != '\t' && c != '\n' && c != '\r' || override(c) }) {
		return "", ErrPromptControl
	}
	clean = strings.Map(func(c rune) rune {
		if slices.Contains(r.removed, c) {
			return -1
		}
		return c
	}, text)
	if !strings.ContainsFunc(clean, func(c rune) bool { return !invisible(c) }) {
		return "", ErrPromptBlank
	}
	if r.refuses(clean) {
		return "", ErrPromptWord
	}
	return clean, nil
}

// refuses reports whether a complete text has a refused word.
func (r *Rules) refuses(text string) bool {
	m := matcher{rules: r}
	_, refused := m.read(text, 0)
	if !refused {
		_, refused = m.end()
	}
	return refused
}
