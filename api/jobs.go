package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/auth"
	"colophon/jobs"
)

// generateBody is the request that /generate and /jobs share. What may be zero
// is a pointer: Huma's defaults cannot tell zero from missing otherwise.
type generateBody struct {
	Prompt       string   `json:"prompt" minLength:"1" maxLength:"500" example:"The nature of light" doc:"The text to continue. The characters that the text policy removes, <>{}; unless the service has another, are taken out; a prompt with a word that it refuses is not accepted."`
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
	Idempotent
	Prefer      string `header:"Prefer" maxLength:"100" example:"wait=10" doc:"RFC 7240: wait=N waits up to N seconds for the text, 60 at most; respond-async does not wait, and with wait=N answers 202 after that. A client that leaves while it waits ends its job, unless it has said respond-async or sent an Idempotency-Key."`
	CancelAfter int    `header:"Cancel-After" minimum:"1" maximum:"86400" doc:"Seconds after which the job is cancelled if it has not ended, whether it runs or not; the service has a limit of its own, which holds if it is less or nothing is sent. The job's deadline says which."`
	Body        generateBody
}

// key returns the request's key. What counts as the payload is what is asked
// for, and not how it is written.
func (in *submitInput) key(ctx context.Context, path string) (*events.IdempotencyKey, error) {
	if len(in.sent) == 0 {
		return nil, nil
	}
	payload, err := json.Marshal(struct {
		CancelAfter int
		Body        generateBody
	}{in.CancelAfter, in.Body})
	if err != nil {
		return nil, fmt.Errorf("write down the request: %w", err)
	}
	return in.Idempotent.key(caller(ctx).Account.String()+" POST "+path, payload)
}

type jobInput struct {
	ID uuid.UUID `path:"id" format:"uuid" doc:"The job's id."`
}

type lookInput struct {
	ID          uuid.UUID `path:"id" format:"uuid" doc:"The job's id."`
	IfNoneMatch string    `header:"If-None-Match" maxLength:"1000" doc:"Entity tags of answers that the client has: if nothing has changed since, the answer is 304."`
}

type jobOutput struct {
	Status            int
	Location          string `header:"Location" doc:"Of a job that has not ended: where to look for it."`
	PreferenceApplied string `header:"Preference-Applied" doc:"The preferences that were followed, if any were sent."`
	RetryAfter        string `header:"Retry-After" doc:"Of a job that has not ended: seconds after which to look again."`
	Vary              string `header:"Vary" doc:"The headers that the answer depends on."`
	Body              Job
}

type cancelOutput struct {
	Body Job
}

type lookOutput struct {
	Status       int
	RetryAfter   string `header:"Retry-After" doc:"Of a job that has not ended: seconds after which to look again."`
	ETag         string `header:"ETag" doc:"Changes when anything in the answer does."`
	CacheControl string `header:"Cache-Control" doc:"A client may keep the answer for itself, and has to ask each time whether it still holds."`
	Vary         string `header:"Vary" doc:"The headers that the answer depends on."`
	Body         Job
}

// admission says, for both calls, what a job has to find room in.
const admission = "A user may have so many jobs outstanding, the service so many queued, and where there is a token budget, " +
	"the tokens of the prompt and the most that may follow are reserved of the user's day (UTC) until the job has ended; " +
	"then usage.total_tokens counts, or nothing if the job never started. Above that the answer is 429 too_many_jobs or token_budget_spent, " +
	"or 503 queue_full, with Retry-After, and nothing is on record. Jobs of users with fewer jobs outstanding go first."

func (s *server) jobs() {
	job := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Job](), true, "Job")
	header := func(doc string) *huma.Param {
		return &huma.Header{Description: doc, Schema: &huma.Schema{Type: huma.TypeString}}
	}
	applied, vary := header("The preferences that were followed, if any were sent."), header("The headers that the answer depends on.")
	// Both calls give either answer, and Huma documents only the default one.
	either := func() map[string]*huma.Response {
		content := map[string]*huma.MediaType{"application/json": {Schema: job}}
		return map[string]*huma.Response{
			"200": {Description: "The job has ended, with its text.", Content: content, Headers: map[string]*huma.Param{
				"Preference-Applied": applied, "Vary": vary,
			}},
			"202": {Description: "The job is on record and goes on; Location is where to look for it.", Content: content, Headers: map[string]*huma.Param{
				"Location":           header("Where to look for the job."),
				"Retry-After":        header("Seconds after which to look."),
				"Preference-Applied": applied, "Vary": vary,
			}},
		}
	}
	register(s, huma.Operation{
		OperationID: "generate", Method: http.MethodPost, Path: "/generate", Tags: []string{"jobs"},
		Summary: "Generate a text and wait for it",
		Description: "Waits 30 seconds, or as Prefer says, and answers 200 with the text. If it is not there by then, the answer is 202 and the job goes on. " +
			"A client that leaves before the answer ends its job, unless it has sent an Idempotency-Key, with which it can come back for it. " + admission,
		Security:  private(),
		Metadata:  limited("generate"),
		Responses: either(),
		Errors:    []int{http.StatusConflict},
	}, func(ctx context.Context, in *submitInput) (*jobOutput, error) {
		return s.submit(ctx, in, "/generate", defaultWait)
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
		return s.submit(ctx, in, "/jobs", 0)
	})
	register(s, huma.Operation{
		OperationID: "get-job", Method: http.MethodGet, Path: "/jobs/{id}", Tags: []string{"jobs"},
		Summary:     "Look at a job",
		Description: "Retry-After says when it is worth looking again. With the ETag of the last answer as If-None-Match, an answer that would be the same is an empty 304.",
		Security:    private(),
		Responses:   map[string]*huma.Response{"304": {Description: "Nothing has changed."}},
		Errors:      []int{http.StatusNotFound},
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

// acceptTimeout is how long a job may take to get on record.
const acceptTimeout = 15 * time.Second

func (s *server) submit(ctx context.Context, in *submitInput, path string, wait time.Duration) (*jobOutput, error) {
	asked := prefer(in.Prefer, wait)
	request := in.Body.request()
	request.CancelAfter = time.Duration(in.CancelAfter) * time.Second
	var err error
	if request.Key, err = in.key(ctx, path); err != nil {
		return nil, err
	}
	job, err := s.enqueue(ctx, request)
	if err != nil {
		return nil, err
	}
	status := http.StatusAccepted
	if asked.wait > 0 {
		if job, err = s.await(ctx, job, asked.wait); err != nil {
			return nil, err
		}
		if s.left(ctx) && !asked.async && request.Key == nil {
			job = s.abandon(ctx, job)
		}
		switch job.State {
		case events.Completed:
			status = http.StatusOK
		case events.Failed:
			return nil, newProblem(http.StatusInternalServerError, "job_failed", fmt.Sprintf("job %s failed: %s", job.ID, job.Reason))
		case events.Cancelled:
			return nil, newProblem(http.StatusConflict, "job_cancelled", cancelledDetail(job))
		}
	}
	out := &jobOutput{Status: status, PreferenceApplied: asked.applied(status), Vary: "Prefer", Body: jobBody(job)}
	if status == http.StatusAccepted {
		out.Location = jobPath(job.ID)
	}
	if !job.State.Final() {
		look, err := s.Queue.Look(ctx, job)
		s.unknown(ctx, err)
		out.RetryAfter = seconds(look)
	}
	return out, nil
}

func cancelledDetail(job events.Job) string {
	detail := fmt.Sprintf("job %s was cancelled before it had ended", job.ID)
	if job.Reason != "" {
		detail += ": " + job.Reason
	}
	return detail
}

// enqueue puts a job on record. A client that leaves meanwhile does not disturb
// that: whether there is a job is then certain.
func (s *server) enqueue(ctx context.Context, r jobs.Request) (events.Job, error) {
	undisturbed, cancel := context.WithTimeout(context.WithoutCancel(ctx), acceptTimeout)
	defer cancel()
	return s.Queue.Submit(undisturbed, caller(ctx).Account, r)
}

// abandon ends a job that nobody waits for any longer, and returns it as it then is.
func (s *server) abandon(ctx context.Context, job events.Job) events.Job {
	undisturbed, cancel := context.WithTimeout(context.WithoutCancel(ctx), acceptTimeout)
	defer cancel()
	ended, err := s.Queue.Cancel(undisturbed, job, events.JobCancelled{By: "owner", Reason: "the client has left"})
	if err != nil {
		s.Log.WarnContext(ctx, "could not cancel a job whose client has left; it goes on", "request", requestID(ctx), "err", err)
		return job
	}
	return ended
}

// await follows a job until it has ended or the wait is over, and returns it as
// it then is, as far as that is known: the job is on record, whatever happens
// here. Only a session that has ended is an error.
func (s *server) await(ctx context.Context, job events.Job, wait time.Duration) (events.Job, error) {
	if job.State.Final() {
		return job, nil
	}
	waiting, stop := s.waiting(ctx)
	defer stop()
	waiting, cancel := context.WithTimeout(waiting, wait)
	defer cancel()
	for batch, err := range s.Store.Follow(waiting, events.JobStream(job.ID), job.Version, beat) {
		for _, e := range batch {
			if err == nil {
				job, err = job.Apply(e)
			}
		}
		if err != nil && waiting.Err() == nil {
			s.Log.WarnContext(ctx, "could not follow a job for who waits for it; it goes on", "request", requestID(ctx), "err", err)
		}
		if err != nil || job.State.Final() {
			break // the wait is over one way or another
		}
	}
	if cause := context.Cause(waiting); errors.Is(cause, auth.ErrAccessToken) {
		return job, cause
	}
	return job, nil
}

// unknown notes that the future of a job could not be told: its client gets the
// job without.
func (s *server) unknown(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		s.Log.WarnContext(ctx, "could not tell how long a job will take", "request", requestID(ctx), "err", err)
	}
}

func (s *server) job(ctx context.Context, in *lookInput) (*lookOutput, error) {
	job, err := s.own(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out := &lookOutput{Status: http.StatusOK, CacheControl: "private, no-cache", Vary: "Authorization", Body: jobBody(job)}
	if !job.State.Final() {
		outlook, err := s.Queue.Outlook(ctx, job)
		s.unknown(ctx, err)
		out.Body.QueuePosition, out.Body.EstimatedStartAt = outlook.Place, optional(outlook.Start)
		out.RetryAfter = seconds(outlook.Look)
	}
	if out.ETag, err = etagOf(out.Body); err != nil {
		return nil, err
	}
	if matches(in.IfNoneMatch, out.ETag) {
		out.Status = http.StatusNotModified
	}
	return out, nil
}

func (s *server) cancel(ctx context.Context, in *jobInput) (*cancelOutput, error) {
	job, err := s.own(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if job, err = s.Queue.Cancel(ctx, job, events.JobCancelled{By: "owner"}); err != nil {
		return nil, err
	}
	return &cancelOutput{Body: jobBody(job)}, nil
}

// own returns the caller's job. A job that is somebody else's is not found, nor
// one that was the caller's before he was erased.
func (s *server) own(ctx context.Context, id uuid.UUID) (events.Job, error) {
	job, err := s.Store.Job(ctx, id)
	if err == nil && (job.Owner != caller(ctx).Account || job.Erased) {
		err = events.ErrNotFound
	}
	return job, err
}
