package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/google/uuid"

	"colophon/events"
)

const (
	// retryMin is the shortest delay after which a client reconnects when the service has
	// ended its stream. A random part of retrySpread is added, so that clients do not
	// reconnect all at once.
	retryMin    = 500 * time.Millisecond
	retrySpread = time.Second
)

// EventBody is an event of a job as clients see it. Version, type and time are always
// present. The type decides which other members are present.
type EventBody struct {
	Version int       `json:"version" minimum:"1" doc:"The position of the event in the job's stream, from 1. It is the id of the SSE message."`
	Type    string    `json:"type" enum:"job.accepted,job.reassigned,job.started,job.advanced,job.completed,job.failed,job.cancelled"`
	At      time.Time `json:"at"`

	Prompt       string      `json:"prompt,omitempty" doc:"job.accepted"`
	Stop         []string    `json:"stop,omitempty" doc:"job.accepted"`
	Params       any         `json:"params,omitempty" doc:"job.accepted"`
	PromptTokens int         `json:"prompt_tokens,omitempty" doc:"job.accepted"`
	Model        string      `json:"model,omitempty" doc:"job.accepted"`
	Policy       string      `json:"policy,omitempty" doc:"job.accepted: the version of the text policy that the prompt passed. job.started: the version that applies to the text."`
	Priority     int         `json:"priority,omitempty" minimum:"1" maximum:"4" doc:"job.accepted: the priority in the queue; 1 goes first. It grows with the number of the owner's outstanding jobs."`
	Reserved     *Reserved   `json:"reserved,omitempty" doc:"job.accepted: what was reserved from the owner's token budget, if there is one."`
	Deadline     *time.Time  `json:"deadline,omitempty" doc:"job.accepted: when the job is cancelled unless it has ended."`
	Attempt      int         `json:"attempt,omitempty" doc:"job.started, job.failed"`
	Worker       string      `json:"worker,omitempty" doc:"job.started"`
	FromToken    int         `json:"from_token,omitempty" doc:"job.started: the number of tokens already on record."`
	Weights      string      `json:"weights,omitempty" doc:"job.accepted, job.reassigned: the digest of the weights that may run the job; any if it is missing. job.started: the digest of the weights and their format."`
	Kernel       string      `json:"kernel,omitempty" doc:"job.started: the fingerprint of the arithmetic."`
	Tokens       []int       `json:"tokens,omitempty" doc:"job.advanced: the new token ids. Empty if the text ends inside a token, before a refused word."`
	Text         string      `json:"text,omitempty" doc:"job.advanced: the text that the new tokens complete."`
	FinishReason string      `json:"finish_reason,omitempty" enum:"stop,length,content_filter" doc:"job.completed: why the text ends, as in a job."`
	Usage        *Usage      `json:"usage,omitempty" doc:"job.completed"`
	Timings      *TimingBody `json:"timings,omitempty" doc:"job.completed"`
	Reason       string      `json:"reason,omitempty" doc:"job.failed, job.cancelled"`
	Final        bool        `json:"final,omitempty" doc:"job.failed: false if the job will be tried again."`
	By           string      `json:"by,omitempty" doc:"job.cancelled, job.reassigned"`
}

// Reserved is a part of a token budget.
type Reserved struct {
	Day    string `json:"day" format:"date" doc:"The day (UTC) whose budget it is, whenever the job ends."`
	Tokens int    `json:"tokens" doc:"The tokens of the prompt and of the longest continuation. Unused ones are given back when the job ends."`
}

// TimingBody has the durations of the stages of a job.
type TimingBody struct {
	QueuedMS     int64 `json:"queued_ms" doc:"Milliseconds from accepted to started."`
	FirstTokenMS int64 `json:"first_token_ms" doc:"Milliseconds from accepted to the first token."`
	TotalMS      int64 `json:"total_ms" doc:"Milliseconds from accepted to completed."`
}

type eventsInput struct {
	ID          uuid.UUID `path:"id" format:"uuid" doc:"The job's id."`
	Accept      string    `header:"Accept" maxLength:"8192" example:"text/event-stream" doc:"text/event-stream follows the job until it ends. Anything else, and q=0, returns the events so far as JSON."`
	LastEventID int       `header:"Last-Event-ID" minimum:"0" maximum:"2147483647" doc:"Continue after this version, as EventSource does when it reconnects. An empty one counts as absent."`
	After       int       `query:"after" minimum:"0" maximum:"2147483647" doc:"Like Last-Event-ID, for clients that cannot set headers."`
	Ticket      string    `query:"ticket" maxLength:"100" doc:"A ticket from POST /jobs/{id}/ticket, for EventSource. It replaces the Authorization header, and needs Accept: text/event-stream."`
}

type eventsOutput struct {
	ContentType string `header:"Content-Type"`
	Vary        string `header:"Vary" doc:"The request headers that the answer depends on."`
	Body        func(huma.Context)
}

func (s *server) stream() {
	event := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[EventBody](), true, "EventBody")
	op := huma.Operation{
		OperationID: "job-events", Method: http.MethodGet, Path: "/jobs/{id}/events", Tags: []string{"jobs"},
		Summary: "Read or follow the events of a job",
		Description: "With Accept: text/event-stream, the answer is a stream of server-sent events. Each message is an event, with its version as id and its type as event. " +
			"The stream begins with a comment. " +
			"Another one follows every ten seconds of silence. The stream ends after the job's last event. " +
			"If the service stops or the access token expires before that, a retry field gives the milliseconds after which to resume, with a valid access token. " +
			"When the session ends or the account is disabled or erased, the stream ends within seconds. " +
			"The number of open streams of an account and of the service is limited: beyond that the answer is 429 too_many_streams or 503 streams_full, with Retry-After. " +
			"Without that media type, the answer is a JSON array of the events so far.",
		Security: append(private(), map[string][]string{ticketScheme: {}}),
		Metadata: waits(nil),
		Errors:   []int{http.StatusNotFound, http.StatusGone},
		Responses: map[string]*huma.Response{"200": {
			Description: "The events after the given version.",
			Headers: map[string]*huma.Param{"X-Accel-Buffering": {
				Description: "no, with a stream: proxies must not hold events back.", Schema: &huma.Schema{Type: huma.TypeString},
			}},
			Content: map[string]*huma.MediaType{
				"application/json":  {Schema: &huma.Schema{Type: huma.TypeArray, Items: event}},
				"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString, Description: "Messages with id, event and data. The data is an EventBody as JSON."}},
			},
		}},
	}
	register(s, op, s.events)
}

func (s *server) events(ctx context.Context, in *eventsInput) (*eventsOutput, error) {
	job, err := s.own(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	// If a stream started after a version that does not exist, it would not end with the
	// job.
	after := min(max(in.After, in.LastEventID), job.Version)
	if accepts(in.Accept, "text/event-stream") {
		return &eventsOutput{ContentType: "text/event-stream", Vary: "Accept, Authorization", Body: func(hctx huma.Context) {
			_, w := humago.Unwrap(hctx)
			w.Header().Set("X-Accel-Buffering", "no") // otherwise nginx would hold events back
			if hctx.Method() == http.MethodHead {
				hctx.SetStatus(http.StatusOK)
				return
			}
			if refused := s.streams.enter(job.Owner, s.MaxStreams, s.MaxAllStreams); refused != nil {
				s.refuse(hctx, refused)
				return
			}
			defer s.streams.leave(job.Owner)
			if err := s.send(ctx, w, job, after); err != nil {
				s.Log.DebugContext(ctx, "stream ended early", "request", requestID(ctx), "err", err)
			}
		}}, nil
	}
	found, err := s.Store.Read(ctx, events.JobStream(job.ID), after)
	if err != nil {
		return nil, err
	}
	list := make([]json.RawMessage, len(found))
	for i, e := range found {
		if list[i], err = eventBody(e); err != nil {
			return nil, err
		}
	}
	return &eventsOutput{ContentType: "application/json", Vary: "Accept, Authorization", Body: func(hctx huma.Context) {
		hctx.SetStatus(http.StatusOK)
		if err := huma.DefaultJSONFormat.Marshal(hctx.BodyWriter(), list); err != nil {
			s.Log.DebugContext(ctx, "events not written", "request", requestID(ctx), "err", err)
		}
	}}, nil
}

// streams counts the open streams.
type streams struct {
	mu  sync.Mutex
	of  map[uuid.UUID]int // the number of open streams of each account
	all int
}

// enter counts a stream that opens. It returns a problem if the account or the service
// has too many open streams. If it returns nil, the caller must call leave when the
// stream ends.
func (s *streams) enter(account uuid.UUID, most, mostOfAll int) *Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case most > 0 && s.of[account] >= most:
		return newProblem(http.StatusTooManyRequests, "too_many_streams",
			fmt.Sprintf("your account has %d open streams, the limit: wait until one has ended, or close one", most)).retryAfter(jobsWait)
	case mostOfAll > 0 && s.all >= mostOfAll:
		return newProblem(http.StatusServiceUnavailable, "streams_full", "the service has no room for another stream: try again later").retryAfter(jobsWait)
	}
	if s.of == nil {
		s.of = map[uuid.UUID]int{}
	}
	s.of[account]++
	s.all++
	return nil
}

func (s *streams) leave(account uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.of[account]--; s.of[account] == 0 {
		delete(s.of, account)
	}
}

// send streams a job's events. The stream ends when the job or the session ends, the
// client disconnects, the access token expires or the service stops. In the last two
// cases, send tells the client when to resume. send does not use huma/sse, which needs a
// Go type for each event and a fixed media type for the operation.
func (s *server) send(ctx context.Context, w http.ResponseWriter, job events.Job, after int) error {
	control := http.NewResponseController(w)
	// write sets a deadline for itself, and removes the deadline at its end. Over HTTP/2,
	// a deadline that passes between two writes would end the stream.
	write := func(b []byte) error {
		if err := control.SetWriteDeadline(time.Now().Add(s.timeouts.write)); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		if err := control.Flush(); err != nil {
			return err
		}
		return control.SetWriteDeadline(time.Time{})
	}
	w.WriteHeader(http.StatusOK)
	// A proxy that compresses answers holds the headers back until the body begins.
	if err := write([]byte(": open\n\n")); err != nil {
		return err
	}
	if job.State.Final() && after >= job.Version {
		return nil
	}
	ctx, cancel := s.waiting(ctx)
	defer cancel()
	// Access tokens expire by the database's clock, but contexts end by this process's
	// clock. The context therefore gets the remaining lifetime and not the time of
	// expiry.
	left := caller(ctx).Expires.Sub(s.Store.Clock().Now())
	ctx, expire := context.WithTimeoutCause(ctx, left, errExpired)
	defer expire()
	var buf bytes.Buffer
	for batch, err := range s.Store.Follow(ctx, events.JobStream(job.ID), after, s.timeouts.beat) {
		if cause := context.Cause(ctx); errors.Is(cause, errStopping) || errors.Is(cause, errExpired) {
			retry := retryMin + rand.N(retrySpread) //nolint:gosec // it spreads clients and protects nothing
			return write(fmt.Appendf(nil, "retry: %d\n\n", retry.Milliseconds()))
		}
		if err != nil {
			return err
		}
		buf.Reset()
		final := false
		for _, e := range batch {
			data, err := eventBody(e)
			if err != nil {
				return err
			}
			fmt.Fprintf(&buf, "id: %d\nevent: %s\ndata: %s\n\n", e.Version, e.Fact.Type(), data)
			final = final || ends(e.Fact)
		}
		if len(batch) == 0 {
			buf.WriteString(": still here\n\n")
		}
		if err := write(buf.Bytes()); err != nil {
			return err
		}
		if final {
			break
		}
	}
	return nil
}

// ends reports whether a fact belongs to the last event of its job.
func ends(f events.Fact) bool {
	switch f := f.(type) {
	case events.JobCompleted, events.JobCancelled:
		return true
	case events.JobFailed:
		return f.Final
	}
	return false
}

// eventBody returns an event as the JSON that EventBody describes. The JSON has the
// event's version, type and time, followed by the members of the event's fact.
func eventBody(e events.Event) (json.RawMessage, error) {
	head, err := json.Marshal(struct {
		Version int       `json:"version"`
		Type    string    `json:"type"`
		At      time.Time `json:"at"`
	}{e.Version, e.Fact.Type(), e.At})
	if err != nil {
		return nil, err
	}
	fact, err := json.Marshal(e.Fact)
	if err != nil {
		return nil, err
	}
	if len(fact) == len("{}") {
		return head, nil
	}
	return fmt.Appendf(head[:len(head)-1], ",%s", fact[1:]), nil
}
