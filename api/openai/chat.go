package openai

import (
	"cmp"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"colophon/events"
	"colophon/jobs"
)

// ChatBody is the request body of /v1/chat/completions.
type ChatBody struct {
	Model               string   `json:"model" minLength:"1" maxLength:"200" example:"opticks" doc:"The name of the served model, as GET /v1/models has it."`
	Messages            Messages `json:"messages" doc:"The conversation. The chat template of the model makes a prompt of it; GET /v1/models says which. The text policy applies to the prompt."`
	MaxTokens           int      `json:"max_tokens,omitempty" minimum:"1" maximum:"1048576" doc:"The largest number of tokens of each answer. The model's context may leave room for fewer. Without it, the length is that of POST /generate: 50."`
	MaxCompletionTokens int      `json:"max_completion_tokens,omitempty" minimum:"1" maximum:"1048576" doc:"As max_tokens, and used in its place if a request has both."`
	Logprobs            bool     `json:"logprobs,omitempty" doc:"Answer with the log probability of each token of the text."`
	TopLogprobs         int      `json:"top_logprobs,omitempty" minimum:"0" maximum:"20" doc:"With logprobs: the number of the likeliest tokens at each position whose log probabilities to answer with."`
	Sampling
	Hints
}

// Chat is the table of the fields of /v1/chat/completions.
var Chat = Operation{
	Honoured: reflect.TypeFor[ChatBody](),
	Refused: []Refused{
		{"audio", nil, onlyText},
		{"function_call", []string{`"none"`, `"auto"`}, noTools},
		{"functions", []string{"[]"}, noTools},
		{"metadata", []string{"{}"}, "jobs have no metadata"},
		{"modalities", []string{"[]", `["text"]`}, onlyText},
		{"moderation", []string{"{}"}, ownPolicy},
		{"parallel_tool_calls", []string{"true", "false"}, noTools},
		{"prediction", nil, "the model does not use predicted texts"},
		{"prompt_cache_options", []string{"{}"}, noCache},
		{"reasoning_effort", []string{`"none"`}, notReasoning},
		{"response_format", []string{`{"type":"text"}`}, noForm},
		{"service_tier", []string{`"auto"`, `"default"`}, oneTier},
		{"store", []string{"false"}, "every job is on record, and in the history of its user; there is no second store"},
		{"tool_choice", []string{`"none"`, `"auto"`}, noTools},
		{"tools", []string{"[]"}, noTools},
		{"verbosity", []string{`"medium"`}, noSetting},
		{"web_search_options", nil, noTools},
	},
	Inner: withMessages(inner),
}.unique()

// withMessages returns readers, and that of messages.
func withMessages(readers map[string]func(json.RawMessage, string) (json.RawMessage, error)) map[string]func(json.RawMessage, string) (json.RawMessage, error) {
	all := map[string]func(json.RawMessage, string) (json.RawMessage, error){"messages": each(readMessage)}
	maps.Copy(all, readers)
	return all
}

// message is the table of the members of a message.
var message = Operation{
	Honoured: reflect.TypeFor[Message](),
	Refused: []Refused{
		{"annotations", []string{"[]"}, onlyText},
		{"audio", nil, onlyText},
		{"function_call", nil, noTools},
		{"name", nil, "a chat template has no names"},
		{"refusal", []string{`""`}, "a chat template has no refusals: send the text as content"},
		{"tool_call_id", nil, noTools},
		{"tool_calls", []string{"[]"}, noTools},
	},
	Inner: map[string]func(json.RawMessage, string) (json.RawMessage, error){"content": each(readPart)},
}.unique()

// part is the table of the members of a part of a content.
var part = Operation{
	Honoured: reflect.TypeFor[textPart](),
	Refused:  []Refused{{"prompt_cache_breakpoint", nil, noCache}},
}.unique()

// readMessage refuses messages that are not of a role with a text.
func readMessage(value json.RawMessage, at string) (json.RawMessage, error) {
	var m struct{ Role string }
	if json.Unmarshal(value, &m) == nil && (m.Role == "tool" || m.Role == "function") {
		return nil, unsupported(at+".role", noTools)
	}
	return message.read(value, at+".")
}

// readPart refuses parts that are not texts.
func readPart(value json.RawMessage, at string) (json.RawMessage, error) {
	var p struct{ Type string }
	if json.Unmarshal(value, &p) == nil && slices.Contains(otherParts, p.Type) {
		return nil, unsupported(at+".type", onlyText)
	}
	return part.read(value, at+".")
}

// otherParts are the types of parts in OpenAI's specification that are not texts.
var otherParts = []string{"image_url", "input_audio", "file", "refusal"}

// A Message is a turn of a conversation.
type Message struct {
	Role    string  `json:"role"` // system, developer, user or assistant
	Content Content `json:"content"`
}

// Messages are the turns of a conversation.
type Messages []Message

// Content is the text of a message. The wire forms are a string and a list of parts, whose
// texts are joined.
type Content string

// textPart is a part of a content.
type textPart struct {
	Type string `json:"type"` // text
	Text string `json:"text"`
}

// UnmarshalJSON reads a string or a list of parts.
func (c *Content) UnmarshalJSON(b []byte) error {
	var parts []textPart
	if json.Unmarshal(b, &parts) != nil {
		return json.Unmarshal(b, (*string)(c))
	}
	var text strings.Builder
	for _, p := range parts {
		text.WriteString(p.Text)
	}
	*c = Content(text.String())
	return nil
}

// errTopLogprobsAlone is the refusal of a chat that asks for the log probabilities of other
// tokens than those of the text alone.
var errTopLogprobsAlone = &Refusal{"top_logprobs", "top_logprobs_alone", "top_logprobs is only allowed when logprobs is true"}

// Requests returns a request for each answer. The template is one of package jobs.
// defaultTokens is the length of an answer if the client sets none. It returns a *Refusal for
// top_logprobs without logprobs.
func (b *ChatBody) Requests(template string, defaultTokens int) ([]jobs.Request, error) {
	if b.TopLogprobs > 0 && !b.Logprobs {
		return nil, errTopLogprobsAlone
	}
	rendered := render(template, b.Messages)
	r := b.request(rendered.Prompt)
	r.Template, r.Turns = rendered.Template, rendered.Turns
	r.Stop = append(slices.Clone(r.Stop), rendered.Stop...)
	r.MaxNewTokens = cmp.Or(b.MaxCompletionTokens, b.MaxTokens, defaultTokens)
	if b.Logprobs {
		r.Logprobs = &b.TopLogprobs
	}
	return b.copies(r), nil
}

// ChatCompletion is the answer of /v1/chat/completions.
type ChatCompletion struct {
	ID                string           `json:"id" doc:"chatcmpl- and the id of the first answer's job."`
	Object            string           `json:"object" enum:"chat.completion" doc:"The kind of object."`
	Created           int64            `json:"created" doc:"When the jobs were accepted, in Unix seconds."`
	Model             string           `json:"model" doc:"The name of the model."`
	SystemFingerprint string           `json:"system_fingerprint,omitempty" doc:"The weights and the arithmetic. With the same seed they give the same text again."`
	Choices           []ChatChoice     `json:"choices" nullable:"false" doc:"The answers."`
	Usage             *CompletionUsage `json:"usage,omitempty" doc:"The tokens of the request."`
}

// ChatChoice is an answer.
type ChatChoice struct {
	Index        int           `json:"index" doc:"The number of the answer, from 0."`
	Message      ChatMessage   `json:"message" doc:"The answer."`
	Logprobs     *ChatLogprobs `json:"logprobs" doc:"The log probabilities of the tokens. null if the request did not ask for them."`
	FinishReason string        `json:"finish_reason" enum:"stop,length,content_filter" doc:"Why the text ends: at a natural end or a stop string (stop), at its largest length (length), or before a word that the text policy refuses (content_filter)."`
}

// ChatMessage is the message of an answer.
type ChatMessage struct {
	Role    string  `json:"role" enum:"assistant" doc:"The role of the model."`
	Content string  `json:"content" doc:"The text."`
	Refusal *string `json:"refusal" doc:"Always null."`
}

// ChatChunk is a chunk of the stream of /v1/chat/completions.
type ChatChunk struct {
	ID                string            `json:"id"`
	Object            string            `json:"object"`
	Created           int64             `json:"created"`
	Model             string            `json:"model"`
	SystemFingerprint string            `json:"system_fingerprint,omitempty"`
	Choices           []ChatChunkChoice `json:"choices"`
	Usage             *CompletionUsage  `json:"usage,omitempty"`
}

// ChatChunkChoice is a piece of an answer.
type ChatChunkChoice struct {
	Index        int           `json:"index"`
	Delta        ChatDelta     `json:"delta"`
	Logprobs     *ChatLogprobs `json:"logprobs"`
	FinishReason *string       `json:"finish_reason"`
}

// ChatDelta is what a chunk adds to an answer.
type ChatDelta struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

// Answer returns the answer about ended jobs.
func (b *ChatBody) Answer(jobs []events.Job, logprobs Logprobs) ChatCompletion {
	h := headOf("chatcmpl-", jobs)
	c := ChatCompletion{ID: h.id, Object: "chat.completion", Created: h.created, Model: h.model, SystemFingerprint: h.fingerprint, Usage: new(usageOf(jobs, b.N))}
	for i, job := range jobs {
		choice := ChatChoice{Index: i, Message: ChatMessage{Role: "assistant", Content: job.Text}, FinishReason: job.FinishReason}
		if list, ok := logprobs(job, 0); ok {
			choice.Logprobs = chatLogprobs(list)
		}
		c.Choices = append(c.Choices, choice)
	}
	return c
}

// ChatStream makes the chunks of a stream.
type ChatStream struct {
	body     *ChatBody
	head     head
	logprobs logprobCursor
}

// NewStream returns the stream of accepted jobs.
func (b *ChatBody) NewStream(jobs []events.Job, logprobs Logprobs) ChatStream {
	return ChatStream{b, headOf("chatcmpl-", jobs), newLogprobCursor(logprobs, len(jobs))}
}

// Chunks returns the chunks for an event of job i. The jobs are folded up to their latest
// events, this one included. The events of each job must come in their order.
func (s ChatStream) Chunks(jobs []events.Job, i int, fact events.Fact) ([]json.RawMessage, error) {
	choice := ChatChunkChoice{Index: i}
	switch fact := fact.(type) {
	case events.JobAccepted:
		choice.Delta = ChatDelta{Role: "assistant", Content: new("")}
	case events.JobAdvanced:
		if fact.Text == "" {
			return nil, nil
		}
		choice.Delta.Content = &fact.Text
	case events.JobCompleted:
		choice.FinishReason = &fact.FinishReason
	default:
		return nil, nil
	}
	if list := s.logprobs.next(jobs[i], i); len(list) > 0 {
		choice.Logprobs = chatLogprobs(list)
	}
	chunk := s.chunk(jobs[i])
	chunk.Choices = append(chunk.Choices, choice)
	if !s.body.usage() {
		return one(json.Marshal(chunk))
	}
	return one(json.Marshal(struct {
		ChatChunk
		Usage *CompletionUsage `json:"usage"` // null, because the usage comes last
	}{ChatChunk: chunk}))
}

// End returns the chunk that follows the last chunk of all answers, or none.
func (s ChatStream) End(jobs []events.Job) ([]json.RawMessage, error) {
	if !s.body.usage() {
		return nil, nil
	}
	chunk := s.chunk(jobs[0])
	chunk.Usage = new(usageOf(jobs, s.body.N))
	return one(json.Marshal(chunk))
}

// chunk returns a chunk without choices about a job.
func (s ChatStream) chunk(job events.Job) ChatChunk {
	h := s.head.of(job)
	return ChatChunk{ID: h.id, Object: "chat.completion.chunk", Created: h.created, Model: h.model, SystemFingerprint: h.fingerprint, Choices: []ChatChunkChoice{}}
}
