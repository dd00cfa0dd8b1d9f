package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"colophon/internal/auth"
)

// ticketScheme names the security scheme of tickets.
const ticketScheme = "ticket"

type ticketOutput struct {
	Body struct {
		Ticket    string `json:"ticket" doc:"Opens the stream once, and again for clients that have read it."`
		ExpiresIn int    `json:"expires_in" doc:"Seconds until the ticket expires if it is not used."`
		URL       string `json:"url" doc:"The URL for EventSource, relative to the service."`
	}
}

// resumes says how a ticket's stream survives a cut. It is a part of two descriptions.
const resumes = "The stream lasts until the session or the API key ends, for an hour at most, and survives cuts: EventSource sends the id of the last message " +
	"as Last-Event-ID, and any replica continues after it. These ids are the number of the event, a full stop, and a proof that the client has read the stream. " +
	"Without the proof, a redeemed ticket is refused with 401, so its URL alone is worth nothing to readers of logs. " +
	"EventSource gives up with an error event when the answer is not 200. This happens when the hour or the session is over, when a limit is exceeded, " +
	"when the service is unavailable, and when a connection breaks before its first bytes arrive. Then get another ticket"

func (s *server) tickets() {
	register(s, huma.Operation{
		OperationID: "job-ticket", Method: http.MethodPost, Path: "/jobs/{id}/ticket", Tags: []string{"jobs"},
		Summary: "Get a ticket to follow a job without headers",
		Description: "For EventSource, which cannot send an access token: call new EventSource(url) with the url of the answer. A ticket opens the events of this job as text/event-stream, " +
			"once, within 30 seconds, at any replica. " + resumes + " and open its url with &after= and the version of the last event. " +
			"Once the job has ended and the client has its last event, the answer is 204, and EventSource stops. " +
			"A session or an API key has at most 32 unused tickets; a further one replaces the oldest. " +
			"A request with a ticket counts under the anonymous limit of its network.",
		Security: keyed(auth.ScopeRead),
		Errors:   []int{http.StatusNotFound, http.StatusGone},
	}, func(ctx context.Context, in *jobInput) (*ticketOutput, error) {
		job, err := s.own(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		return s.ticket(ctx, eventsPath(job.ID))
	})
	register(s, huma.Operation{
		OperationID: "events-ticket", Method: http.MethodPost, Path: "/events/ticket", Tags: []string{"history"},
		Summary: "Get a ticket to follow all your events without headers",
		Description: "For EventSource, as at /jobs/{id}/ticket: the ticket opens GET /events as text/event-stream, once, within 30 seconds, at any replica. " +
			resumes + " and open its url with &after= and the index of the last event.",
		Security: keyed(auth.ScopeRead),
	}, func(ctx context.Context, _ *struct{}) (*ticketOutput, error) { return s.ticket(ctx, feedPath) })
}

// ticket returns a ticket for the caller that opens a path.
func (s *server) ticket(ctx context.Context, path string) (*ticketOutput, error) {
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

// feedPath is the path of the feed, which a ticket can open.
const feedPath = "/events"

// eventsPath returns the path of a job's events. A ticket for the job opens this path.
func eventsPath(job uuid.UUID) string { return jobPath(job) + "/events" }

// ticketOf returns the ticket of a request, and the path that the ticket must be for. It
// reports false if the request has no ticket, or if the operation accepts no tickets.
func ticketOf(ctx huma.Context) (ticket, path string, ok bool) {
	// A HEAD request opens no stream, so it must not use up a ticket.
	if ticket = ctx.Query(ticketParam); ticket == "" || ctx.Method() == http.MethodHead || !accepts(ctx.Header("Accept"), "text/event-stream") {
		return "", "", false
	}
	if !slices.ContainsFunc(ctx.Operation().Security, func(scheme map[string][]string) bool { return scheme[ticketScheme] != nil }) {
		return "", "", false
	}
	if ctx.Operation().Path == feedPath {
		return ticket, feedPath, true
	}
	job, err := uuid.Parse(ctx.Param("id"))
	return ticket, eventsPath(job), err == nil
}

// redeem returns the identity of a ticket that is redeemed, or reopened if Last-Event-ID has a
// proof. It notes the proof, which sse adds to the ids of messages. In the context that redeem
// returns, Last-Event-ID has no proof.
func (s *server) redeem(ctx huma.Context, ticket, path string) (huma.Context, auth.Identity, error) {
	about := requestOf(ctx.Context())
	var id auth.Identity
	var err error
	last, proof, reopens := strings.Cut(ctx.Header(lastEventID), proofMark)
	if !reopens {
		id, about.proof, err = s.Auth.Redeem(ctx.Context(), ticket, path)
		return ctx, id, err
	}
	if id, err = s.Auth.Reopen(ctx.Context(), ticket, proof, path); err == nil {
		about.proof = proof
	}
	return after{ctx, last}, id, err
}

const (
	lastEventID = "Last-Event-ID"

	// proofMark separates the number of an event from the proof in an id.
	proofMark = "."
)

// after is the context of a request with another Last-Event-ID than the client's.
type after struct {
	humaContext
	id string
}

// humaContext has a name of its own, because a field Context would hide the method Context.
type humaContext = huma.Context

func (a after) Unwrap() huma.Context { return a.humaContext }

func (a after) Header(name string) string {
	if strings.EqualFold(name, lastEventID) {
		return a.id
	}
	return a.humaContext.Header(name)
}

func (a after) EachHeader(yield func(name, value string)) {
	a.humaContext.EachHeader(func(name, value string) {
		if strings.EqualFold(name, lastEventID) {
			value = a.id
		}
		yield(name, value)
	})
}
