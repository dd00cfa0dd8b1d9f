package client

import (
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
)

// Final reports whether a job in the state has ended.
func (s State) Final() bool { return s == Completed || s == Failed || s == Cancelled }

// A Job is a request for a text, with its state and its result. In the history, a job has
// no Params, Version, Deadline and Links.
type Job struct {
	ID               string     `json:"id"`
	State            State      `json:"state"`
	Prompt           string     `json:"prompt"`
	GeneratedText    string     `json:"generated_text"` // the prompt and the completion
	Completion       string     `json:"completion"`     // the text generated so far
	ModelName        string     `json:"model_name"`
	WaitingForModel  bool       `json:"waiting_for_model"` // true if the queued job needs other weights than new jobs
	MixedKernels     bool       `json:"mixed_kernels"`     // true if parts of the text were generated with different arithmetic
	Params           *Params    `json:"params"`
	Usage            Usage      `json:"usage"`
	FinishReason     string     `json:"finish_reason"`      // stop, length or content_filter; only in a completed job
	Reason           string     `json:"reason"`             // why the job failed or was cancelled
	QueuePosition    int        `json:"queue_position"`     // only in a queued job; the next job to run has position 1
	EstimatedStartAt *time.Time `json:"estimated_start_at"` // only in a queued job; nil if unknown
	Version          int        `json:"version"`            // version of the job's latest event
	CreatedAt        time.Time  `json:"created_at"`
	Deadline         *time.Time `json:"deadline"` // time at which the job is cancelled unless it has ended
	StartedAt        *time.Time `json:"started_at"`
	FinishedAt       *time.Time `json:"finished_at"`
	Links            *Links     `json:"links"`

	ETag       string        `json:"-"` // identifies this state of the job; only the methods Job and Poll set it
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
)

// An Event is one fact about a job. The type of an event decides which fields it has,
// from Prompt to the last field.
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
	Priority     int        `json:"priority"` // priority in the queue, from 1 (first) to 4 (last)
	Reserved     *Reserved  `json:"reserved"` // nil if the owner of the job has no token budget
	Deadline     *time.Time `json:"deadline"` // time at which the job is cancelled unless it has ended

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

	// Fields of job.completed.
	FinishReason string   `json:"finish_reason"` // stop, length or content_filter
	Usage        *Usage   `json:"usage"`
	Timings      *Timings `json:"timings"`

	// Reason is the reason of job.failed and job.cancelled.
	Reason string `json:"reason"`

	// Final belongs to job.failed. It is false if another attempt follows.
	Final bool `json:"final"`

	// By belongs to job.cancelled and job.reassigned. It is "owner", "service" for a
	// deadline, or "command" for a command of the operator.
	By string `json:"by"`
}

// Ends reports whether the event is the last of its job.
func (e *Event) Ends() bool {
	return e.Type == JobCompleted || e.Type == JobCancelled || e.Type == JobFailed && e.Final
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
