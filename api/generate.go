package api

import (
	"github.com/danielgtaylor/huma/v2"

	"colophon/api/openai"
	"colophon/jobs"
)

// generateBody is the request body of /generate and /jobs. If zero is a valid value of a
// member, the type of that member is a pointer. Otherwise Huma would replace zero with
// the default.
type generateBody struct {
	Prompt       string   `json:"prompt" minLength:"1" maxLength:"500" example:"The nature of light" doc:"The text to continue. The text policy removes the characters <>{}; (the operator can choose others) and refuses a prompt with a forbidden word."`
	MaxLength    int      `json:"max_length,omitempty" minimum:"10" maximum:"200" doc:"The largest number of tokens of the prompt and the continuation together."`
	MaxNewTokens int      `json:"max_new_tokens,omitempty" minimum:"1" maximum:"1024" doc:"The largest number of tokens of the continuation alone. With it, max_length is ignored. With neither, it is 50. The model's context may leave room for fewer; params.max_tokens of the job has the limit that applies."`
	Temperature  *float64 `json:"temperature,omitempty" minimum:"0" maximum:"2" default:"0.8" doc:"0 always takes the most likely token."`
	TopK         *int     `json:"top_k,omitempty" minimum:"0" maximum:"1000" default:"40" doc:"Choose among this number of the most likely tokens; 0 means all."`
	TopP         float64  `json:"top_p,omitempty" exclusiveMinimum:"0" maximum:"1" default:"1" doc:"Choose among the most likely tokens whose probabilities add up to this share."`
	Seed         *uint64  `json:"seed,omitempty" minimum:"0" maximum:"9007199254740991" doc:"The same seed gives the same text again. Without one, the service draws one."`
	Stop         []string `json:"stop,omitempty" maxItems:"4" minLength:"1" maxLength:"32" doc:"The text ends before the first of these strings. Each has 1 to 32 characters."`
	Watermark    bool     `json:"watermark,omitempty" doc:"Mark the text with the user's watermark key, so that the user can recognise it later. If the service marks all texts, false changes nothing. At temperature 0 a text cannot be marked. The job's member watermark says whether the text is marked."`

	PresencePenalty   float64          `json:"presence_penalty,omitempty" minimum:"-2" maximum:"2" doc:"Subtracted from the logit of each token that the continuation has so far. Above 0, new tokens become more likely."`
	FrequencyPenalty  float64          `json:"frequency_penalty,omitempty" minimum:"-2" maximum:"2" doc:"Subtracted from the logit of a token once for each time that the continuation has it so far."`
	RepetitionPenalty float64          `json:"repetition_penalty,omitempty" minimum:"0.01" maximum:"2" example:"1.2" doc:"Divides the positive logit of each token that the prompt or the continuation has so far, and multiplies a negative one. Above 1, new tokens become more likely; 1 changes nothing."`
	MinP              float64          `json:"min_p,omitempty" minimum:"0" maximum:"1" doc:"Choose among the tokens with at least this share of the highest probability. It applies before top_p."`
	LogitBias         openai.LogitBias `json:"logit_bias,omitempty" maxProperties:"1024" doc:"Numbers from -100 to 100 that are added to the logits of tokens. The names are token ids in decimal, as POST /tokenize returns them. -100 practically forbids a token."`
	Logprobs          *int             `json:"logprobs,omitempty" minimum:"0" maximum:"20" doc:"Record the log probability of each token of the continuation, and those of this number of the likeliest tokens at each position. 0 records those of the continuation alone. They are the model's own, before temperature, penalties and biases. The job has them as logprobs."`
	MinTokens         int              `json:"min_tokens,omitempty" minimum:"0" maximum:"1024" doc:"The number of tokens of the continuation before which neither the model nor a stop string ends the text. At most max_new_tokens. If the length or the context leaves room for fewer, the continuation has as many as there is room for."`
}

// logitBiasSchema describes openai.LogitBias.
type logitBiasSchema map[string]float64

// TransformSchema tells Huma the bounds of the biases.
func (logitBiasSchema) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	bias := &huma.Schema{Type: huma.TypeNumber, Minimum: new(-100.0), Maximum: new(100.0)}
	bias.PrecomputeMessages()
	s.AdditionalProperties = bias
	return s
}

// defaultNewTokens limits the continuation if the client sets no length. It limits new
// tokens only, because a default for max_length would refuse long prompts of clients that
// never set max_length.
const defaultNewTokens = 50

func (b *generateBody) request() jobs.Request {
	r := jobs.Request{
		Prompt:       b.Prompt,
		MaxLength:    b.MaxLength,
		MaxNewTokens: b.MaxNewTokens,
		Temperature:  *b.Temperature, // never nil, because Huma sets the default
		TopK:         *b.TopK,
		TopP:         b.TopP,
		Seed:         b.Seed,
		Stop:         b.Stop,
		Watermark:    b.Watermark,

		PresencePenalty:   b.PresencePenalty,
		FrequencyPenalty:  b.FrequencyPenalty,
		RepetitionPenalty: b.RepetitionPenalty,
		MinP:              b.MinP,
		LogitBias:         b.LogitBias.ByToken(),
		MinTokens:         b.MinTokens,
		Logprobs:          b.Logprobs,
	}
	if r.MaxLength == 0 && r.MaxNewTokens == 0 {
		r.MaxNewTokens = defaultNewTokens
	}
	return r
}
