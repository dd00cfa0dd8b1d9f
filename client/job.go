package client

import (
	"encoding/json"
	"time"
)

// A State is the state of a job.
type State string

// The states of a job.
const (
	Queued    State = "queued"
	Running   State = "running"
	Completed State = "completed"
	Failed    State = "failed"
	Cancelled State = "cancelled"

	// Damaged is the state of a job whose record is damaged, so that it does not go on. Only
	// Jobs yields such jobs.
	Damaged State = "damaged"
)

// Final reports whether a job in the state has ended. A damaged job does not go on.
func (s State) Final() bool { return s == Completed || s == Failed || s == Cancelled || s == Damaged }

// A Job is a request for a text, with its state and its result. In the sequences of Jobs and
// History, a job has no Params, Logprobs, Watermark, Group, Template, Version,
// Reason and Links. It has a Deadline only in
// those of Jobs, until it has ended. An erased job has no Prompt, texts and Params.
type Job struct {
	ID               string          `json:"id"`
	State            State           `json:"state"`
	Prompt           string          `json:"prompt"`
	GeneratedText    string          `json:"generated_text"` // the prompt and the completion
	Completion       string          `json:"completion"`     // the text generated so far
	LogprobsOf       string          `json:"logprobs_of"`    // job whose text this job computes again; "" for a job with a text of its own
	Logprobs         []TokenLogprobs `json:"logprobs"`       // log probabilities of each generated token; nil if the request did not ask for them
	ModelName        string          `json:"model_name"`
	WaitingForModel  bool            `json:"waiting_for_model"` // true if the queued job needs other weights than new jobs
	MixedKernels     bool            `json:"mixed_kernels"`     // true if parts of the text were generated with different arithmetic
	Params           *Params         `json:"params"`
	Watermark        *Watermark      `json:"watermark"` // nil if the text has no mark, as at temperature 0
	Group            []string        `json:"group"`     // ids of all jobs of the same request, in the order of its texts; nil if the request was for one text
	Template         string          `json:"template"`  // chat template that made the prompt from messages; "" if the client wrote the prompt
	Usage            Usage           `json:"usage"`
	FinishReason     string          `json:"finish_reason"`      // stop, length or content_filter; only in a completed job
	Reason           string          `json:"reason"`             // why the job failed or was cancelled
	QueuePosition    int             `json:"queue_position"`     // only in a queued job; the next job to run has position 1
	EstimatedStartAt *time.Time      `json:"estimated_start_at"` // only in a queued job; nil if unknown
	Version          int             `json:"version"`            // version of the job's latest event
	CreatedAt        time.Time       `json:"created_at"`
	Deadline         *time.Time      `json:"deadline"` // time at which the job is cancelled unless it has ended
	StartedAt        *time.Time      `json:"started_at"`
	FinishedAt       *time.Time      `json:"finished_at"`
	ErasedAt         *time.Time      `json:"erased_at"` // time at which the prompt, the text and the params were erased; nil if they were not
	Links            *Links          `json:"links"`

	ETag       string        `json:"-"` // identifies this state of the job; only the methods Job, JobAtVersion, JobAtTime and Poll set it
	RetryAfter time.Duration `json:"-"` // suggested wait before the next Poll of a job that has not ended
}

// Params are the parameters of a job. With the prompt and the weights they determine its text.
type Params struct {
	MaxTokens   int      `json:"max_tokens"` // largest number of tokens to generate
	Temperature float64  `json:"temperature"`
	TopK        int      `json:"top_k"`
	TopP        float64  `json:"top_p"`
	Seed        uint64   `json:"seed"`
	Stop        []string `json:"stop"`

	// These parameters are zero if they change nothing.
	PresencePenalty   float64         `json:"presence_penalty"`
	FrequencyPenalty  float64         `json:"frequency_penalty"`
	RepetitionPenalty float64         `json:"repetition_penalty"`
	MinP              float64         `json:"min_p"`
	LogitBias         map[int]float64 `json:"logit_bias"`
	MinTokens         int             `json:"min_tokens"`
	Logprobs          *int            `json:"logprobs"`
}

// A TokenLogprob is a token with its log probability.
type TokenLogprob struct {
	Token   int     `json:"token"`   // id of the token
	Text    string  `json:"text"`    // text of the token; "" if the job was accepted for another model than new jobs are
	Bytes   []int   `json:"bytes"`   // bytes of the token; nil if they are those of Text
	Logprob float32 `json:"logprob"` // natural logarithm of the probability that the model gives to the token
}

// TokenLogprobs are the log probabilities at the position of a generated token.
type TokenLogprobs struct {
	TokenLogprob
	Top []TokenLogprob `json:"top"` // likeliest tokens, highest first; the generated token may be none of them
}

// RecordedLogprobs are the log probabilities of one position of a text, as an event has them.
type RecordedLogprobs struct {
	Logprob float32           `json:"logprob"` // of the generated token
	Top     []RecordedLogprob `json:"top"`     // likeliest tokens, highest first
}

// A RecordedLogprob is a token with its log probability, as an event has them.
type RecordedLogprob struct {
	Token   int     `json:"token"`
	Logprob float32 `json:"logprob"`
}

// Watermark is the mark of a text.
type Watermark struct {
	Key        string `json:"key"`        // id of the user's watermark key
	Parameters string `json:"parameters"` // name and version of the scheme
}

// Usage counts model tokens.
type Usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

// Links are the paths of a job and its operations.
type Links struct {
	Self   string `json:"self"`
	Events string `json:"events"`
	Cancel string `json:"cancel"`
}

// The types of events.
const (
	JobAccepted   = "job.accepted"
	JobReassigned = "job.reassigned" // other weights may run the queued job
	JobStarted    = "job.started"
	JobAdvanced   = "job.advanced"
	JobCompleted  = "job.completed"
	JobFailed     = "job.failed"
	JobCancelled  = "job.cancelled"
	JobErased     = "job.erased" // the prompt and the text of the ended job were erased
)

// BatchLine names a line of a batch of POST /v1/batches.
type BatchLine struct {
	ID   string `json:"id"`   // id of the batch, without the prefix of OpenAI's API
	Line int    `json:"line"` // number of the line in the input, from 1
}

// An Event is one fact about a job. The type of an event decides which fields it has,
// from Prompt to the last field. The events of an erased job have no Prompt, Stop, Params,
// Request, Tokens, Text and Logprobs.
type Event struct {
	Version int       `json:"version"` // position among the job's events, from 1
	Type    string    `json:"type"`
	At      time.Time `json:"at"`

	// Fields of job.accepted.
	Prompt       string     `json:"prompt"`
	Stop         []string   `json:"stop"`
	Params       *Params    `json:"params"`
	PromptTokens int        `json:"prompt_tokens"`
	Model        string     `json:"model"`
	Priority     int        `json:"priority"`  // priority in the queue, from 1 (first) to 4 (last)
	Reserved     *Reserved  `json:"reserved"`  // nil if neither the owner of the job nor its API key has a token budget
	APIKey       string     `json:"api_key"`   // job.accepted, job.erased: id of the API key that submitted the job, or ""
	Deadline     *time.Time `json:"deadline"`  // time at which the job is cancelled unless it has ended
	Watermark    *Watermark `json:"watermark"` // nil if the text has no mark
	Group        []string   `json:"group"`     // ids of all jobs of the same request; nil if the request was for one text
	Template     string     `json:"template"`  // chat template that made the prompt from messages; "" if the client wrote the prompt

	LogprobsOf string `json:"logprobs_of"` // job whose text the job computes again; "" for a job with a text of its own

	// Request has what the operation of OpenAI's API that made the job must know later. Its
	// form may change. It is nil for other jobs.
	Request json.RawMessage `json:"request"`

	// EraseAtEnd is set if the job is erased when it has ended.
	EraseAtEnd bool `json:"erase_at_end"`

	// Response is "capped" or "uncapped" for the job of a response of OpenAI's API: whether the
	// client chose the length of the text. It is "" for other jobs.
	Response string `json:"response"`

	// TextAt is when the job that generated the text ended, if that is another job.
	TextAt *time.Time `json:"text_at"`

	// Batch is the line of a batch that asked for the job. It is nil for other jobs.
	Batch *BatchLine `json:"batch"`

	// Policy is the version of the text policy, only in job.accepted and job.started.
	Policy string `json:"policy"`

	// Attempt is the number of the attempt, from 1, only in job.started and job.failed.
	Attempt int `json:"attempt"`

	// Fields of job.started.
	Worker    string `json:"worker"`
	FromToken int    `json:"from_token"` // number of tokens that were generated before this attempt
	Kernel    string `json:"kernel"`     // name of the arithmetic that this attempt uses, such as avx2-fma/1

	// Weights is the digest of the weights. In job.started it also contains their format.
	// In job.accepted and job.reassigned it may be empty, which means that any weights
	// may run the job.
	Weights string `json:"weights"`

	// Fields of job.advanced. Tokens are the new tokens. Text is the text that is
	// complete with them.
	Tokens []int  `json:"tokens"`
	Text   string `json:"text"`

	// Logprobs are the log probabilities of each of Tokens, if the request asked for them.
	Logprobs []RecordedLogprobs `json:"logprobs"`

	// Fields of job.completed.
	FinishReason string   `json:"finish_reason"` // stop, length or content_filter
	Usage        *Usage   `json:"usage"`
	Timings      *Timings `json:"timings"`

	// Reason is the reason of job.failed and job.cancelled.
	Reason string `json:"reason"`

	// Final belongs to job.failed. It is false if another attempt follows.
	Final bool `json:"final"`

	// By belongs to job.cancelled, job.reassigned and job.erased. It is "owner", "service"
	// for a deadline, "command" for a command of the operator, or "retention" for a text that
	// the service has kept long enough.
	By string `json:"by"`

	// CompletionTokens is the number of generated tokens, only in job.erased.
	CompletionTokens int `json:"completion_tokens"`
}

// Ends reports whether the event ends its job. Only an event of the type JobErased may follow.
func (e *Event) Ends() bool {
	return e.Type == JobCompleted || e.Type == JobCancelled || e.Type == JobErased || e.Type == JobFailed && e.Final
}

// Reserved is the part of a token budget that a job has reserved.
type Reserved struct {
	Day    string `json:"day"` // date in UTC, in the form 2006-01-02
	Tokens int    `json:"tokens"`
}

// Timings are the times since the acceptance of a job, in milliseconds.
type Timings struct {
	QueuedMS     int64 `json:"queued_ms"`      // until the job was started
	FirstTokenMS int64 `json:"first_token_ms"` // until the first token
	TotalMS      int64 `json:"total_ms"`       // until the job was completed
}
