// Package openai translates between the wire form of OpenAI's API and the jobs of this
// service. It knows no HTTP: package api reads bodies and writes answers.
//
// Callers may rely on the following:
//
//   - A field of OpenAI's specification is either honoured, a hint without effect, or refused
//     by its name (see [Operation]). No field is dropped silently.
//   - Answers and chunks have no members but those of OpenAI's specification, and responses also
//     those that OpenResponses demands. Only a model has more.
//   - No chunk has a top-level member "error", and no event of a response but the last one of
//     an interrupted stream: clients take it for the end of a stream. A Response has one, as its
//     specification demands.
package openai

import (
	"cmp"
	"reflect"
	"strconv"

	"colophon/events"
	"colophon/jobs"
)

// Hints are fields that only help OpenAI's own service: to find abuse, and to find a cached
// prompt sooner. They are accepted because they change no text. A response shows them again; they
// have no other effect.
type Hints struct {
	User             string `json:"user,omitempty" maxLength:"512" doc:"A hint, without effect: the id of the client's own user."`
	SafetyIdentifier string `json:"safety_identifier,omitempty" maxLength:"512" doc:"A hint, without effect: the id of the client's own user."`
	PromptCacheKey   string `json:"prompt_cache_key,omitempty" maxLength:"512" doc:"A hint, without effect."`
}

// Sampling are the sampling parameters that completions and chat completions share. The
// defaults are OpenAI's, which differ from those of POST /generate.
type Sampling struct {
	Temperature       *float64       `json:"temperature,omitempty" minimum:"0" maximum:"2" default:"1" doc:"0 always takes the most likely token."`
	TopP              *float64       `json:"top_p,omitempty" minimum:"0" maximum:"1" default:"1" doc:"Choose among the most likely tokens whose probabilities add up to this share."`
	TopK              int            `json:"top_k,omitempty" minimum:"0" maximum:"1000" doc:"Choose among this number of the most likely tokens; 0 means all. Not in OpenAI's specification."`
	MinP              float64        `json:"min_p,omitempty" minimum:"0" maximum:"1" doc:"Choose among the tokens with at least this share of the highest probability. It applies before top_p. Not in OpenAI's specification."`
	PresencePenalty   float64        `json:"presence_penalty,omitempty" minimum:"-2" maximum:"2" doc:"Subtracted from the logit of each token that the text has so far."`
	FrequencyPenalty  float64        `json:"frequency_penalty,omitempty" minimum:"-2" maximum:"2" doc:"Subtracted from the logit of a token once for each time that the text has it so far."`
	RepetitionPenalty *float64       `json:"repetition_penalty,omitempty" minimum:"0.01" maximum:"2" default:"1" doc:"Divides the positive logit of each token that the prompt or the text has so far, and multiplies a negative one. 1 changes nothing. Not in OpenAI's specification."`
	LogitBias         LogitBias      `json:"logit_bias,omitempty" maxProperties:"1024" doc:"Numbers from -100 to 100 that are added to the logits of tokens. The names are token ids in decimal, as POST /tokenize returns them."`
	MinTokens         int            `json:"min_tokens,omitempty" minimum:"0" maximum:"1048576" doc:"The number of tokens before which nothing ends the text. Not in OpenAI's specification."`
	Seed              *uint64        `json:"seed,omitempty" minimum:"0" maximum:"9007199254740991" doc:"The same seed gives the same text again, on any machine. Text i of several has the seed plus i. Without a seed, the service draws one for each text."`
	Stop              Stop           `json:"stop,omitempty" doc:"The text ends before the first of these strings: one string, or up to 4."`
	N                 int            `json:"n,omitempty" minimum:"1" maximum:"8" default:"1" doc:"The number of texts for each prompt."`
	Stream            bool           `json:"stream,omitempty" doc:"Send the text in chunks as server-sent events."`
	StreamOptions     *StreamOptions `json:"stream_options,omitempty" doc:"What a stream has besides the text."`
}

// LogitBias has the biases of tokens by their ids in decimal.
type LogitBias map[string]float64

// ByToken returns the biases by token. A name that is not an id in decimal, without sign and
// leading zeros, becomes the id -1, which no model has.
func (b LogitBias) ByToken() map[int]float64 {
	if len(b) == 0 {
		return nil
	}
	biases := make(map[int]float64, len(b))
	for name, bias := range b {
		token, err := strconv.Atoi(name)
		if err != nil || strconv.Itoa(token) != name {
			token = -1
		}
		biases[token] = bias
	}
	return biases
}

// StreamOptions say what a stream has besides the text.
type StreamOptions struct {
	IncludeUsage bool `json:"include_usage,omitempty" doc:"Send the usage in one more chunk before the end. The member usage of all other chunks is then null."`
}

// streamOptions is the table of the members of stream_options.
var streamOptions = Operation{
	Honoured: reflect.TypeFor[StreamOptions](),
	Refused:  []Refused{{"include_obfuscation", []string{"false"}, "the stream has no padding"}},
}.unique()

// CompletionUsage counts model tokens. The tokens of a prompt count once, also if it has several
// texts.
type CompletionUsage struct {
	PromptTokens     int `json:"prompt_tokens" doc:"The tokens of the prompts."`
	CompletionTokens int `json:"completion_tokens" doc:"The tokens of all texts."`
	TotalTokens      int `json:"total_tokens" doc:"The sum of both."`
}

// usageOf returns the usage of jobs that have n texts for each prompt.
func usageOf(jobs []events.Job, n int) (u CompletionUsage) {
	for i, job := range jobs {
		if i%n == 0 {
			u.PromptTokens += job.PromptTokens
		}
		u.CompletionTokens += job.Generated()
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	return u
}

// fingerprint returns the system_fingerprint of a job: the weights and the arithmetic, which
// together with the request determine its text. It is empty before the job has started.
func fingerprint(job events.Job) string {
	if job.Kernel == "" {
		return ""
	}
	return job.Weights + "/" + job.Kernel
}

// head has the members that all answers and chunks of a request begin with.
type head struct {
	id          string
	created     int64
	model       string
	fingerprint string
}

// headOf returns the head of the answer about jobs. The first job gives the request its
// name.
func headOf(prefix string, jobs []events.Job) head {
	h := head{id: prefix + jobs[0].ID.String(), created: jobs[0].AcceptedAt.Unix(), model: jobs[0].Model}
	return h.of(jobs[0])
}

// of returns the head with the fingerprint of a job.
func (h head) of(job events.Job) head {
	h.fingerprint = fingerprint(job)
	return h
}

// A Model is a model that new jobs may have. The members after owned_by are not in OpenAI's
// specification.
type Model struct {
	ID            string `json:"id" doc:"The name to send as model."`
	Object        string `json:"object" enum:"model" doc:"The kind of object."`
	Created       int64  `json:"created" doc:"0, because no date of the weights is on record."`
	OwnedBy       string `json:"owned_by" doc:"The program that runs the model."`
	Weights       string `json:"weights" doc:"The digest of the weights; empty if any weights may run the jobs."`
	ContextLength int    `json:"context_length" doc:"The largest number of tokens of a prompt and its text together."`
	ChatTemplate  string `json:"chat_template" enum:"plain,eos,none" doc:"How messages become a prompt. none means that chat completions and new responses are switched off."`
}

// NewModel describes the model of new jobs. The template is empty without chat completions.
func NewModel(m jobs.Model, template string) Model {
	return Model{ID: m.Name, Object: "model", OwnedBy: "colophon", Weights: m.Weights, ContextLength: m.Context, ChatTemplate: cmp.Or(template, "none")}
}

// A ModelList has all models that new jobs may have.
type ModelList struct {
	Object string  `json:"object" enum:"list" doc:"The kind of object."`
	Data   []Model `json:"data" nullable:"false" doc:"The models."`
}
