package openai

import (
	"encoding/json"
	"errors"
	"slices"
)

// errForm means that a value has none of the forms of its field. No client sees it: the schema of
// the field refuses such a value, and a line of a batch has a fault in its place.
var errForm = errors.New("the value has another form")

// Stop are stop strings: one string, or a list.
type Stop []string

// UnmarshalJSON reads one string or a list.
func (s *Stop) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil && string(b) != "null" {
		*s = Stop{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(s))
}

// A Prompt is one prompt of a request, as a text or as token ids.
type Prompt struct {
	Text string
	IDs  []int // nil for a text
}

// Prompts are the prompts of a request. The wire forms are a string, a list of strings, a
// list of token ids, and a list of lists of token ids.
type Prompts []Prompt

// UnmarshalJSON reads any of the four forms.
func (p *Prompts) UnmarshalJSON(b []byte) error {
	var text string
	var texts []string
	var ids []int
	var lists [][]int
	switch {
	case string(b) == "null":
		return nil
	case json.Unmarshal(b, &text) == nil:
		*p = Prompts{{Text: text}}
	case json.Unmarshal(b, &texts) == nil:
		*p = nil
		for _, text := range texts {
			*p = append(*p, Prompt{Text: text})
		}
	case json.Unmarshal(b, &ids) == nil:
		*p = Prompts{{IDs: ids}}
	case json.Unmarshal(b, &lists) == nil:
		*p = nil
		for _, ids := range lists {
			*p = append(*p, Prompt{IDs: ids})
		}
	default:
		return errForm
	}
	return nil
}

// MarshalJSON writes a list of texts and lists of token ids. An idempotency key is bound to
// this form.
func (p Prompts) MarshalJSON() ([]byte, error) {
	list := make([]any, len(p))
	for i, prompt := range p {
		list[i] = prompt.Text
		if prompt.IDs != nil {
			list[i] = prompt.IDs
		}
	}
	return json.Marshal(list)
}

// text returns the text of a prompt. It returns a *Refusal for token ids that are not those
// of their text: the log records texts, and such ids would be others after a crash.
func (p Prompt) text(encode func(string) []int, decode func([]int) []byte) (string, error) {
	if p.IDs == nil {
		return p.Text, nil
	}
	text := string(decode(p.IDs))
	if !slices.Equal(encode(text), p.IDs) {
		return "", &Refusal{"prompt", "token_ids_not_text", "the token ids of a prompt are not those of a text: the tokens of the text that they spell are others. Send the text"}
	}
	return text, nil
}
