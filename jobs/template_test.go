package jobs

import (
	"errors"
	"slices"
	"testing"

	"colophon/internal/policy"
)

// TestTurnsBecomeAPrompt makes prompts of turns under the template eos, and reads their
// tokens back. Every turn must end with the end-of-text token and nothing else may.
func TestTurnsBecomeAPrompt(t *testing.T) {
	rules := policy.Default()
	encode := func(text string) (ids []int) {
		for _, b := range []byte(text) {
			ids = append(ids, int(b))
		}
		return ids
	}
	for _, k := range []struct {
		turns  []string
		prompt string
		tokens []int
		err    error
	}{
		{[]string{"a"}, "a<|endoftext|>", []int{'a', -7}, nil},
		{[]string{"a", "b<c"}, "a<|endoftext|>bc<|endoftext|>", []int{'a', -7, 'b', 'c', -7}, nil},
		{[]string{"a", " <>"}, "", nil, policy.ErrPromptBlank},
		{[]string{"a", ""}, "", nil, policy.ErrPromptBlank},
		{nil, "", nil, policy.ErrPromptBlank},
	} {
		r := Request{Template: TemplateEOS, Turns: k.turns, LongPrompt: true}
		prompt, err := r.prompt(rules)
		if prompt != k.prompt || !errors.Is(err, k.err) {
			t.Errorf("%q: %q, %v", k.turns, prompt, err)
		}
		if err != nil {
			continue
		}
		if tokens := encodePrompt(encode, -7, TemplateEOS, prompt); !slices.Equal(tokens, k.tokens) {
			t.Errorf("%q: tokens %v, want %v", k.turns, tokens, k.tokens)
		}
		if tokens := encodePrompt(encode, -7, TemplatePlain, prompt); !slices.Equal(tokens, encode(prompt)) {
			t.Errorf("%q: tokens %v under the template plain", k.turns, tokens)
		}
	}
}
