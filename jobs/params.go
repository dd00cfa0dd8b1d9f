package jobs

import (
	"fmt"
	"math/rand/v2"

	"colophon/events"
	"colophon/internal/errcode"
	"colophon/model"
)

// MaxSeed is the largest seed. A JSON parser that reads numbers as float64 represents
// every integer up to MaxSeed exactly.
const MaxSeed = 1<<53 - 1

// ErrMinTokens is returned for a request whose MinTokens is above its MaxNewTokens.
var ErrMinTokens = errcode.New("min_tokens_above_maximum", "min_tokens is above max_new_tokens, which is 50 in a request without any length")

// ErrNoToken is returned for a text that the model cannot read. Its vocabulary lacks a byte of
// the text, or has a token that its network lacks.
var ErrNoToken = errcode.New("no_token", "the model has no token for a character of the text")

// UnknownTokenError is returned if LogitBias names a token that the model does not have.
type UnknownTokenError struct {
	Vocab int // number of token ids that the model has
}

// Code returns the error's code for programs.
func (*UnknownTokenError) Code() string { return "unknown_token" }

func (e *UnknownTokenError) Error() string {
	return fmt.Sprintf("logit_bias names something else than a token id of the model, which has the ids 0 to %d", e.Vocab-1)
}

// NoRoomError is returned when a prompt leaves no room for a new token.
type NoRoomError struct {
	PromptTokens int
	Limit        int
	LimitName    string // name of the limit, which is "max_length" or "the model's context"
}

// Code returns the error's code for programs.
func (*NoRoomError) Code() string { return "no_room" }

func (e *NoRoomError) Error() string {
	return fmt.Sprintf("the prompt has %d tokens, which leaves no room under %s of %d tokens", e.PromptTokens, e.LimitName, e.Limit)
}

// room returns the number of tokens that the job may generate, or a NoRoomError.
func (q *Queue) room(r Request, promptTokens int) (int, error) {
	inContext := q.model.Context - promptTokens
	if inContext < 1 {
		return 0, &NoRoomError{promptTokens, q.model.Context, "the model's context"}
	}
	if r.MaxNewTokens > 0 {
		return min(r.MaxNewTokens, inContext), nil
	}
	if r.MaxLength <= promptTokens {
		return 0, &NoRoomError{promptTokens, r.MaxLength, "max_length"}
	}
	return min(r.MaxLength-promptTokens, inContext), nil
}

// params returns the sampling parameters of a job that may generate maxTokens tokens. Values
// that change nothing are left out, so that the same text has the same parameters on record.
func (q *Queue) params(r Request, maxTokens int) (model.Params, error) {
	if r.MaxNewTokens > 0 && r.MinTokens > r.MaxNewTokens {
		return model.Params{}, ErrMinTokens
	}
	p := model.Params{
		MaxTokens:         maxTokens,
		Temperature:       r.Temperature,
		TopK:              r.TopK,
		TopP:              r.TopP,
		Seed:              rand.Uint64N(MaxSeed + 1),
		PresencePenalty:   r.PresencePenalty,
		FrequencyPenalty:  r.FrequencyPenalty,
		RepetitionPenalty: r.RepetitionPenalty,
		MinP:              r.MinP,
		MinTokens:         min(r.MinTokens, maxTokens),
		Logprobs:          r.Logprobs,
	}
	if r.Seed != nil {
		p.Seed = *r.Seed
	}
	if p.RepetitionPenalty == 1 {
		p.RepetitionPenalty = 0
	}
	for token, bias := range r.LogitBias {
		if token < 0 || token >= q.model.Vocab {
			return model.Params{}, &UnknownTokenError{q.model.Vocab}
		}
		if bias == 0 {
			continue
		}
		if p.LogitBias == nil {
			p.LogitBias = map[int]float64{}
		}
		p.LogitBias[token] = bias
	}
	if err := p.Validate(); err != nil { // the callers check all bounds, so this is a mistake of theirs
		return model.Params{}, err
	}
	return p, nil
}

// Decode returns the bytes of tokens of a job's text. It reports false if the job was accepted
// for another model than new jobs are, whose tokens may stand for other texts.
func (q *Queue) Decode(job events.Job, tokens []int) (text []byte, ok bool) {
	if job.Model != q.model.Name || job.Needs() != "" && q.model.Weights != "" && job.Needs() != q.model.Weights {
		return nil, false
	}
	return q.model.Decode(tokens), true
}
