package api

import (
	"time"

	"github.com/google/uuid"

	"colophon/events"
)

// Job is a job as clients see it. In lists the course of the job is left out.
type Job struct {
	ID               uuid.UUID  `json:"id" format:"uuid"`
	State            string     `json:"state" enum:"queued,running,completed,failed,cancelled"`
	Prompt           string     `json:"prompt"`
	GeneratedText    string     `json:"generated_text" doc:"The prompt and what has been generated so far."`
	Completion       string     `json:"completion" doc:"What has been generated so far."`
	ModelName        string     `json:"model_name"`
	Params           *Params    `json:"params,omitempty"`
	Usage            Usage      `json:"usage"`
	FinishReason     string     `json:"finish_reason,omitempty" enum:"stop,length,content_filter" doc:"Why a completed text ends: at a natural end or a stop string (stop), at the limit that was asked for (length), or before a word that the text policy refuses (content_filter)."`
	Reason           string     `json:"reason,omitempty" doc:"Why the job failed or was cancelled."`
	QueuePosition    int        `json:"queue_position,omitempty" minimum:"1" maximum:"10000" doc:"Of a queued job: 1 is next. Jobs of users who have fewer jobs outstanding go first, those accepted later too, so it may grow; at 10000 counting stops."`
	EstimatedStartAt *time.Time `json:"estimated_start_at,omitempty" doc:"Of a queued job: when it will probably be started, as far as that can be told."`
	Version          int        `json:"version,omitempty" minimum:"1" doc:"The number of the latest event."`
	CreatedAt        time.Time  `json:"created_at"`
	Deadline         *time.Time `json:"deadline,omitempty" doc:"When the job is cancelled if it has not ended by then."`
	StartedAt        *time.Time `json:"started_at,omitempty"`
	FinishedAt       *time.Time `json:"finished_at,omitempty"`
	Links            *JobLinks  `json:"links,omitempty"`
}

// Params are the choices that, with the prompt and the weights, determine a text.
type Params struct {
	MaxTokens   int      `json:"max_tokens" doc:"Most tokens to generate."`
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

// JobLinks is where to go from a job.
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
