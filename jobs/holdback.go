package jobs

import (
	"errors"
	"slices"
	"strings"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/model"
)

// errRefused ends the generation of a text that contains a refused word.
var errRefused = errors.New("the text is refused")

// holdback is the buffer between the model and the job's event stream. It holds deltas
// back while they may be the beginning of a word that the policy refuses.
//
// The released text depends only on the rules, the prompt and the tokens, and not on
// interruptions. The final delta is returned by end, not by add. The worker records the
// final delta together with the end of the job. Until then an interrupted job can
// continue from its tokens.
type holdback struct {
	rules  *policy.Rules
	decode func([]int) []byte
	prompt string

	filter   *policy.Filter
	released strings.Builder // the text released so far
	buffer   []model.Delta   // the deltas held back
	refused  bool            // the text contains a refused word
	cut      bool            // the last delta ends in the middle of its tokens' text, for example before a stop sequence
}

// newHoldback returns a buffer for the rest of a job's text.
func newHoldback(rules *policy.Rules, e model.Engine, job events.Job) *holdback {
	h := &holdback{rules: rules, decode: e.Decode, prompt: job.Prompt, filter: rules.Filter(job.Prompt, job.Text)}
	h.released.WriteString(job.Text)
	_, h.refused = h.filter.Add("") // newer rules may refuse the text that is already on record
	return h
}

// add adds a delta and returns the text that can be released now. ok is false if no
// text can be released. add returns errRefused if the text is refused.
//
// Deltas that are released together become one delta, because the first deltas alone
// may spell a refused word. For example, "hateful" is allowed but begins with "hate".
func (h *holdback) add(d model.Delta) (released model.Delta, ok bool, err error) {
	free, refused := h.filter.Add(d.Text)
	h.buffer = append(h.buffer, d)
	if h.refused = refused; refused {
		return released, false, errRefused
	}
	if h.spell(d.Tokens) != d.Text {
		h.cut = true // the text ends within these tokens, so no delta follows
		return released, false, nil
	}
	n, length := 0, h.released.Len()
	for n < len(h.buffer) && length+len(h.buffer[n].Text) <= free {
		length += len(h.buffer[n].Text)
		n++
	}
	released = join(h.buffer[:n])
	h.buffer = slices.Delete(h.buffer, 0, n)
	h.released.WriteString(released.Text)
	return released, n > 0, nil
}

// join returns the concatenation of deltas.
func join(deltas []model.Delta) model.Delta {
	if len(deltas) == 1 {
		return deltas[0]
	}
	var all model.Delta
	for _, d := range deltas {
		all.Tokens = append(all.Tokens, d.Tokens...)
		all.Text += d.Text
		all.Logprobs = append(all.Logprobs, d.Logprobs...)
	}
	return all
}

// end returns the final delta. If the text is refused, the delta ends before the
// refused word.
func (h *holdback) end() (last model.Delta, refused bool) {
	free, refused := h.filter.End()
	last = join(h.buffer)
	last.Text = last.Text[:free-h.released.Len()]
	if refused || h.cut {
		last.Tokens = h.trimTokens(last, refused)
		last.Logprobs = last.Logprobs[:min(len(last.Logprobs), len(last.Tokens))]
	}
	return last, refused
}

// trimTokens returns the longest prefix of the final delta's tokens that spells no
// refused word. If the text is refused, the prefix also spells no more than the
// delta's text.
func (h *holdback) trimTokens(last model.Delta, refused bool) []int {
	for n := len(last.Tokens); n > 0; n-- {
		spelled := h.spell(last.Tokens[:n])
		if refused && !strings.HasPrefix(last.Text, spelled) {
			continue
		}
		f := h.rules.Filter(h.prompt, h.released.String())
		_, _ = f.Add(spelled)
		if _, bad := f.End(); !bad {
			return last.Tokens[:n]
		}
	}
	return nil
}

func (h *holdback) spell(tokens []int) string { return model.Text(h.decode(tokens)) }
