package api

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/auth"
)

type listInput struct {
	State  string    `query:"state" pattern:"^(queued|running|completed|failed|cancelled|damaged)(,(queued|running|completed|failed|cancelled|damaged)){0,5}$" patternDescription:"states such as queued,running" maxLength:"60" example:"queued,running" doc:"Only jobs in one of these states, separated by commas."`
	Model  string    `query:"model" maxLength:"200" example:"gpt2" doc:"Only jobs that were accepted for the model with this name."`
	Since  time.Time `query:"since" example:"2026-08-01T12:00:00Z" doc:"Only jobs that were accepted at this time and later (RFC 3339; in a URL, + is written %2B)."`
	Until  time.Time `query:"until" example:"2026-08-02T12:00:00Z" doc:"Only jobs that were accepted before this time (RFC 3339; in a URL, + is written %2B)."`
	Before uuid.UUID `query:"before" format:"uuid" doc:"Only jobs that were accepted before this one. The Link header of a page has the value for the next one."`
	Limit  int       `query:"limit" minimum:"1" maximum:"100" default:"50" doc:"The largest number of jobs in the answer."`
}

func (in *listInput) filter() events.JobFilter {
	f := events.JobFilter{Model: in.Model, Since: in.Since, Until: in.Until}
	if in.State != "" {
		for state := range strings.SplitSeq(in.State, ",") {
			f.States = append(f.States, events.State(state))
		}
	}
	return f
}

// query returns the parameters that select the jobs of all pages.
func (in *listInput) query() url.Values {
	query := url.Values{}
	for name, value := range map[string]string{"state": in.State, "model": in.Model} {
		if value != "" {
			query.Set(name, value)
		}
	}
	for name, at := range map[string]time.Time{"since": in.Since, "until": in.Until} {
		if !at.IsZero() {
			query.Set(name, at.Format(time.RFC3339Nano))
		}
	}
	return query
}

func (s *server) listing() {
	register(s, huma.Operation{
		OperationID: "list-jobs", Method: http.MethodGet, Path: "/jobs", Tags: []string{"jobs"},
		Summary: "List your jobs in any state, newest first",
		Description: "A job in the list has no params, watermark, group, template, version, links and reason. It has its text and its completion tokens only if it has ended, and its deadline only if it has not. GET /jobs/{id} has them all. " +
			"An erased job has erased_at and no texts. A damaged job has no texts either. " +
			"Jobs that are accepted while you read the pages do not move the other jobs. A job whose state changes meanwhile can be missing from a list of states, or be in it with its earlier state.",
		Security: keyed(auth.ScopeRead),
	}, s.listJobs)
}

func (s *server) listJobs(ctx context.Context, in *listInput) (*historyOutput, error) {
	records, err := s.Store.Jobs(ctx, caller(ctx).Account, in.filter(), in.Before, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &historyOutput{Link: olderLink("/jobs", in.query(), records, in.Limit), Body: make([]Job, len(records))}
	for i, r := range records {
		out.Body[i] = recordBody(r)
		if r.State == events.Queued || r.State == events.Running {
			out.Body[i].Deadline = optional(r.Deadline)
		}
	}
	return out, nil
}
