package openai

import (
	"encoding/json"
	"fmt"
	"reflect"

	"colophon/events"
	"colophon/jobs"
)

// MaxChoices is the largest number of texts of one request. LangChain sends up to 20 prompts
// at once.
const MaxChoices = 24

// CompletionBody is the request body of /v1/completions.
type CompletionBody struct {
	Model     string  `json:"model" minLength:"1" maxLength:"200" example:"opticks" doc:"The name of the served model, as GET /v1/models has it."`
	Prompt    Prompts `json:"prompt" doc:"The text to continue: a string, a list of strings, a list of token ids, or a list of lists of token ids. Token ids must be those of their text. The text policy applies as in POST /generate, but a prompt may be as long as the model's context."`
	MaxTokens *int    `json:"max_tokens,omitempty" minimum:"1" maximum:"1048576" default:"16" doc:"The largest number of tokens of each text. The model's context may leave room for fewer."`
	Echo      bool    `json:"echo,omitempty" doc:"Begin each text with its prompt, as the text policy has left it. Refused together with logprobs."`
	Logprobs  *int    `json:"logprobs,omitempty" minimum:"0" maximum:"20" doc:"Answer with the log probability of each token of the text, and with those of this number of the likeliest tokens at its position. OpenAI's specification allows up to 5."`
	Sampling
	Hints
}

// Completions is the table of the fields of /v1/completions.
var Completions = Operation{
	Honoured: reflect.TypeFor[CompletionBody](),
	Refused: []Refused{
		{"best_of", []string{"1"}, "the service does not rank texts: ask for n texts and choose among them"},
		{"suffix", []string{`""`}, "the model continues texts and does not fill gaps"},
	},
	Inner: inner,
}.unique()

// inner has the readers of the fields that completions and chat completions share.
var inner = map[string]func(json.RawMessage, string) (json.RawMessage, error){"stream_options": inside(streamOptions)}

// Requests returns a request for each text, in the order of the choices: all texts of the
// first prompt, then all of the second. It returns a *Refusal if the body asks for too many
// texts, for the log probabilities of prompts, or for token ids that are not those of a text.
func (b *CompletionBody) Requests(encode func(string) []int, decode func([]int) []byte) ([]jobs.Request, error) {
	if len(b.Prompt)*b.N > MaxChoices {
		return nil, &Refusal{"n", "too_many_choices", fmt.Sprintf("%d prompts with n=%d are too many texts: the largest number is %d", len(b.Prompt), b.N, MaxChoices)}
	}
	if b.Echo && b.Logprobs != nil {
		return nil, unsupported("echo", "with logprobs, a text has no prompt, because no worker computes the log probabilities of prompts")
	}
	var requests []jobs.Request
	for _, prompt := range b.Prompt {
		text, err := prompt.text(encode, decode)
		if err != nil {
			return nil, err
		}
		r := b.request(text)
		r.MaxNewTokens = *b.MaxTokens // never nil, because the schema has a default
		r.Logprobs = b.Logprobs
		requests = append(requests, b.copies(r)...)
	}
	return requests, nil
}

// request returns the request for the first text of a prompt, without a length.
func (s *Sampling) request(prompt string) jobs.Request {
	return jobs.Request{
		Prompt: prompt, LongPrompt: true,
		Temperature: *s.Temperature, TopK: s.TopK, TopP: *s.TopP, // never nil, because the schema has defaults
		Seed: s.Seed, Stop: s.Stop,
		PresencePenalty: s.PresencePenalty, FrequencyPenalty: s.FrequencyPenalty, RepetitionPenalty: *s.RepetitionPenalty,
		MinP: s.MinP, LogitBias: s.LogitBias.ByToken(), MinTokens: s.MinTokens,
	}
}

// copies returns n requests like r. If r has a seed, request i has the seed plus i.
func (s *Sampling) copies(r jobs.Request) []jobs.Request {
	requests := make([]jobs.Request, s.N)
	for i := range requests {
		requests[i] = r
		if r.Seed != nil {
			requests[i].Seed = new((*r.Seed + uint64(i)) % (jobs.MaxSeed + 1))
		}
	}
	return requests
}

// usage reports whether a stream ends with the usage.
func (s *Sampling) usage() bool { return s.StreamOptions != nil && s.StreamOptions.IncludeUsage }

// Completion is the answer of /v1/completions, and without Usage a chunk of its stream.
type Completion struct {
	ID                string             `json:"id" doc:"cmpl- and the id of the first text's job."`
	Object            string             `json:"object" enum:"text_completion" doc:"The kind of object."`
	Created           int64              `json:"created" doc:"When the jobs were accepted, in Unix seconds."`
	Model             string             `json:"model" doc:"The name of the model."`
	SystemFingerprint string             `json:"system_fingerprint,omitempty" doc:"The weights and the arithmetic. With the same seed they give the same text again."`
	Choices           []CompletionChoice `json:"choices" nullable:"false" doc:"The texts. Text i of prompt k has the index k*n+i."`
	Usage             *CompletionUsage   `json:"usage,omitempty" doc:"The tokens of the request."`
}

// CompletionChoice is a text, or a piece of it.
type CompletionChoice struct {
	Text         string              `json:"text" doc:"The text, and before it the prompt if the request asked for an echo."`
	Index        int                 `json:"index" doc:"The number of the text, from 0: that of the prompt times n, plus that of its text."`
	Logprobs     *CompletionLogprobs `json:"logprobs" doc:"The log probabilities of the tokens. null if the request did not ask for them, and in a chunk without tokens."`
	FinishReason *string             `json:"finish_reason" enum:"stop,length,content_filter" nullable:"true" doc:"Why the text ends: at a natural end or a stop string (stop), at max_tokens (length), or before a word that the text policy refuses (content_filter). In a chunk before the last one of its text: null."`
}

// Answer returns the answer about ended jobs.
func (b *CompletionBody) Answer(jobs []events.Job, logprobs Logprobs) Completion {
	c := b.chunk(headOf("cmpl-", jobs))
	for i, job := range jobs {
		choice := CompletionChoice{Text: b.echo(job) + job.Text, Index: i, FinishReason: &job.FinishReason}
		if list, ok := logprobs(job, 0); ok {
			choice.Logprobs = completionLogprobs(list)
		}
		c.Choices = append(c.Choices, choice)
	}
	c.Usage = new(usageOf(jobs, b.N))
	return c
}

func (b *CompletionBody) echo(job events.Job) string {
	if b.Echo {
		return job.Prompt
	}
	return ""
}

// chunk returns an answer without choices.
func (b *CompletionBody) chunk(h head) Completion {
	return Completion{ID: h.id, Object: "text_completion", Created: h.created, Model: h.model, SystemFingerprint: h.fingerprint, Choices: []CompletionChoice{}}
}

// CompletionStream makes the chunks of a stream.
type CompletionStream struct {
	body     *CompletionBody
	head     head
	logprobs logprobCursor
}

// NewStream returns the stream of accepted jobs.
func (b *CompletionBody) NewStream(jobs []events.Job, logprobs Logprobs) CompletionStream {
	return CompletionStream{b, headOf("cmpl-", jobs), newLogprobCursor(logprobs, len(jobs))}
}

// Chunks returns the chunks for an event of job i. The jobs are folded up to their latest
// events, this one included. The events of each job must come in their order.
func (s CompletionStream) Chunks(jobs []events.Job, i int, fact events.Fact) ([]json.RawMessage, error) {
	b := s.body
	choice := CompletionChoice{Index: i}
	switch fact := fact.(type) {
	case events.JobAccepted:
		choice.Text = b.echo(jobs[i])
	case events.JobAdvanced:
		choice.Text = fact.Text
	case events.JobCompleted:
		choice.FinishReason = &fact.FinishReason
	}
	if choice.Text == "" && choice.FinishReason == nil {
		return nil, nil
	}
	if list := s.logprobs.next(jobs[i], i); len(list) > 0 {
		choice.Logprobs = completionLogprobs(list)
	}
	c := b.chunk(s.head.of(jobs[i]))
	c.Choices = append(c.Choices, choice)
	if !b.usage() {
		return one(json.Marshal(c))
	}
	return one(json.Marshal(struct {
		Completion
		Usage *CompletionUsage `json:"usage"` // null, because the usage comes last
	}{Completion: c}))
}

// End returns the chunk that follows the last chunk of all texts, or none.
func (s CompletionStream) End(jobs []events.Job) ([]json.RawMessage, error) {
	b := s.body
	if !b.usage() {
		return nil, nil
	}
	c := b.chunk(s.head.of(jobs[0]))
	c.Usage = new(usageOf(jobs, b.N))
	return one(json.Marshal(c))
}

// one returns a list of one chunk.
func one(chunk json.RawMessage, err error) ([]json.RawMessage, error) {
	return []json.RawMessage{chunk}, err
}
