package openai

import (
	"strings"

	"colophon/jobs"
)

// render returns the request for the answer to a conversation, without sampling parameters.
//
// The template plain writes what the AI SDK sends to models without a chat form: the texts of
// the system and of developers, then each other text after the name of its role, and at last
// the name of the assistant. A line with the name of the user ends the answer. One message of
// a user alone is the prompt as it is.
//
// The template eos has the turns as they are. The texts of the system and of developers are
// the first turn, because such a model has no other place for them.
func render(template string, messages []Message) (r jobs.Request) {
	var system []string
	var turns []Message
	for _, m := range messages {
		if m.Role == "system" || m.Role == "developer" {
			system = append(system, string(m.Content))
		} else {
			turns = append(turns, m)
		}
	}
	r.Template, r.LongPrompt = template, true
	if template == jobs.TemplateEOS {
		if len(system) > 0 {
			r.Turns = append(r.Turns, strings.Join(system, "\n\n"))
		}
		for _, m := range turns {
			r.Turns = append(r.Turns, string(m.Content))
		}
		return r
	}
	if len(messages) == 1 && messages[0].Role == "user" {
		r.Prompt = string(messages[0].Content)
		return r
	}
	var b strings.Builder
	for _, text := range system {
		b.WriteString(text + "\n\n")
	}
	for _, m := range turns {
		b.WriteString(m.Role + ":\n" + string(m.Content) + "\n\n")
	}
	b.WriteString("assistant:\n")
	r.Prompt, r.Stop = b.String(), []string{"\nuser:"}
	return r
}
