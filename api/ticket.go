package api

import (
	"context"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"colophon/internal/auth"
)

// ticketScheme names the security scheme of tickets.
const ticketScheme = "ticket"

type ticketOutput struct {
	Body struct {
		Ticket    string `json:"ticket" doc:"Opens the stream once."`
		ExpiresIn int    `json:"expires_in" doc:"Seconds until the ticket expires."`
		URL       string `json:"url" doc:"The URL for EventSource, relative to the service."`
	}
}

func (s *server) tickets() {
	register(s, huma.Operation{
		OperationID: "job-ticket", Method: http.MethodPost, Path: "/jobs/{id}/ticket", Tags: []string{"jobs"},
		Summary: "Get a ticket to follow a job without headers",
		Description: "For EventSource, which cannot send an access token: call new EventSource(url) with the url of the answer. A ticket opens the events of this job as text/event-stream, " +
			"once, within 30 seconds, at any replica. The stream lasts as long as one that was opened with the access token. " +
			"When a stream breaks off, EventSource tries the same URL again, gets 401 and gives up with an error event. " +
			"Then get another ticket and open its url with &after= and the lastEventId of the last message. " +
			"A session has at most 32 unused tickets; a further one replaces the oldest. " +
			"A request with a ticket counts under the anonymous limit of its network.",
		Security: private(),
		Errors:   []int{http.StatusNotFound, http.StatusGone},
	}, s.ticket)
}

func (s *server) ticket(ctx context.Context, in *jobInput) (*ticketOutput, error) {
	job, err := s.own(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	path := eventsPath(job.ID)
	ticket, err := s.Auth.Ticket(ctx, caller(ctx), path)
	if err != nil {
		return nil, err
	}
	out := &ticketOutput{}
	out.Body.Ticket, out.Body.ExpiresIn = ticket, int(auth.TicketTTL.Seconds())
	out.Body.URL = path + "?" + url.Values{ticketParam: {ticket}}.Encode()
	return out, nil
}

// ticketParam is the query parameter that has the ticket.
const ticketParam = "ticket"

// eventsPath returns the path of a job's events. A ticket for the job opens this path.
func eventsPath(job uuid.UUID) string { return jobPath(job) + "/events" }

// ticketOf returns the ticket of a request, and the path that the ticket must be for. It
// reports false if the request has no ticket, or if the operation accepts no tickets.
func ticketOf(ctx huma.Context) (ticket, path string, ok bool) {
	// A HEAD request opens no stream, so it must not use up a ticket.
	if ticket = ctx.Query(ticketParam); ticket == "" || ctx.Method() == http.MethodHead || !accepts(ctx.Header("Accept"), "text/event-stream") {
		return "", "", false
	}
	for _, scheme := range ctx.Operation().Security {
		if _, ok = scheme[ticketScheme]; ok {
			job, err := uuid.Parse(ctx.Param("id"))
			return ticket, eventsPath(job), err == nil
		}
	}
	return "", "", false
}
