package api

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"colophon/events"
)

// Job is a job as clients see it. A list of jobs leaves out the params, logprobs, logprobs_of,
// watermark, group, template, version, links and reason of each job, and the history also the deadline. An erased
// job has no params and no logprobs.
type Job struct {
	ID               uuid.UUID       `json:"id" format:"uuid" doc:"The id of the job."`
	State            string          `json:"state" enum:"queued,running,completed,failed,cancelled,damaged" doc:"damaged is only in lists: the record of the job is damaged, the job does not go on, and GET /jobs/{id} answers 410."`
	Prompt           string          `json:"prompt" doc:"Empty if the job was erased or is damaged."`
	GeneratedText    string          `json:"generated_text" doc:"The prompt, followed by the text generated so far. Empty if the job was erased."`
	Completion       string          `json:"completion" doc:"The text generated so far."`
	LogprobsOf       *uuid.UUID      `json:"logprobs_of,omitempty" format:"uuid" doc:"The job whose text this job computes again for its log probabilities. Missing for a job with a text of its own."`
	Logprobs         []TokenLogprobs `json:"logprobs,omitempty" doc:"The log probabilities of each token generated so far, if the request asked for them."`
	ModelName        string          `json:"model_name" doc:"The name of the model that the job was accepted for."`
	WaitingForModel  bool            `json:"waiting_for_model,omitempty" doc:"Whether the job was accepted for other weights than new jobs are, and waits for a worker that has them."`
	MixedKernels     bool            `json:"mixed_kernels,omitempty" doc:"Whether the text was continued with arithmetic that gives other bits, so that it may differ from an uninterrupted one."`
	Params           *Params         `json:"params,omitempty" doc:"The values that determine the text. Missing for an erased job."`
	Watermark        *Watermark      `json:"watermark,omitempty" doc:"How the text is marked. Missing if the text has no mark, as at temperature 0."`
	Group            []uuid.UUID     `json:"group,omitempty" doc:"The ids of all jobs of the same request, in the order of its texts. Missing if the request was for one text."`
	Template         string          `json:"template,omitempty" enum:"plain,eos" doc:"The chat template that made the prompt from messages. Missing if the client wrote the prompt."`
	Usage            Usage           `json:"usage" doc:"The tokens so far."`
	FinishReason     string          `json:"finish_reason,omitempty" enum:"stop,length,content_filter" doc:"Why a completed text ends: at a natural end or a stop string (stop), at the requested length (length), or before a word that the text policy refuses (content_filter)."`
	Reason           string          `json:"reason,omitempty" doc:"Why the job failed or was cancelled."`
	QueuePosition    int             `json:"queue_position,omitempty" minimum:"1" maximum:"10000" doc:"The position of a queued job; 1 is next. It may grow, because jobs of users with fewer outstanding jobs go first, even if they were accepted later. Counting stops at 10000."`
	EstimatedStartAt *time.Time      `json:"estimated_start_at,omitempty" doc:"When a queued job will probably start. Missing if there is no estimate."`
	Version          int             `json:"version,omitempty" minimum:"1" doc:"The number of the latest event."`
	CreatedAt        time.Time       `json:"created_at" doc:"When the job was accepted."`
	Deadline         *time.Time      `json:"deadline,omitempty" doc:"When the job is cancelled unless it has ended."`
	StartedAt        *time.Time      `json:"started_at,omitempty" doc:"When a worker first started the job."`
	FinishedAt       *time.Time      `json:"finished_at,omitempty" doc:"When the job ended."`
	ErasedAt         *time.Time      `json:"erased_at,omitempty" doc:"When the prompt, the text and the params were erased."`
	Links            *JobLinks       `json:"links,omitempty" doc:"The routes of the job."`
}

// Params are the values that determine the text of a job, together with the prompt and the
// weights.
type Params struct {
	MaxTokens   int      `json:"max_tokens" doc:"The largest number of tokens to generate."`
	Temperature float64  `json:"temperature" doc:"The divisor of the logits; 0 always takes the likeliest token."`
	TopK        int      `json:"top_k" doc:"How many of the likeliest tokens are considered; 0 means all."`
	TopP        float64  `json:"top_p" doc:"The probability of the likeliest tokens that are considered; 1 means all."`
	Seed        uint64   `json:"seed" doc:"The same seed gives the same text again."`
	Stop        []string `json:"stop,omitempty" doc:"The text ends before the first of these strings."`

	PresencePenalty   float64         `json:"presence_penalty,omitempty" doc:"What is taken off the logit of each token that the continuation has. Missing if it changes nothing, as the members that follow."`
	FrequencyPenalty  float64         `json:"frequency_penalty,omitempty" doc:"What each occurrence of a token in the continuation takes off its logit."`
	RepetitionPenalty float64         `json:"repetition_penalty,omitempty" doc:"The factor by which the logits of tokens that have occurred, in the prompt too, become less likely."`
	MinP              float64         `json:"min_p,omitempty" doc:"The smallest probability of a considered token, as a share of that of the likeliest token."`
	LogitBias         map[int]float64 `json:"logit_bias,omitempty" doc:"What is added to the logits of tokens, by their ids."`
	MinTokens         int             `json:"min_tokens,omitempty" doc:"The number of tokens before which the text does not end."`
	Logprobs          *int            `json:"logprobs,omitempty" doc:"The number of alternatives with their log probabilities at each position."`
}

// TokenLogprob is a token with its log probability.
type TokenLogprob struct {
	Token   int     `json:"token" doc:"The id of the token."`
	Text    string  `json:"text" doc:"The text of the token. Empty if the job was accepted for another model than new jobs are."`
	Bytes   []int   `json:"bytes,omitempty" doc:"The bytes of the token, if they are not whole characters. The text then has replacement characters."`
	Logprob float32 `json:"logprob" doc:"The natural logarithm of the probability that the model gives to the token."`
}

// TokenLogprobs are the log probabilities at the position of a generated token.
type TokenLogprobs struct {
	TokenLogprob
	Top []TokenLogprob `json:"top,omitempty" doc:"The likeliest tokens at this position, as many as the request asked for, highest first. The generated token may be none of them."`
}

// Watermark is the mark of a text.
type Watermark struct {
	Key        string `json:"key" example:"020ca29fff479ebe" doc:"The id of the user's watermark key. Only the service with this key can detect the mark or execute the text again."`
	Parameters string `json:"parameters" example:"gumbel-h3-s8/1" doc:"The name and version of the scheme."`
}

// Usage counts model tokens.
type Usage struct {
	PromptTokens     int `json:"prompt_tokens" doc:"The tokens of the prompt."`
	CompletionTokens int `json:"completion_tokens" doc:"The generated tokens."`
	TotalTokens      int `json:"total_tokens" doc:"The sum of both."`
}

// JobLinks are the paths of a job.
type JobLinks struct {
	Self   string `json:"self" doc:"The job."`
	Events string `json:"events" doc:"The events of the job."`
	Cancel string `json:"cancel" doc:"Cancels the job, by POST."`
}

func jobPath(id uuid.UUID) string { return "/jobs/" + id.String() }

func (s *server) jobBody(j events.Job) Job {
	path := jobPath(j.ID)
	body := Job{
		ID:            j.ID,
		State:         string(j.State),
		Prompt:        j.Prompt,
		GeneratedText: j.Prompt + j.Text,
		Completion:    j.Text,
		ModelName:     j.Model,
		MixedKernels:  j.Mixed,
		Group:         j.Group,
		Template:      j.Template,
		Usage:         usage(j.PromptTokens, j.Generated()),
		FinishReason:  j.FinishReason,
		Reason:        j.Reason,
		Version:       j.Version,
		CreatedAt:     j.AcceptedAt,
		Deadline:      optional(j.Deadline),
		StartedAt:     optional(j.StartedAt),
		FinishedAt:    optional(j.FinishedAt),
		ErasedAt:      optional(j.ErasedAt),
		Links:         &JobLinks{Self: path, Events: path + "/events", Cancel: path + "/cancel"},
	}
	for i, p := range j.Logprobs[:min(len(j.Logprobs), len(j.Tokens))] {
		of := TokenLogprobs{TokenLogprob: s.tokenLogprob(j, j.Tokens[i], p.Logprob)}
		for _, top := range p.Top {
			of.Top = append(of.Top, s.tokenLogprob(j, top.Token, top.Logprob))
		}
		body.Logprobs = append(body.Logprobs, of)
	}
	if j.LogprobsOf != (uuid.UUID{}) {
		body.LogprobsOf = &j.LogprobsOf
	}
	if w := j.Watermark; w != (events.Watermark{}) {
		body.Watermark = &Watermark{w.Key, w.Parameters}
	}
	if !j.Erased {
		body.Params = &Params{
			MaxTokens:   j.Params.MaxTokens,
			Temperature: j.Params.Temperature,
			TopK:        j.Params.TopK,
			TopP:        j.Params.TopP,
			Seed:        j.Params.Seed,
			Stop:        j.Params.Stop,

			PresencePenalty:   j.Params.PresencePenalty,
			FrequencyPenalty:  j.Params.FrequencyPenalty,
			RepetitionPenalty: j.Params.RepetitionPenalty,
			MinP:              j.Params.MinP,
			LogitBias:         j.Params.LogitBias,
			MinTokens:         j.Params.MinTokens,
			Logprobs:          j.Params.Logprobs,
		}
	}
	return body
}

// tokenLogprob returns a token of a job with its text and its log probability.
func (s *server) tokenLogprob(j events.Job, token int, logprob float32) TokenLogprob {
	t := TokenLogprob{Token: token, Logprob: logprob}
	if b, ok := s.Queue.Decode(j, []int{token}); ok {
		t.Text = strings.ToValidUTF8(string(b), "\uFFFD")
		if !utf8.Valid(b) {
			for _, x := range b {
				t.Bytes = append(t.Bytes, int(x))
			}
		}
	}
	return t
}

func recordBody(r events.Record) Job {
	return Job{
		ID:            r.Job,
		State:         string(r.State),
		Prompt:        r.Prompt,
		GeneratedText: r.Prompt + r.Text,
		Completion:    r.Text,
		ModelName:     r.Model,
		Usage:         usage(r.PromptTokens, r.CompletionTokens),
		FinishReason:  r.FinishReason,
		CreatedAt:     r.CreatedAt,
		StartedAt:     optional(r.StartedAt),
		FinishedAt:    optional(r.FinishedAt),
		ErasedAt:      optional(r.ErasedAt),
	}
}

func usage(prompt, completion int) Usage { return Usage{prompt, completion, prompt + completion} }

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
