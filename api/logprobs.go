package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/auth"
	"colophon/jobs"
)

type logprobsInput struct {
	Idempotent
	ID   uuid.UUID `path:"id" format:"uuid" doc:"The id of the job that has the text."`
	Body struct {
		Logprobs int `json:"logprobs" minimum:"0" maximum:"20" doc:"The number of likeliest tokens at each position whose log probabilities the new job has, beside those of the text's own tokens."`
	}
}

type logprobsOutput struct {
	Location   string `header:"Location" doc:"The path of the new job."`
	RetryAfter string `header:"Retry-After" doc:"Seconds after which to poll the new job, unless it has ended."`
	Body       Job
}

func (s *server) logprobs() {
	register(s, huma.Operation{
		OperationID: "job-logprobs", Method: http.MethodPost, Path: "/jobs/{id}/logprobs", Tags: []string{"jobs"},
		DefaultStatus: http.StatusAccepted,
		Summary:       "Compute the log probabilities of a past text",
		Description: "Submits a new job, which computes the text of a completed job again, all of its tokens at once, and records the log probabilities that the first job would have recorded, bit for bit. " +
			"The new job has logprobs_of, and ends with the same text. It is in lists and in the history like any other job, and is erased on its own. " +
			"It needs the weights and the arithmetic that generated the text, and waits for a worker that has them. " + admission,
		Security: keyed(auth.ScopeGenerate),
		Metadata: limited("jobs"),
		Errors:   []int{http.StatusNotFound, http.StatusConflict, http.StatusGone},
	}, s.submitLogprobs)
}

func (s *server) submitLogprobs(ctx context.Context, in *logprobsInput) (*logprobsOutput, error) {
	of, err := s.own(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(in.Body)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	key, err := in.key(caller(ctx).Account.String()+" POST "+jobPath(of.ID)+"/logprobs", payload)
	if err != nil {
		return nil, err
	}
	// The call goes on even if the client disconnects, so that the service knows whether the
	// job exists.
	undisturbed, cancel := context.WithTimeout(context.WithoutCancel(ctx), acceptTimeout)
	defer cancel()
	// A repeated request gets its job, also after the erasure of the first text. That job has a copy
	// of the text, and a client that lost the answer needs the id to erase the copy.
	group, repeated, err := s.Queue.Repeated(undisturbed, key)
	if !repeated {
		if !of.ErasedAt.IsZero() {
			return nil, newProblem(http.StatusGone, "job_erased", "the job was erased")
		}
		group = make([]events.Job, 1)
		group[0], err = s.Queue.SubmitLogprobs(undisturbed, of, in.Body.Logprobs, byAPIKey(ctx, jobs.Request{Key: key}))
	}
	if err != nil {
		return nil, err
	}
	job := group[0]
	out := &logprobsOutput{Location: jobPath(job.ID), Body: s.jobBody(job)}
	if !job.State.Final() {
		out.RetryAfter = seconds(s.Queue.PollAfter(job))
	}
	hideTexts(ctx, &out.Body)
	return out, nil
}

// mayRead reports whether the caller may read texts. An API key that only generates may not.
func mayRead(ctx context.Context) bool {
	key := caller(ctx).Key
	return key == nil || key.Allows(auth.ScopeRead)
}

// hideTexts removes the texts of a job if the caller may not read them.
func hideTexts(ctx context.Context, body *Job) {
	if !mayRead(ctx) {
		body.Prompt, body.GeneratedText, body.Completion, body.Params, body.Logprobs = "", "", "", nil, nil
	}
}
