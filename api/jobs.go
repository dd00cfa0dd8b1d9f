package api

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/jobs"
)

// generateBody is the request that /generate and /jobs share. What may be zero
// is a pointer: Huma's defaults cannot tell zero from missing otherwise.
type generateBody struct {
	Prompt       string   `json:"prompt" minLength:"1" maxLength:"500" example:"The nature of light" doc:"The text to continue. The characters <>{}; are taken out."`
	MaxLength    int      `json:"max_length,omitempty" minimum:"10" maximum:"200" default:"50" doc:"Most tokens of the prompt and its continuation together."`
	MaxNewTokens int      `json:"max_new_tokens,omitempty" minimum:"1" maximum:"1024" doc:"Most tokens of the continuation alone; if it is given, max_length does not count."`
	Temperature  *float64 `json:"temperature,omitempty" minimum:"0" maximum:"2" default:"0.8" doc:"0 always takes the likeliest token."`
	TopK         *int     `json:"top_k,omitempty" minimum:"0" maximum:"1000" default:"40" doc:"Choose among so many of the likeliest tokens; 0 is all."`
	TopP         float64  `json:"top_p,omitempty" exclusiveMinimum:"0" maximum:"1" default:"1" doc:"Choose among the likeliest tokens that make up this share of the probability."`
	Seed         *uint64  `json:"seed,omitempty" minimum:"0" maximum:"9007199254740991" doc:"The same seed gives the same text again. If it is missing, one is drawn."`
	Stop         []string `json:"stop,omitempty" maxItems:"4" minLength:"1" maxLength:"32" doc:"The text ends before the first of these, of 1 to 32 characters."`
}

func (b *generateBody) request() jobs.Request {
	return jobs.Request{
		Prompt:       b.Prompt,
		MaxLength:    b.MaxLength,
		MaxNewTokens: b.MaxNewTokens,
		Temperature:  *b.Temperature, // it has a default
		TopK:         *b.TopK,
		TopP:         b.TopP,
		Seed:         b.Seed,
		Stop:         b.Stop,
	}
}

type submitInput struct {
	Prefer string `header:"Prefer" maxLength:"100" example:"wait=10" doc:"RFC 7240: wait=N waits up to N seconds for the text, respond-async does not wait."`
	Body   generateBody
}

type jobInput struct {
	ID uuid.UUID `path:"id" format:"uuid" doc:"The job's id."`
}

type jobOutput struct {
	Status            int
	Location          string `header:"Location" doc:"Of a job that has not ended: where to look for it."`
	PreferenceApplied string `header:"Preference-Applied" doc:"The preference that was followed, if one was sent."`
	RetryAfter        string `header:"Retry-After" doc:"Of a job that has not ended: seconds after which to look again."`
	Body              Job
}

// admission says, for both calls, what a job has to find room in.
const admission = "A user may have so many jobs outstanding, the service so many queued, and where there is a token budget, " +
	"the tokens of the prompt and the most that may follow are reserved of the user's day (UTC) until the job has ended; " +
	"then usage.total_tokens counts, or nothing if the job never started. Above that the answer is 429 too_many_jobs or token_budget_spent, " +
	"or 503 queue_full, with Retry-After, and nothing is on record. Jobs of users with fewer jobs outstanding go first."

func (s *server) jobs() {
	job := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Job](), true, "Job")
	// Both calls give either answer, and Huma documents only the default one.
	either := func() map[string]*huma.Response {
		content := map[string]*huma.MediaType{"application/json": {Schema: job}}
		return map[string]*huma.Response{
			"200": {Description: "The job has ended, with its text.", Content: content},
			"202": {Description: "The job is on record and goes on; Location is where to look for it.", Content: content},
		}
	}
	register(s, huma.Operation{
		OperationID: "generate", Method: http.MethodPost, Path: "/generate", Tags: []string{"jobs"},
		Summary:     "Generate a text and wait for it",
		Description: "Waits 30 seconds, or as Prefer says, and answers 200 with the text. If it is not there by then, the answer is 202 and the job goes on. " + admission,
		Security:    private(),
		Metadata:    limited("generate"),
		Responses:   either(),
		Errors:      []int{http.StatusConflict},
	}, func(ctx context.Context, in *submitInput) (*jobOutput, error) {
		return s.submit(ctx, in, defaultWait)
	})
	register(s, huma.Operation{
		OperationID: "submit-job", Method: http.MethodPost, Path: "/jobs", Tags: []string{"jobs"},
		DefaultStatus: http.StatusAccepted,
		Summary:       "Submit a job",
		Description:   "Answers 202 as soon as the job is on record. Prefer: wait=N turns it into a call that waits. " + admission,
		Security:      private(),
		Metadata:      limited("jobs"),
		Responses:     either(),
		Errors:        []int{http.StatusConflict},
	}, func(ctx context.Context, in *submitInput) (*jobOutput, error) {
		return s.submit(ctx, in, 0)
	})
	register(s, huma.Operation{
		OperationID: "get-job", Method: http.MethodGet, Path: "/jobs/{id}", Tags: []string{"jobs"},
		Summary:  "Look at a job",
		Security: private(),
		Errors:   []int{http.StatusNotFound},
	}, s.job)
	register(s, huma.Operation{
		OperationID: "cancel-job", Method: http.MethodPost, Path: "/jobs/{id}/cancel", Tags: []string{"jobs"},
		Summary:     "Cancel a job",
		Description: "Ends a job that has not ended, and answers with the job as it then is. Cancelling again changes nothing.",
		Security:    private(),
		Errors:      []int{http.StatusNotFound},
	}, s.cancel)
	s.stream()
}

func (s *server) submit(ctx context.Context, in *submitInput, wait time.Duration) (*jobOutput, error) {
	wait, applied := prefer(in.Prefer, wait)
	job, err := s.Queue.Submit(ctx, caller(ctx).Account, in.Body.request())
	if err != nil {
		return nil, err
	}
	if wait > 0 {
		if job, err = s.await(ctx, job, wait); err != nil {
			return nil, err
		}
	}
	out := &jobOutput{Status: http.StatusOK, PreferenceApplied: applied, Body: jobBody(job)}
	switch job.State {
	case events.Completed:
	case events.Failed:
		return nil, newProblem(http.StatusInternalServerError, "job_failed", fmt.Sprintf("job %s failed: %s", job.ID, job.Reason))
	case events.Cancelled:
		return nil, newProblem(http.StatusConflict, "job_cancelled", fmt.Sprintf("job %s was cancelled before it had ended", job.ID))
	default:
		out.Status, out.Location, out.RetryAfter = http.StatusAccepted, jobPath(job.ID), "1"
	}
	return out, nil
}

// await follows a job until it has ended or the wait is over, and returns it as
// it then is.
func (s *server) await(ctx context.Context, job events.Job, wait time.Duration) (events.Job, error) {
	ctx, stop := s.waiting(ctx)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for batch, err := range s.Store.Follow(ctx, events.JobStream(job.ID), job.Version, beat) {
		if ctx.Err() != nil {
			return job, nil // the wait is over, or the service stops
		}
		if err != nil {
			return job, err
		}
		for _, e := range batch {
			if job, err = job.Apply(e); err != nil {
				return job, err
			}
		}
		if job.State.Final() {
			break
		}
	}
	return job, nil
}

func (s *server) job(ctx context.Context, in *jobInput) (*jobOutput, error) {
	job, err := s.own(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out := &jobOutput{Status: http.StatusOK, Body: jobBody(job)}
	if !job.State.Final() {
		out.RetryAfter = "1"
	}
	if job.State == events.Queued {
		if out.Body.QueuePosition, err = s.Store.QueuePosition(ctx, job.ID); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *server) cancel(ctx context.Context, in *jobInput) (*jobOutput, error) {
	job, err := s.own(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if job, err = s.Queue.Cancel(ctx, job, events.JobCancelled{By: "owner"}); err != nil {
		return nil, err
	}
	return &jobOutput{Status: http.StatusOK, Body: jobBody(job)}, nil
}

// own returns the caller's job. A job that is somebody else's is not found.
func (s *server) own(ctx context.Context, id uuid.UUID) (events.Job, error) {
	job, err := s.Store.Job(ctx, id)
	if err == nil && job.Owner != caller(ctx).Account {
		err = events.ErrNotFound
	}
	return job, err
}
