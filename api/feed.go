package api

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/auth"
)

// FeedEvent is an event of an account or of one of its jobs as the owner sees it. Index,
// stream, version, type and time are always present. The type decides which other members are
// present.
type FeedEvent struct {
	Index   int64  `json:"index" minimum:"0" doc:"The index of the event in the log of all events, from 0. It is the id of the SSE message. The events of others are between those of one account, so indexes have gaps."`
	Stream  string `json:"stream" example:"job/018f3c7e-5b1a-7c3e-8a41-2f6d9b0c1e55" doc:"job/ID for an event of the job with this id, account/ID for an event of your account."`
	Version int    `json:"version" minimum:"1" doc:"The position of the event in its stream, from 1."`
	Type    string `json:"type" example:"job.advanced" doc:"One of the types of EventBody, or one of AccountEvent."`
	Erased  bool   `json:"erased,omitempty" doc:"Whether the texts of the event are erased. The members of its type are then missing."`
	Damaged bool   `json:"damaged,omitempty" doc:"Whether the record of the event is damaged. The members of its type are then missing."`

	EventBody

	Policy   string     `json:"policy,omitempty" doc:"job.accepted, policy.refused: the version of the text policy that the prompt passed or broke. job.started: the version that applies to the text."`
	By       string     `json:"by,omitempty" doc:"job.cancelled, job.reassigned, and the types of an account as in AccountEvent."`
	Username string     `json:"username,omitempty" doc:"account.registered"`
	Session  *uuid.UUID `json:"session,omitempty" format:"uuid" doc:"The types of an account, as in AccountEvent."`
	Role     string     `json:"role,omitempty" doc:"account.role_changed"`
	Rule     string     `json:"rule,omitempty" doc:"policy.refused: the code of the rule."`

	AccountKey
	AccountWebhook
}

type feedInput struct {
	Accept      string `header:"Accept" maxLength:"8192" example:"text/event-stream" doc:"text/event-stream follows the feed. Anything else, and q=0, returns a page of it as JSON."`
	LastEventID int64  `header:"Last-Event-ID" minimum:"-1" maximum:"9007199254740991" default:"-1" doc:"Continue after this index, as EventSource does when it reconnects. An empty one counts as absent."`
	After       int64  `query:"after" minimum:"-1" maximum:"9007199254740991" default:"-1" doc:"Like Last-Event-ID, for clients that cannot set headers. Last-Event-ID takes precedence. -1 begins with the first event. A stream treats an index beyond the log as the last index, so the largest number follows new events only."`
	Ticket      string `query:"ticket" maxLength:"100" doc:"A ticket from POST /events/ticket, as at /jobs/{id}/events."`
	Limit       int    `query:"limit" minimum:"1" maximum:"256" default:"50" doc:"The largest number of events in a JSON answer. A stream has no limit."`
}

type feedOutput struct {
	ContentType string `header:"Content-Type"`
	Vary        string `header:"Vary" doc:"The request headers that the answer depends on."`
	Link        string `header:"Link" doc:"The next page as rel=next (RFC 8288), if this page is full."`
	Body        func(huma.Context)
}

func (s *server) feed() {
	event := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[FeedEvent](), true, "FeedEvent")
	register(s, huma.Operation{
		OperationID: "events", Method: http.MethodGet, Path: feedPath, Tags: []string{"history"},
		Summary: "Read or follow all your events",
		Description: "The events of your jobs and of your account, in the order of the log, which has all events of the service. " +
			"An event is in the log shortly after it happened, usually within 200 ms; the events of a single job arrive sooner at /jobs/{id}/events. " +
			"With Accept: text/event-stream, the answer is a stream of server-sent events. Each message is an event, with its index as id and its type as event. " +
			"The stream begins with a comment, and another one follows every ten seconds of silence. It does not end by itself. " +
			"If the service stops or the access token or API key expires, a retry field gives the milliseconds after which to resume, with a valid one. " +
			"At any replica, Last-Event-ID resumes without a gap and without a repeated event. " +
			"When the session ends, the API key is revoked, or the account is disabled or erased, the stream ends within seconds. " +
			"It counts as one of the open streams of the account: beyond their number the answer is 429 too_many_streams or 503 streams_full, with Retry-After. " +
			"The browser's EventSource sends no access token: get a ticket from /events/ticket. If a ticket opened the stream, the id has more than the index. " +
			"Without that media type, the answer is a JSON array of the next events.",
		Security: append(keyed(auth.ScopeRead), map[string][]string{ticketScheme: {}}),
		Metadata: waits(nil),
		Responses: map[string]*huma.Response{"200": {
			Description: "The events after the given index.",
			Headers: map[string]*huma.Param{
				"X-Accel-Buffering": {Description: "no, with a stream: proxies must not hold events back.", Schema: &huma.Schema{Type: huma.TypeString}},
				"Link":              {Description: "With JSON: the next page as rel=next (RFC 8288), if this page is full.", Schema: &huma.Schema{Type: huma.TypeString}},
			},
			Content: map[string]*huma.MediaType{
				"application/json":  {Schema: &huma.Schema{Type: huma.TypeArray, Items: event}},
				"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString, Description: "Messages with id, event and data. The data is a FeedEvent as JSON."}},
			},
		}},
	}, s.readFeed)
}

func (s *server) readFeed(ctx context.Context, in *feedInput) (*feedOutput, error) {
	owner := caller(ctx).Account
	after := in.After
	if in.LastEventID >= 0 {
		after = in.LastEventID // EventSource sends it with the URL that it began with
	}
	if accepts(in.Accept, "text/event-stream") {
		if requestOf(ctx).proof != "" {
			// The first message has no event. Its id is the index from which a client that is
			// cut off before the first event resumes.
			end, err := s.Store.LogEnd(ctx)
			if err != nil {
				return nil, err
			}
			after = min(after, end)
		}
		return feedAnswer(s.sse(ctx, owner, after, s.feedMessages(owner, after))), nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	found, err := s.Store.Feed(ctx, owner, after, in.Limit)
	if err != nil {
		return nil, err
	}
	list := make([]json.RawMessage, len(found))
	for i, e := range found {
		if list[i], err = feedBody(e); err != nil {
			return nil, err
		}
	}
	out := feedAnswer(s.array(ctx, list))
	if len(found) == in.Limit {
		out.Link = fmt.Sprintf("</events?after=%d&limit=%d>; rel=\"next\"", found[len(found)-1].Index, in.Limit)
	}
	return out, nil
}

func feedAnswer(o *eventsOutput) *feedOutput {
	return &feedOutput{ContentType: o.ContentType, Vary: o.Vary, Body: o.Body}
}

// feedMessages yields the events of an owner after an index as messages.
func (s *server) feedMessages(owner uuid.UUID, after int64) messages {
	return func(ctx context.Context) iter.Seq2[[]message, error] {
		return func(yield func([]message, error) bool) {
			for batch, err := range s.Store.FollowFeed(ctx, owner, after, s.timeouts.beat) {
				list := make([]message, len(batch))
				for i, e := range batch {
					var data json.RawMessage
					if data, err = feedBody(e); err != nil {
						break
					}
					list[i] = message{strconv.FormatInt(e.Index, 10), e.Type, data}
				}
				if !yield(list, err) || err != nil {
					return
				}
			}
		}
	}
}

// feedBody returns an event as the JSON that FeedEvent describes.
func feedBody(e events.Logged) (json.RawMessage, error) {
	head := struct {
		Index   int64         `json:"index"`
		Stream  events.Stream `json:"stream"`
		Version int           `json:"version"`
		Type    string        `json:"type"`
		At      time.Time     `json:"at"`
		Erased  bool          `json:"erased,omitempty"`
		Damaged bool          `json:"damaged,omitempty"`
	}{e.Index, e.Stream, e.Version, e.Type, e.At, e.Erased, e.Damaged}
	if e.Erased || e.Damaged {
		return json.Marshal(head)
	}
	return withMembers(head, e.Fact)
}
