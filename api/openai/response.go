package openai

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/jobs"
)

// ResponseBody is the request body of /v1/responses.
type ResponseBody struct {
	ResponseInput
	Model            string   `json:"model" minLength:"1" maxLength:"200" example:"opticks" doc:"The name of the served model, as GET /v1/models has it."`
	MaxOutputTokens  int      `json:"max_output_tokens,omitempty" minimum:"1" maximum:"1048576" doc:"The largest number of tokens of the text. The model's context may leave room for fewer. Without it, the length is that of POST /generate: 50, and a text of this length is complete."`
	Temperature      *float64 `json:"temperature,omitempty" minimum:"0" maximum:"2" default:"1" doc:"0 always takes the most likely token."`
	TopP             *float64 `json:"top_p,omitempty" minimum:"0" maximum:"1" default:"1" doc:"Choose among the most likely tokens whose probabilities add up to this share."`
	PresencePenalty  float64  `json:"presence_penalty,omitempty" minimum:"-2" maximum:"2" doc:"Subtracted from the logit of each token that the text has so far."`
	FrequencyPenalty float64  `json:"frequency_penalty,omitempty" minimum:"-2" maximum:"2" doc:"Subtracted from the logit of a token once for each time that the text has it so far."`
	Background       bool     `json:"background,omitempty" doc:"Answer at once, or go on if the client leaves the stream. GET /v1/responses/{id} has the text."`
	Store            *bool    `json:"store,omitempty" default:"true" doc:"With false, the job is erased when it has ended: at once after the answer, or within two minutes if the request has an Idempotency-Key. Background responses must be stored."`
	Stream           bool     `json:"stream,omitempty" doc:"Send the text in pieces as server-sent events."`
	Include          []string `json:"include,omitempty" maxItems:"16" enum:"message.output_text.logprobs,reasoning.encrypted_content" doc:"With message.output_text.logprobs, the text has the log probability of each of its tokens. reasoning.encrypted_content has no effect. Other values are refused."`
	TopLogprobs      int      `json:"top_logprobs,omitempty" minimum:"0" maximum:"20" doc:"The number of the likeliest tokens at each position whose log probabilities the text has, beside those of its own tokens. More than 0 includes them without include."`
	Metadata         Metadata `json:"metadata,omitempty" doc:"Up to 16 texts of the client, each with a name of up to 64 characters. They are in each answer about the response."`
	Hints
}

// ResponseInput is what the prompt of a response is made of.
type ResponseInput struct {
	Input              Input  `json:"input" doc:"A text of the user, or a list of messages. The chat template of the model makes a prompt of them; GET /v1/models says which. The text policy applies to the prompt. One message of a user alone is the prompt as it is, except with the template eos."`
	Instructions       string `json:"instructions,omitempty" maxLength:"32768" doc:"A text of the system that precedes the input. It is not part of later responses."`
	PreviousResponseID string `json:"previous_response_id,omitempty" maxLength:"64" doc:"The id of a completed response. Its input and its text, and those of the responses before it, precede the input. An API key needs the scope read for it."`
}

// InputTokensBody is the request body of /v1/responses/input_tokens.
type InputTokensBody struct {
	ResponseInput
	Model string `json:"model,omitempty" maxLength:"200" example:"opticks" doc:"The name of the served model."`
}

// InputTokens is the number of tokens of a prompt.
type InputTokens struct {
	Object      string `json:"object" enum:"response.input_tokens" doc:"The kind of object."`
	InputTokens int    `json:"input_tokens" doc:"The number of tokens of the prompt."`
}

// Responses is the table of the fields of /v1/responses.
var Responses = Operation{
	Honoured: reflect.TypeFor[ResponseBody](),
	Refused: append([]Refused{
		{"access_programs", []string{"{}"}, "the service has no such programs"},
		{"context_management", []string{"[]"}, notShortened},
		{"image", []string{"{}"}, onlyText},
		{"max_tool_calls", nil, noTools},
		{"moderation", []string{"{}"}, ownPolicy},
		{"prompt", nil, "the service has no prompts of its own"},
		{"prompt_cache_options", []string{"{}"}, noCache},
		{"prompt_cache_retention", nil, noCache},
		{"service_tier", []string{`"auto"`, `"default"`}, oneTier},
		{"stream_options", []string{"{}"}, "a stream has no options"},
	}, neverInResponses...),
	Inner: responseInner,
}.unique()

// includeLogprobs is the value of include that asks for log probabilities.
const includeLogprobs = "message.output_text.logprobs"

// readInclude refuses what the service cannot include.
func readInclude(value json.RawMessage, at string) (json.RawMessage, error) {
	var list []string
	if json.Unmarshal(value, &list) == nil && slices.ContainsFunc(list, func(what string) bool { return what != includeLogprobs && what != "reasoning.encrypted_content" }) {
		return nil, unsupported(at, "the service has nothing else to include than "+includeLogprobs+": no reasoning and no tools")
	}
	return value, nil
}

// ResponseTokens is the table of the fields of /v1/responses/input_tokens.
var ResponseTokens = Operation{
	Honoured: reflect.TypeFor[InputTokensBody](),
	Refused:  append([]Refused{{"personality", nil, "the model has no personalities"}}, neverInResponses...),
	Inner:    responseInner,
}.unique()

// neverInResponses are the fields that both /v1/responses and its input_tokens refuse.
var neverInResponses = []Refused{
	{"conversation", nil, "the service has no conversations beside responses: send previous_response_id"},
	{"parallel_tool_calls", []string{"true", "false"}, noTools},
	{"reasoning", []string{"{}"}, notReasoning},
	{"text", []string{"{}"}, noForm},
	{"tool_choice", []string{`"none"`, `"auto"`}, noTools},
	{"tools", []string{"[]"}, noTools},
	{"truncation", []string{`"disabled"`}, notShortened},
}

// responseInner has the readers of both operations for the fields with members of their own.
var responseInner = map[string]func(json.RawMessage, string) (json.RawMessage, error){
	"include":        readInclude,
	"input":          each(readItem),
	"metadata":       readMetadata,
	"stream_options": inside(streamOptionsOfResponses),
	"text": inside(Operation{Honoured: reflect.TypeFor[struct{}](), Refused: []Refused{
		{"format", []string{`{"type":"text"}`}, noForm},
		{"verbosity", []string{`"medium"`}, noSetting},
	}}.unique()),
	"reasoning": inside(Operation{Honoured: reflect.TypeFor[struct{}](), Refused: []Refused{
		{"context", []string{`"auto"`}, notReasoning},
		{"effort", []string{`"none"`}, notReasoning},
		{"generate_summary", nil, notReasoning},
		{"mode", []string{`"standard"`}, notReasoning},
		{"summary", nil, notReasoning},
	}}.unique()),
}

// streamOptionsOfResponses is the table of the members of stream_options. The usage is in the
// last event.
var streamOptionsOfResponses = Operation{
	Honoured: reflect.TypeFor[struct{}](),
	Refused:  []Refused{{"include_obfuscation", []string{"false"}, "the stream has no padding"}},
}.unique()

// item is the table of the members of an item of the input.
var item = Operation{
	Honoured: reflect.TypeFor[InputItem](),
	Inner:    map[string]func(json.RawMessage, string) (json.RawMessage, error){"content": each(readInputPart)},
}.unique()

// inputPart is the table of the members of a part of a message.
var inputPart = Operation{
	Honoured: reflect.TypeFor[textPart](),
	Refused: []Refused{
		{"annotations", []string{"[]"}, onlyText},
		{"logprobs", []string{"[]"}, "a text of the input has no probabilities"},
		{"prompt_cache_breakpoint", nil, noCache},
	},
	Inner: map[string]func(json.RawMessage, string) (json.RawMessage, error){"logprobs": withoutElements},
}.unique()

// withoutElements returns an empty list for a list. The log probabilities of an earlier output
// have no effect on a new text.
func withoutElements(value json.RawMessage, _ string) (json.RawMessage, error) {
	var list []json.RawMessage
	if json.Unmarshal(value, &list) == nil && list != nil {
		return json.RawMessage("[]"), nil
	}
	return value, nil
}

// readItem refuses items that are not messages.
func readItem(value json.RawMessage, at string) (json.RawMessage, error) {
	var m struct{ Type *string }
	if json.Unmarshal(value, &m) == nil && m.Type != nil && *m.Type != "message" {
		return nil, unsupported(at+".type", "the input has messages alone")
	}
	return item.read(value, at+".")
}

// readInputPart refuses parts that are not texts.
func readInputPart(value json.RawMessage, at string) (json.RawMessage, error) {
	var p struct{ Type string }
	if json.Unmarshal(value, &p) == nil && slices.Contains([]string{"input_image", "input_file", "input_audio", "input_video", "refusal"}, p.Type) {
		return nil, unsupported(at+".type", onlyText)
	}
	return inputPart.read(value, at+".")
}

// Metadata are texts of a client by name.
type Metadata map[string]string

// The limits of metadata are those of OpenAI's specification, in characters.
const (
	maxMetadata      = 16
	maxMetadataName  = 64
	maxMetadataValue = 512
)

// readMetadata checks the size of metadata. Huma's errors would name the member that the
// client has named.
func readMetadata(value json.RawMessage, at string) (json.RawMessage, error) {
	refusal := &Refusal{at, "metadata_form", fmt.Sprintf("%s must be an object with up to %d texts: names of up to %d characters, and values of up to %d", at, maxMetadata, maxMetadataName, maxMetadataValue)}
	var all map[string]*string
	if json.Unmarshal(value, &all) != nil || len(all) > maxMetadata {
		return nil, refusal
	}
	for name, text := range all {
		if text == nil || len([]rune(name)) > maxMetadataName || len([]rune(*text)) > maxMetadataValue {
			return nil, refusal
		}
	}
	return value, nil
}

// An InputItem is a message of the input. A client may send an item of an earlier response's
// output as it is.
type InputItem struct {
	Content Content `json:"content"`
	ID      string  `json:"id,omitempty"`
	Phase   string  `json:"phase,omitempty"`
	Role    string  `json:"role"`
	Status  string  `json:"status,omitempty"`
	Type    string  `json:"type,omitempty"`
}

// Input is the input of a response. The wire forms are a text of the user, and a list of
// messages.
type Input []InputItem

// UnmarshalJSON reads either form.
func (in *Input) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil && string(b) != "null" {
		*in = Input{{Role: "user", Content: Content(text)}}
		return nil
	}
	return json.Unmarshal(b, (*[]InputItem)(in))
}

// responseRecord is what a job remembers of the request that made it. Its members are in the
// order of the alphabet, as those of every stored object. The parameters of the text are the
// job's.
type responseRecord struct {
	Background         bool     `json:"background,omitempty"`
	Input              Input    `json:"input"`
	Instructions       string   `json:"instructions,omitempty"`
	MaxOutputTokens    int      `json:"max_output_tokens,omitempty"` // the client's, or 0
	Metadata           Metadata `json:"metadata,omitempty"`
	Operation          string   `json:"operation"`
	PreviousResponseID string   `json:"previous_response_id,omitempty"`
	PromptCacheKey     string   `json:"prompt_cache_key,omitempty"`
	SafetyIdentifier   string   `json:"safety_identifier,omitempty"`
	User               string   `json:"user,omitempty"`
}

// operationResponses tells records of responses from those of other operations.
const operationResponses = "responses"

// recordOf returns the record of a response's job. It reports false for other jobs and for
// erased ones.
func recordOf(job events.Job) (r responseRecord, ok bool) {
	err := json.Unmarshal([]byte(job.Request), &r)
	return r, err == nil && r.Operation == operationResponses
}

// IsResponse reports whether a job was made by /v1/responses and is not erased.
func IsResponse(job events.Job) bool {
	_, ok := recordOf(job)
	return ok
}

const messagePrefix = "msg_"

// ResponseID returns the id of a job's response.
func ResponseID(job uuid.UUID) string { return events.ResponsePrefix + job.String() }

// JobOfResponse returns the id of the job with a response's id. It reports false for a text
// that is no such id.
func JobOfResponse(id string) (uuid.UUID, bool) {
	name, ok := strings.CutPrefix(id, events.ResponsePrefix)
	job, err := uuid.Parse(name)
	return job, ok && err == nil && ResponseID(job) == id
}

// ErrErased occurs when the response that a client names was erased.
var ErrErased error = erased{}

type erased struct{}

// Code returns the error's code for programs.
func (erased) Code() string { return "response_erased" }

func (erased) Error() string { return "the response was erased" }

// The refusals of a previous response. None repeats the id.
var (
	ErrPreviousNotFound   = &Refusal{"previous_response_id", "previous_response_not_found", "there is no such previous response, or it belongs to another account"}
	ErrPreviousErased     = &Refusal{"previous_response_id", "previous_response_erased", "the previous response or one before it was erased: send the conversation as input"}
	ErrPreviousUnfinished = &Refusal{"previous_response_id", "previous_response_unfinished", "the previous response is not completed: wait for it, or send the conversation as input"}

	errBackgroundUnstored = &Refusal{"store", "background_not_stored", "a background response must be stored: leave out store, or background"}
)

// Turns returns the conversation that the job of a completed response adds to the next
// response, and the id of the response before it, or "".
func Turns(job events.Job) (turns []Message, previous string) {
	r, _ := recordOf(job)
	return append(r.Input.messages(), Message{Role: "assistant", Content: Content(job.Text)}), r.PreviousResponseID
}

func (in Input) messages() (list []Message) {
	for _, m := range in {
		list = append(list, Message{Role: m.Role, Content: m.Content})
	}
	return list
}

// Prompt returns a request with the prompt of an input. history is the conversation before it.
// The template is one of package jobs.
func (in *ResponseInput) Prompt(template string, history []Message) jobs.Request {
	var messages []Message
	if in.Instructions != "" {
		messages = append(messages, Message{Role: "system", Content: Content(in.Instructions)})
	}
	return render(template, slices.Concat(messages, history, in.Input.messages()))
}

// maxRecord is the largest record of a response in bytes. The text policy removes characters
// from the prompt and not from the record, so the model's context alone does not bound it.
const maxRecord = 64 << 10

// ErrInputTooLong is a refusal of an input that no context has room for, before its tokens
// are counted.
var ErrInputTooLong error = &Refusal{"input", "no_room", "the input is too long for the model's context"}

// Request returns the request for the job of a response. defaultTokens is the length of the
// text if the client sets none. It returns a *Refusal for a background response that is not
// to be stored, and ErrInputTooLong.
func (b *ResponseBody) Request(template string, history []Message, defaultTokens int) (jobs.Request, error) {
	r := b.Prompt(template, history)
	r.MaxNewTokens = cmp.Or(b.MaxOutputTokens, defaultTokens)
	r.Temperature, r.TopP = *b.Temperature, *b.TopP // never nil, because the schema has defaults
	r.PresencePenalty, r.FrequencyPenalty, r.RepetitionPenalty = b.PresencePenalty, b.FrequencyPenalty, 1
	if b.TopLogprobs > 0 || slices.Contains(b.Include, includeLogprobs) {
		r.Logprobs = &b.TopLogprobs
	}
	r.EraseAtEnd = !*b.Store
	if r.Response = events.ResponseUncapped; b.MaxOutputTokens > 0 {
		r.Response = events.ResponseCapped
	}
	if r.EraseAtEnd && b.Background {
		return r, errBackgroundUnstored
	}
	var err error
	r.Record, err = json.Marshal(responseRecord{
		Background:         b.Background,
		Input:              b.Input,
		Instructions:       b.Instructions,
		MaxOutputTokens:    b.MaxOutputTokens,
		Metadata:           b.Metadata,
		Operation:          operationResponses,
		PreviousResponseID: b.PreviousResponseID,
		PromptCacheKey:     b.PromptCacheKey,
		SafetyIdentifier:   b.SafetyIdentifier,
		User:               b.User,
	})
	if len(r.Record) > maxRecord {
		return r, ErrInputTooLong
	}
	return r, err
}
