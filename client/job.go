package client

import (
	"time"
)

// A State is where a job is in its course.
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

// A Job is a request for a text and what has become of it. In the history,
// Params, Version, Deadline and Links are missing.
type Job struct {
	ID               string     `json:"id"`
	State            State      `json:"state"`
	Prompt           string     `json:"prompt"`
	GeneratedText    string     `json:"generated_text"` // the prompt and the completion
	Completion       string     `json:"completion"`     // what has been generated so far
	ModelName        string     `json:"model_name"`
	Params           *Params    `json:"params"`
	Usage            Usage      `json:"usage"`
	FinishReason     string     `json:"finish_reason"`      // stop, length or content_filter, of a completed job
	Reason           string     `json:"reason"`             // why the job failed or was cancelled
	QueuePosition    int        `json:"queue_position"`     // of a queued job: 1 is next
	EstimatedStartAt *time.Time `json:"estimated_start_at"` // of a queued job, as far as that can be told
	Version          int        `json:"version"`            // of its latest event
	CreatedAt        time.Time  `json:"created_at"`
	Deadline         *time.Time `json:"deadline"` // when the job is cancelled unless it has ended
	StartedAt        *time.Time `json:"started_at"`
	FinishedAt       *time.Time `json:"finished_at"`
	Links            *Links     `json:"links"`

	ETag       string        `json:"-"` // identifies what is shown here; only Job and Poll set it
	RetryAfter time.Duration `json:"-"` // when it is worth looking again, of a job that has not ended
}

// Params are the choices that determine a text, with the prompt and the weights.
type Params struct {
	MaxTokens   int      `json:"max_tokens"` // most tokens to generate
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

// Links are paths that belong to a job.
type Links struct {
	Self   string `json:"self"`
	Events string `json:"events"`
	Cancel string `json:"cancel"`
}

// The types of events.
const (
	JobAccepted  = "job.accepted"
	JobStarted   = "job.started"
	JobAdvanced  = "job.advanced"
	JobCompleted = "job.completed"
	JobFailed    = "job.failed"
	JobCancelled = "job.cancelled"
)

// An Event is one fact of a job's course. Its type says which of the members
// from Prompt on it has.
type Event struct {
	Version int       `json:"version"` // its position among the job's events, from 1
	Type    string    `json:"type"`
	At      time.Time `json:"at"`

	// Of job.accepted.
	Prompt       string     `json:"prompt"`
	Stop         []string   `json:"stop"`
	Params       *Params    `json:"params"`
	PromptTokens int        `json:"prompt_tokens"`
	Model        string     `json:"model"`
	Priority     int        `json:"priority"` // in the queue: 1, which is first, to 4
	Reserved     *Reserved  `json:"reserved"` // nil if the owner has no token budget
	Deadline     *time.Time `json:"deadline"` // when the job is cancelled unless it has ended

	// Of job.accepted, and of job.started: the version of the text policy.
	Policy string `json:"policy"`

	// Of job.started and of job.failed: which attempt it is, from 1.
	Attempt int `json:"attempt"`

	// Of job.started.
	Worker    string `json:"worker"`
	FromToken int    `json:"from_token"` // how many tokens there were already
	Weights   string `json:"weights"`    // digest of the weights
	Kernel    string `json:"kernel"`     // fingerprint of the arithmetic

	// Of job.advanced: the new tokens and the text that they complete.
	Tokens []int  `json:"tokens"`
	Text   string `json:"text"`

	// Of job.completed.
	FinishReason string   `json:"finish_reason"` // stop, length or content_filter
	Usage        *Usage   `json:"usage"`
	Timings      *Timings `json:"timings"`

	// Of job.failed and of job.cancelled.
	Reason string `json:"reason"`

	// Of job.failed: false if the job will be tried again.
	Final bool `json:"final"`

	// Of job.cancelled: owner, or service for a deadline.
	By string `json:"by"`
}

// Ends reports whether the event is the last of its job.
func (e *Event) Ends() bool {
	return e.Type == JobCompleted || e.Type == JobCancelled || e.Type == JobFailed && e.Final
}

// Reserved is a part of a token budget.
type Reserved struct {
	Day    string `json:"day"` // in UTC, as 2006-01-02
	Tokens int    `json:"tokens"`
}

// Timings are milliseconds since a job was accepted.
type Timings struct {
	QueuedMS     int64 `json:"queued_ms"`      // until it was started
	FirstTokenMS int64 `json:"first_token_ms"` // until the first token
	TotalMS      int64 `json:"total_ms"`       // until it was completed
}
