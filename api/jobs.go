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

type submitInput struct {
	Idempotent
	Prefer      string `header:"Prefer" maxLength:"8192" example:"wait=10" doc:"RFC 7240. Unknown preferences are ignored. wait=N waits up to N seconds for the text, at most 60. respond-async does not wait; together with wait=N it answers 202 after the wait. A client that disconnects while it waits cancels its job, unless it sent respond-async or an Idempotency-Key."`
	CancelAfter int    `header:"Cancel-After" minimum:"1" maximum:"86400" doc:"Seconds after which the job is cancelled unless it has ended, also while it is queued. The service's own limit applies if it is shorter or if the header is missing. The job's member deadline has the resulting time."`
	Body        generateBody
}

// key returns the request's idempotency key, or nil if the request has none. The key's
// payload is the decoded request, so that the spelling of the JSON does not matter.
func (in *submitInput) key(ctx context.Context, path string) (*events.IdempotencyKey, error) {
	if len(in.sent) == 0 {
		return nil, nil
	}
	body := in.Body
	if body.MaxLength == 0 && body.MaxNewTokens == 0 {
		body.MaxLength = 50 // An idempotency key is valid for a day. The payloads of keys from version 0.1.0 contain this default.
	}
	payload, err := json.Marshal(struct {
		CancelAfter int
		Body        generateBody
	}{in.CancelAfter, body})
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	return in.Idempotent.key(caller(ctx).Account.String()+" POST "+path, payload)
}

type jobInput struct {
	ID uuid.UUID `path:"id" format:"uuid" doc:"The job's id."`
}

type getJobInput struct {
	ID          uuid.UUID `path:"id" format:"uuid" doc:"The job's id."`
	At          string    `query:"at" maxLength:"35" pattern:"^([0-9]{1,9}|[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3])(:[0-5][0-9]){2}(\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]))$" patternDescription:"a version such as 3, or an RFC 3339 time such as 2026-08-01T12:00:00Z (in a URL, + is %2B)" example:"3" doc:"Answer with the job as it was at this version, a number from 1, or at this time (RFC 3339; in a URL, + is written %2B). A time more than a second ahead of the service's clock is refused."`
	IfNoneMatch string    `header:"If-None-Match" maxLength:"8192" doc:"Entity tags of answers that the client has. If one still holds, the answer is 304."`
}

type jobOutput struct {
	Status            int
	Location          string `header:"Location" doc:"The path of the job, unless it has ended."`
	PreferenceApplied string `header:"Preference-Applied" doc:"The preferences of the request that were followed."`
	RetryAfter        string `header:"Retry-After" doc:"Seconds after which to poll again, unless the job has ended."`
	Vary              string `header:"Vary" doc:"The request headers that the answer depends on."`
	Body              Job
}

type cancelOutput struct {
	Body Job
}

type getJobOutput struct {
	Status       int
	RetryAfter   string `header:"Retry-After" doc:"Seconds after which to poll again, unless the job has ended."`
	ETag         string `header:"ETag" doc:"Changes when the answer does."`
	CacheControl string `header:"Cache-Control" doc:"The client may keep the answer, and has to revalidate it at each use."`
	Vary         string `header:"Vary" doc:"The request headers that the answer depends on."`
	Body         Job
}

// admission is the part of the descriptions of POST /generate and POST /jobs that names
// the limits of a new job.
const admission = "The number of outstanding jobs of a user and the number of queued jobs are limited. If there is a token budget, " +
	"the tokens of the prompt and of the longest continuation are reserved from the user's budget of the day (UTC) until the job ends, and in the same way from that of the API key; " +
	"then usage.total_tokens counts, or nothing if the job never started. Beyond these limits the answer is 429 too_many_jobs or token_budget_spent, " +
	"or 503 queue_full, with Retry-After, and no job is created. Jobs of users with fewer outstanding jobs go first."

func (s *server) jobs() {
	job := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Job](), true, "Job")
	header := func(doc string) *huma.Param {
		return &huma.Header{Description: doc, Schema: &huma.Schema{Type: huma.TypeString}}
	}
	applied, vary := header("The preferences of the request that were followed."), header("The request headers that the answer depends on.")
	// Both operations may answer with 200 or with 202. Huma would document only the
	// default status.
	either := func() map[string]*huma.Response {
		content := map[string]*huma.MediaType{"application/json": {Schema: job}}
		return map[string]*huma.Response{
			"200": {Description: "The job has completed, and the answer has its text.", Content: content, Headers: map[string]*huma.Param{
				"Preference-Applied": applied, "Vary": vary,
			}},
			"202": {Description: "The job is on record and goes on. Location is its path.", Content: content, Headers: map[string]*huma.Param{
				"Location":           header("The path of the job."),
				"Retry-After":        header("Seconds after which to poll the job."),
				"Preference-Applied": applied, "Vary": vary,
			}},
		}
	}
	register(s, huma.Operation{
		OperationID: "generate", Method: http.MethodPost, Path: "/generate", Tags: []string{"jobs"},
		Summary: "Generate a text and wait for it",
		Description: "Waits 30 seconds, or as long as Prefer says, and answers 200 with the text. If the job has not ended by then, the answer is 202 and the job goes on. " +
			"A client that disconnects before the answer cancels its job, unless it sent an Idempotency-Key: with the same key it can come back for the text. " + admission,
		Security:  keyed(auth.ScopeGenerate),
		Metadata:  waits(limited("generate")),
		Responses: either(),
		Errors:    []int{http.StatusConflict, http.StatusGone},
	}, func(ctx context.Context, in *submitInput) (*jobOutput, error) {
		return s.submit(ctx, in, "/generate", defaultWait)
	})
	register(s, huma.Operation{
		OperationID: "submit-job", Method: http.MethodPost, Path: "/jobs", Tags: []string{"jobs"},
		DefaultStatus: http.StatusAccepted,
		Summary:       "Submit a job",
		Description:   "Answers 202 as soon as the job is on record. With Prefer: wait=N, the call waits for the text. " + admission,
		Security:      keyed(auth.ScopeGenerate),
		Metadata:      waits(limited("jobs")),
		Responses:     either(),
		Errors:        []int{http.StatusConflict, http.StatusGone},
	}, func(ctx context.Context, in *submitInput) (*jobOutput, error) {
		return s.submit(ctx, in, "/jobs", 0)
	})
	register(s, huma.Operation{
		OperationID: "get-job", Method: http.MethodGet, Path: "/jobs/{id}", Tags: []string{"jobs"},
		Summary: "Get a job",
		Description: "Retry-After says when to poll again. With the ETag of the last answer as If-None-Match, an unchanged job is answered with an empty 304. " +
			"With the parameter at, the answer is that of an earlier version or time, without Retry-After, queue_position, estimated_start_at and waiting_for_model, which are not on record. " +
			"The answer for a version stays the same until the job is erased. Then it has no texts for any version, and counts no tokens before the end. " + settled,
		Security:  keyed(auth.ScopeRead),
		Responses: map[string]*huma.Response{"304": {Description: "Nothing has changed."}},
		Errors:    []int{http.StatusNotFound, http.StatusGone},
	}, s.job)
	register(s, huma.Operation{
		OperationID: "cancel-job", Method: http.MethodPost, Path: "/jobs/{id}/cancel", Tags: []string{"jobs"},
		Summary:     "Cancel a job",
		Description: "Cancels the job unless it has ended, and answers with the job. If the job has a group, the other jobs of the group are cancelled too. Cancelling again changes nothing.",
		Security:    keyed(auth.ScopeGenerate),
		Errors:      []int{http.StatusNotFound, http.StatusGone},
	}, s.cancel)
	register(s, huma.Operation{
		OperationID: "erase-job", Method: http.MethodDelete, Path: "/jobs/{id}", Tags: []string{"jobs"},
		DefaultStatus: http.StatusNoContent,
		Summary:       "Erase the prompt and the text of a job",
		Description: "Erases the job's prompt, text, tokens and params for ever, and cancels the job if it has not ended. " +
			"The rest of the record stays: state, times, counts, and the hashes that receipts prove, so that receipts issued before remain valid. " +
			"The job then has erased_at. Erasing again changes nothing. Backups of the database keep the values until they are deleted.",
		Security: keyed(auth.ScopeGenerate),
		Errors:   []int{http.StatusNotFound, http.StatusGone},
	}, s.eraseJob)
	s.logprobs()
	s.stream()
}

// acceptTimeout bounds the time to put a job on record, and the time to cancel the job of
// a client that has disconnected.
const acceptTimeout = 15 * time.Second

func (s *server) submit(ctx context.Context, in *submitInput, path string, wait time.Duration) (*jobOutput, error) {
	preferred := prefer(in.Prefer, wait)
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
	if preferred.wait > 0 {
		if job, err = s.await(ctx, job, preferred.wait); err != nil {
			return nil, err
		}
		if s.left(ctx) && !preferred.async && request.Key == nil {
			job = s.abandon(ctx, job, clientLeft)
		}
		if p := unsuccessful(job); p != nil {
			return nil, p
		}
		if job.State == events.Completed {
			status = http.StatusOK
		}
	}
	out := &jobOutput{Status: status, PreferenceApplied: preferred.applied(status), Vary: "Prefer", Body: s.jobBody(job)}
	if status == http.StatusAccepted {
		out.Location = jobPath(job.ID)
	}
	if !job.State.Final() {
		out.RetryAfter = seconds(s.Queue.PollAfter(job))
	}
	return out, nil
}

// unsuccessful returns the problem of a job that was erased, failed or cancelled, and
// otherwise nil.
func unsuccessful(job events.Job) *Problem {
	switch {
	case !job.ErasedAt.IsZero():
		return newProblem(http.StatusGone, "job_erased", fmt.Sprintf("job %s was erased", job.ID))
	case job.State == events.Failed:
		return newProblem(http.StatusInternalServerError, "job_failed", fmt.Sprintf("job %s failed: %s", job.ID, job.Reason))
	case job.State == events.Cancelled:
		return newProblem(http.StatusConflict, "job_cancelled", cancelledDetail(job))
	}
	return nil
}

func cancelledDetail(job events.Job) string {
	detail := fmt.Sprintf("job %s was cancelled before it had ended", job.ID)
	if job.Reason != "" {
		detail += ": " + job.Reason
	}
	return detail
}

// enqueue puts a job on record. The call goes on even if the client disconnects, so that
// the service knows whether the job exists.
func (s *server) enqueue(ctx context.Context, r jobs.Request) (events.Job, error) {
	undisturbed, cancel := context.WithTimeout(context.WithoutCancel(ctx), acceptTimeout)
	defer cancel()
	return s.Queue.Submit(undisturbed, caller(ctx).Account, byAPIKey(ctx, r))
}

// byAPIKey returns the request with the caller's API key, if there is one.
func byAPIKey(ctx context.Context, r jobs.Request) jobs.Request {
	if key := caller(ctx).Key; key != nil {
		r.APIKey, r.APIKeyTokens = key.ID, key.Tokens
	}
	return r
}

// clientLeft is the reason on record of a job whose client has disconnected.
const clientLeft = "the client has left"

// abandon cancels a job that nobody waits for any more, and returns the ended job. If the job
// cannot be cancelled, abandon logs the error and returns the job unchanged.
func (s *server) abandon(ctx context.Context, job events.Job, reason string) events.Job {
	undisturbed, cancel := context.WithTimeout(context.WithoutCancel(ctx), acceptTimeout)
	defer cancel()
	ended, err := s.Queue.Cancel(undisturbed, job, events.JobCancelled{By: "owner", Reason: reason})
	if err != nil {
		s.Log.WarnContext(ctx, "job of a client that has left not cancelled, it goes on", "request", requestID(ctx), "err", err)
		return job
	}
	return ended
}

// await follows a job until the job has ended or the wait is over, and returns the last
// known state of the job. It returns auth.ErrAccessToken or auth.ErrAPIKey if the caller's
// session or API key has ended,
// and events.ErrDamaged if the job is damaged. Other errors are logged and end the wait,
// because the job is on record and goes on.
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
		if errors.Is(err, events.ErrDamaged) {
			return job, err
		}
		if err != nil && waiting.Err() == nil {
			s.Log.WarnContext(ctx, "waiting for a job interrupted, the job goes on", "request", requestID(ctx), "err", err)
		}
		if err != nil || job.State.Final() {
			break // the job has ended, or the wait has ended or failed
		}
	}
	if cause := context.Cause(waiting); unauthenticated(cause) {
		return job, cause
	}
	return job, nil
}

// unestimated logs the error if the estimate of a job failed. The client then gets the
// job without an estimate.
func (s *server) unestimated(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		s.Log.WarnContext(ctx, "job not estimated", "request", requestID(ctx), "err", err)
	}
}

func (s *server) job(ctx context.Context, in *getJobInput) (*getJobOutput, error) {
	if in.At != "" {
		return s.pastJob(ctx, in)
	}
	job, err := s.own(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	body, retryAfter := s.jobBody(job), ""
	if !job.State.Final() {
		outlook, err := s.Queue.Outlook(ctx, job)
		s.unestimated(ctx, err)
		body.QueuePosition, body.EstimatedStartAt = outlook.Position, optional(outlook.Start)
		body.WaitingForModel = s.Queue.WaitsForModel(job)
		retryAfter = seconds(outlook.PollAfter)
	}
	return jobAnswer(body, retryAfter, in.IfNoneMatch)
}

// jobAnswer returns the answer to a request for a job. The client may keep it, but has to ask
// again at each use.
func jobAnswer(body Job, retryAfter, ifNoneMatch string) (*getJobOutput, error) {
	etag, status, err := conditional(body, ifNoneMatch)
	return &getJobOutput{Status: status, RetryAfter: retryAfter, ETag: etag, CacheControl: "private, no-cache", Vary: "Authorization", Body: body}, err
}

func (s *server) cancel(ctx context.Context, in *jobInput) (*cancelOutput, error) {
	job, err := s.own(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if job, err = s.Queue.CancelGroup(ctx, job, events.JobCancelled{By: "owner"}); err != nil {
		return nil, err
	}
	body := s.jobBody(job)
	hideTexts(ctx, &body)
	return &cancelOutput{Body: body}, nil
}

func (s *server) eraseJob(ctx context.Context, in *jobInput) (*struct{}, error) {
	job, err := s.own(ctx, in.ID)
	if err == nil {
		_, err = s.Queue.EraseJob(ctx, job)
	}
	return nil, err
}

// own returns a job of the caller. Its errors are those of owned.
func (s *server) own(ctx context.Context, id uuid.UUID) (events.Job, error) {
	job, err := s.Store.Job(ctx, id)
	return job, owned(ctx, job, err)
}

// owned returns the error of reading a job, or events.ErrNotFound if the job belongs to
// another account or to an erased one. It returns events.ErrDamaged only for a job of the
// caller.
func owned(ctx context.Context, job events.Job, err error) error {
	if d, ok := errors.AsType[*events.Damage](err); ok && d.Owner != caller(ctx).Account {
		return events.ErrNotFound
	}
	if err == nil && (job.Owner != caller(ctx).Account || job.Erased && job.ErasedAt.IsZero()) {
		return events.ErrNotFound
	}
	return err
}
