package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/auth"
)

// ndjsonType is the media type of an export: one JSON object a line.
const ndjsonType = "application/x-ndjson"

// auditSteps bounds the steps of events.Store.Audit for one JSON answer.
const auditSteps = 20

// AuditEvent is an event as auditors see it: without prompts, texts and names.
type AuditEvent struct {
	Index   int64     `json:"index" minimum:"0" doc:"The index of the event in the log, from 0."`
	At      time.Time `json:"at" doc:"When the event happened, by the clock of the database."`
	Type    string    `json:"type" example:"policy.refused" doc:"The type of the event."`
	Stream  string    `json:"stream" example:"account/018f3c7e-5b1a-7c3e-8a41-2f6d9b0c1e55" doc:"job/ID or account/ID."`
	Version int       `json:"version" minimum:"1" doc:"The position of the event in its stream, from 1."`
	Owner   uuid.UUID `json:"owner" format:"uuid" doc:"The id of the account whose event it is. Events of the service itself have the nil UUID."`
	By      string    `json:"by,omitempty" doc:"Who caused the event, if it is on record: the id of an account, owner, service, or command for the command line."`
	Policy  string    `json:"policy,omitempty" doc:"job.accepted, job.started, policy.refused: the version of the text policy."`
	Rule    string    `json:"rule,omitempty" doc:"policy.refused: the rule that the prompt broke."`
	Damaged bool      `json:"damaged,omitempty" doc:"Whether the record of the event is damaged, so that by, policy and rule are unknown."`
}

type auditInput struct {
	Accept string    `header:"Accept" maxLength:"8192" example:"application/x-ndjson" doc:"application/x-ndjson exports all events that the filters select, one JSON object a line. Anything else, and q=0, returns a page as a JSON array."`
	After  int64     `query:"after" minimum:"-1" maximum:"9007199254740991" default:"-1" doc:"Only events after this index. The Link header of a page has the value for the next one."`
	Limit  int       `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"The largest number of events in a JSON answer. An export has no limit."`
	Type   string    `query:"type" maxLength:"64" pattern:"^[a-z_]+[.][a-z_]+$" example:"policy.refused" doc:"Only events of this type."`
	Owner  string    `query:"owner" format:"uuid" maxLength:"36" doc:"Only events of this account. The nil UUID selects events of the service itself."`
	Since  time.Time `query:"since" doc:"Only events at this time and later (RFC 3339)."`
	Until  time.Time `query:"until" doc:"Only events before this time (RFC 3339)."`
}

func (in *auditInput) filter() events.AuditFilter {
	f := events.AuditFilter{Type: in.Type, Since: in.Since, Until: in.Until}
	if in.Owner != "" {
		f.Owner = new(uuid.MustParse(in.Owner)) // never panics, because exact has checked the form
	}
	return f
}

// next returns the path of the page after an index.
func (in *auditInput) next(after int64) string {
	query := url.Values{"after": {strconv.FormatInt(after, 10)}, "limit": {strconv.Itoa(in.Limit)}}
	if in.Type != "" {
		query.Set("type", in.Type)
	}
	if in.Owner != "" {
		query.Set("owner", in.Owner)
	}
	for name, at := range map[string]time.Time{"since": in.Since, "until": in.Until} {
		if !at.IsZero() {
			query.Set(name, at.Format(time.RFC3339Nano))
		}
	}
	return "/audit?" + query.Encode()
}

func (s *server) audit() {
	event := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[AuditEvent](), true, "AuditEvent")
	register(s, huma.Operation{
		OperationID: "audit", Method: http.MethodGet, Path: "/audit", Tags: []string{"administration"},
		Summary: "Read the log of all accounts, without texts",
		Description: "For auditors: index, time, type, stream and owner of each event in the log, who caused it, and the rules of refusals. There are no prompts, texts and names. " +
			"A page may have fewer events than its limit, or none, and still link to a next one, because an answer reads only a part of the log. " +
			"With Accept: application/x-ndjson, the answer is all that the log has when the request arrives. Its connection breaks if it cannot be completed: " +
			"then continue after the last index. An export counts as an open stream of the account, and ends with its session or its role.",
		Security: keyed(auth.ScopeAdmin),
		Metadata: waits(only(auth.Auditor, auth.Admin)),
		Responses: map[string]*huma.Response{"200": {
			Description: "The events that the filters select, in the order of the log.",
			Headers: map[string]*huma.Param{"Link": {
				Description: "With JSON: the next page as rel=next (RFC 8288), unless the log ends here.", Schema: &huma.Schema{Type: huma.TypeString},
			}},
			Content: map[string]*huma.MediaType{
				"application/json": {Schema: &huma.Schema{Type: huma.TypeArray, Items: event}},
				ndjsonType:         {Schema: &huma.Schema{Type: huma.TypeString, Description: "One AuditEvent as JSON a line."}},
			},
		}},
	}, s.readAudit)
}

func (s *server) readAudit(ctx context.Context, in *auditInput) (*feedOutput, error) {
	if accepts(in.Accept, ndjsonType) {
		return s.export(ctx, in), nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	list, link := []json.RawMessage{}, ""
	after, more := in.After, true
	for step := 0; more && len(list) < in.Limit; step++ {
		if step == auditSteps {
			break
		}
		var found []events.AuditEvent
		var err error
		if found, after, more, err = s.Store.Audit(ctx, in.filter(), after); err != nil {
			return nil, err
		}
		for _, e := range found {
			if len(list) == in.Limit {
				more = true
				break
			}
			raw, err := json.Marshal(auditBody(e))
			if err != nil {
				return nil, err
			}
			list = append(list, raw)
			if len(list) == in.Limit {
				after = e.Index
			}
		}
	}
	if more {
		link = fmt.Sprintf("<%s>; rel=\"next\"", in.next(after))
	}
	out := feedAnswer(s.array(ctx, list))
	out.Link = link
	return out, nil
}

// export returns the answer with all events that the filters select, as NDJSON. It holds one
// step at a time.
func (s *server) export(ctx context.Context, in *auditInput) *feedOutput {
	return &feedOutput{ContentType: ndjsonType, Vary: "Accept, Authorization", Body: s.transfer(ctx, func(w timedWriter) error {
		return s.sendAudit(ctx, w, in)
	})}
}

// transfer returns the body of an answer that is written in parts and may take long. It counts
// as an open stream of the account. If send returns an error, the connection breaks.
func (s *server) transfer(ctx context.Context, send func(timedWriter) error) func(huma.Context) {
	return func(hctx huma.Context) {
		_, w := humago.Unwrap(hctx)
		if hctx.Method() == http.MethodHead {
			hctx.SetStatus(http.StatusOK)
			return
		}
		account := caller(ctx).Account
		if refused := s.streams.enter(account, s.MaxStreams, s.MaxAllStreams); refused != nil {
			s.refuse(hctx, refused)
			return
		}
		defer s.streams.leave(account)
		w.WriteHeader(http.StatusOK)
		if err := send(timedWriter{w, s.timeouts.write}); err != nil {
			s.Log.DebugContext(ctx, "transfer ended early", "request", requestID(ctx), "err", err)
			panic(http.ErrAbortHandler) // an answer that only ended would look complete
		}
	}
}

func (s *server) sendAudit(ctx context.Context, w timedWriter, in *auditInput) error {
	ctx, cancel := s.waiting(ctx)
	defer cancel()
	end, err := s.Store.LogEnd(ctx)
	var buf bytes.Buffer
	encoder := json.NewEncoder(&buf) // ends each object with a line feed
	for after, more := in.After, true; err == nil && more && after < end; {
		var found []events.AuditEvent
		found, after, more, err = s.Store.Audit(ctx, in.filter(), after)
		buf.Reset()
		for _, e := range found {
			if err == nil && e.Index <= end {
				err = encoder.Encode(auditBody(e))
			}
		}
		if err == nil && buf.Len() > 0 {
			_, err = w.Write(buf.Bytes())
		}
		if err == nil {
			err = s.mayAudit(ctx)
		}
	}
	return err
}

// mayAudit returns an error if the caller has lost the role since the request began.
func (s *server) mayAudit(ctx context.Context) error {
	account, err := s.account(ctx)
	if err == nil && account.Role == auth.User {
		err = auth.ErrForbidden
	}
	return err
}

func auditBody(e events.AuditEvent) AuditEvent {
	return AuditEvent{e.Index, e.At, e.Type, string(e.Stream), e.Version, e.Owner, e.By, e.Policy, e.Rule, e.Damaged}
}
