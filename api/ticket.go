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
		Ticket    string `json:"ticket" doc:"Good for opening the stream once."`
		ExpiresIn int    `json:"expires_in" doc:"Seconds within which to do that."`
		URL       string `json:"url" doc:"What to give to EventSource, relative to the service."`
	}
}

func (s *server) tickets() {
	register(s, huma.Operation{
		OperationID: "job-ticket", Method: http.MethodPost, Path: "/jobs/{id}/ticket", Tags: []string{"jobs"},
		Summary: "Get a ticket to follow a job without headers",
		Description: "For EventSource, which cannot send an access token: new EventSource(url) with the url of the answer. A ticket opens the events of this job, as text/event-stream, " +
			"once, within 30 seconds, at whichever replica; the stream then lasts as long as one that the access token had opened. " +
			"EventSource tries the same URL again after a cut, which the service answers with 401, and it gives up with an error event: " +
			"then get another ticket and open its url with &after= and the lastEventId of the last message. " +
			"A session has 32 unused tickets at most; another one takes the place of the oldest. " +
			"Presenting one counts under the anonymous limit of the address.",
		Security: private(),
		Errors:   []int{http.StatusNotFound},
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
	out.Body.Ticket, out.Body.ExpiresIn = ticket, int(auth.TicketFor.Seconds())
	out.Body.URL = path + "?" + url.Values{ticketParam: {ticket}}.Encode()
	return out, nil
}

// ticketParam is where a ticket is sent.
const ticketParam = "ticket"

// eventsPath is what a ticket for a job opens.
func eventsPath(job uuid.UUID) string { return jobPath(job) + "/events" }

// ticketOf returns the ticket that a request for an operation that takes
// tickets has, and the path that it has to be for.
func ticketOf(ctx huma.Context) (ticket, path string, ok bool) {
	// What asks for a head alone opens no stream.
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
