package api

import (
	"time"

	"github.com/google/uuid"

	"colophon/events"
)

// Job is a job as clients see it. A list of jobs leaves out the params, deadline, version
// and links of each job.
type Job struct {
	ID               uuid.UUID  `json:"id" format:"uuid"`
	State            string     `json:"state" enum:"queued,running,completed,failed,cancelled"`
	Prompt           string     `json:"prompt"`
	GeneratedText    string     `json:"generated_text" doc:"The prompt, followed by the text generated so far."`
	Completion       string     `json:"completion" doc:"The text generated so far."`
	ModelName        string     `json:"model_name"`
	WaitingForModel  bool       `json:"waiting_for_model,omitempty" doc:"Whether the job was accepted for other weights than new jobs are, and waits for a worker that has them."`
	MixedKernels     bool       `json:"mixed_kernels,omitempty" doc:"Whether the text was continued with arithmetic that gives other bits, so that it may differ from an uninterrupted one."`
	Params           *Params    `json:"params,omitempty"`
	Usage            Usage      `json:"usage"`
	FinishReason     string     `json:"finish_reason,omitempty" enum:"stop,length,content_filter" doc:"Why a completed text ends: at a natural end or a stop string (stop), at the requested length (length), or before a word that the text policy refuses (content_filter)."`
	Reason           string     `json:"reason,omitempty" doc:"Why the job failed or was cancelled."`
	QueuePosition    int        `json:"queue_position,omitempty" minimum:"1" maximum:"10000" doc:"The position of a queued job; 1 is next. It may grow, because jobs of users with fewer outstanding jobs go first, even if they were accepted later. Counting stops at 10000."`
	EstimatedStartAt *time.Time `json:"estimated_start_at,omitempty" doc:"When a queued job will probably start. Missing if there is no estimate."`
	Version          int        `json:"version,omitempty" minimum:"1" doc:"The number of the latest event."`
	CreatedAt        time.Time  `json:"created_at"`
	Deadline         *time.Time `json:"deadline,omitempty" doc:"When the job is cancelled unless it has ended."`
	StartedAt        *time.Time `json:"started_at,omitempty"`
	FinishedAt       *time.Time `json:"finished_at,omitempty"`
	Links            *JobLinks  `json:"links,omitempty"`
}

// Params are the values that determine the text of a job, together with the prompt and the
// weights.
type Params struct {
	MaxTokens   int      `json:"max_tokens" doc:"The largest number of tokens to generate."`
	Temperature float64  `json:"temperature"`
	TopK        int      `json:"top_k"`
	TopP        float64  `json:"top_p"`
	Seed        uint64   `json:"seed" doc:"The same seed gives the same text again."`
	Stop        []string `json:"stop,omitempty"`
}

// Usage counts model tokens.
type Usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

// JobLinks are the paths of a job.
type JobLinks struct {
	Self   string `json:"self"`
	Events string `json:"events"`
	Cancel string `json:"cancel"`
}

func jobPath(id uuid.UUID) string { return "/jobs/" + id.String() }

func jobBody(j events.Job) Job {
	path := jobPath(j.ID)
	return Job{
		ID:            j.ID,
		State:         string(j.State),
		Prompt:        j.Prompt,
		GeneratedText: j.Prompt + j.Text,
		Completion:    j.Text,
		ModelName:     j.Model,
		Params: &Params{
			MaxTokens:   j.Params.MaxTokens,
			Temperature: j.Params.Temperature,
			TopK:        j.Params.TopK,
			TopP:        j.Params.TopP,
			Seed:        j.Params.Seed,
			Stop:        j.Params.Stop,
		},
		MixedKernels: j.Mixed,
		Usage:        usage(j.PromptTokens, len(j.Tokens)),
		FinishReason: j.FinishReason,
		Reason:       j.Reason,
		Version:      j.Version,
		CreatedAt:    j.AcceptedAt,
		Deadline:     optional(j.Deadline),
		StartedAt:    optional(j.StartedAt),
		FinishedAt:   optional(j.FinishedAt),
		Links:        &JobLinks{Self: path, Events: path + "/events", Cancel: path + "/cancel"},
	}
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
	}
}

func usage(prompt, completion int) Usage { return Usage{prompt, completion, prompt + completion} }

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
