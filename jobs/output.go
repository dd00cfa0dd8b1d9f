package jobs

import (
	"errors"
	"slices"
	"strings"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/model"
)

// errRefused ends the generation of a text that has come to a word against the rules.
var errRefused = errors.New("the text is refused")

// output stands between the model and the record: it holds deltas back while
// they can be the beginning of a word against the rules.
//
// What leaves, and how the text ends, depends on the rules, the prompt and the
// tokens alone. The last that leaves is not among the deltas that are let go but
// in what end returns, to be put on record with the end of the job: before, an
// interrupted job has to be able to go on from its tokens.
type output struct {
	rules  *policy.Rules
	decode func([]int) []byte
	prompt string

	filter  *policy.Filter
	text    strings.Builder // what has left
	held    []model.Delta
	refused bool // from the beginning, or by now
	cut     bool // the tokens of the last delta spell more than its text
}

// newOutput returns an output for the rest of a job's text.
func newOutput(rules *policy.Rules, e model.Engine, job events.Job) *output {
	o := &output{rules: rules, decode: e.Decode, prompt: job.Prompt, filter: rules.Filter(job.Prompt, job.Text)}
	o.text.WriteString(job.Text)
	_, o.refused = o.filter.Add("") // under rules that came later than what has left
	return o
}

// add takes a delta and returns what may leave now, if there is anything, or
// errRefused. Deltas that leave together are one: a part of them might be a word
// that all of them are not.
func (o *output) add(d model.Delta) (leaves model.Delta, any bool, err error) {
	free, refused := o.filter.Add(d.Text)
	o.held = append(o.held, d)
	if o.refused = refused; refused {
		return leaves, false, errRefused
	}
	if o.spell(d.Tokens) != d.Text {
		o.cut = true // so no other one follows
		return leaves, false, nil
	}
	n, length := 0, o.text.Len()
	for n < len(o.held) && length+len(o.held[n].Text) <= free {
		length += len(o.held[n].Text)
		n++
	}
	leaves = join(o.held[:n])
	o.held = slices.Delete(o.held, 0, n)
	o.text.WriteString(leaves.Text)
	return leaves, n > 0, nil
}

// join makes one delta of several.
func join(deltas []model.Delta) model.Delta {
	if len(deltas) == 1 {
		return deltas[0]
	}
	var all model.Delta
	for _, d := range deltas {
		all.Tokens = append(all.Tokens, d.Tokens...)
		all.Text += d.Text
	}
	return all
}

// end returns the last of the text, up to the word that it is refused for, if it is.
func (o *output) end() (last model.Delta, refused bool) {
	free, refused := o.filter.End()
	last = join(o.held)
	last.Text = last.Text[:free-o.text.Len()]
	if refused || o.cut {
		last.Tokens = o.tell(last, refused)
	}
	return last, refused
}

// tell returns the tokens of a last delta without those that would tell what its
// text does not: they spell no more than the text if that is refused, and never
// a word that is.
func (o *output) tell(last model.Delta, refused bool) []int {
	for n := len(last.Tokens); n > 0; n-- {
		spelled := o.spell(last.Tokens[:n])
		if refused && !strings.HasPrefix(last.Text, spelled) {
			continue
		}
		f := o.rules.Filter(o.prompt, o.text.String())
		_, _ = f.Add(spelled)
		if _, bad := f.End(); !bad {
			return last.Tokens[:n]
		}
	}
	return nil
}

func (o *output) spell(tokens []int) string { return model.Text(o.decode(tokens)) }
