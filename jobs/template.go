package jobs

import (
	"slices"
	"strings"

	"colophon/internal/errcode"
	"colophon/internal/policy"
)

// The chat templates. A template makes the prompt of a job from the messages of a
// conversation.
const (
	// TemplatePlain puts the name of the role before each text. Its prompts are ordinary
	// texts.
	TemplatePlain = "plain"

	// TemplateEOS ends each turn with the end-of-text token of the model. In a prompt,
	// the text <|endoftext|> stands for this token.
	TemplateEOS = "eos"
)

const endOfText = "<|endoftext|>"

// ErrEndOfText is returned for a turn that contains the text that separates turns.
var ErrEndOfText = errcode.New("prompt_end_of_text", "a message contains <|endoftext|>, which separates the turns of a conversation")

// prompt returns the prompt of a request as the rules leave it. It returns a policy.Refusal
// for a prompt that breaks the rules, and ErrEndOfText.
func (r *Request) prompt(rules *policy.Rules) (string, error) {
	check := rules.Prompt
	if r.LongPrompt {
		check = rules.LongPrompt
	}
	if r.Template != TemplateEOS {
		return check(r.Prompt)
	}
	// A refused word may be spread over several turns.
	if _, err := check(strings.Join(r.Turns, "\n")); err != nil {
		return "", err
	}
	var b strings.Builder
	for _, turn := range r.Turns {
		clean, err := check(turn)
		if err != nil {
			return "", err
		}
		if strings.Contains(clean, endOfText) {
			return "", ErrEndOfText
		}
		b.WriteString(clean)
		b.WriteString(endOfText)
	}
	return b.String(), nil
}

// encodePrompt returns the tokens of a prompt that was made with a template. eos is the id of
// the end-of-text token.
func encodePrompt(encode func(string) []int, eos int, template, prompt string) []int {
	if template != TemplateEOS {
		return encode(prompt)
	}
	var tokens []int
	for turn := range strings.SplitSeq(strings.TrimSuffix(prompt, endOfText), endOfText) {
		tokens = append(slices.Concat(tokens, encode(turn)), eos)
	}
	return tokens
}
