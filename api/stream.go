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
	// retryMin and retrySpread say when a client is to come back whose stream
	// ends because the service stops: not all at once.
	retryMin    = 500 * time.Millisecond
	retrySpread = time.Second
)

// EventBody is one event of a job as clients see it. Which of the members from
// prompt on are there depends on the type.
type EventBody struct {
	Version int       `json:"version" minimum:"1" doc:"Place among the job's events, and the id of the SSE message."`
	Type    string    `json:"type" enum:"job.accepted,job.started,job.advanced,job.completed,job.failed,job.cancelled"`
	At      time.Time `json:"at"`

	Prompt       string      `json:"prompt,omitempty" doc:"job.accepted"`
	Stop         []string    `json:"stop,omitempty" doc:"job.accepted"`
	Params       any         `json:"params,omitempty" doc:"job.accepted"`
	PromptTokens int         `json:"prompt_tokens,omitempty" doc:"job.accepted"`
	Model        string      `json:"model,omitempty" doc:"job.accepted"`
	Policy       string      `json:"policy,omitempty" doc:"job.accepted: the version of the text policy that the prompt passed; job.started: of the one that the text is held to."`
	Priority     int         `json:"priority,omitempty" minimum:"1" maximum:"4" doc:"job.accepted: the place in the queue, 1 first. The more jobs the owner had outstanding, the later."`
	Reserved     *Reserved   `json:"reserved,omitempty" doc:"job.accepted: what was set aside of the owner's token budget, if there is one."`
	Deadline     *time.Time  `json:"deadline,omitempty" doc:"job.accepted: when the job is cancelled if it has not ended by then."`
	Attempt      int         `json:"attempt,omitempty" doc:"job.started, job.failed"`
	Worker       string      `json:"worker,omitempty" doc:"job.started"`
	FromToken    int         `json:"from_token,omitempty" doc:"job.started: how many tokens were there already."`
	Weights      string      `json:"weights,omitempty" doc:"job.started: digest of the weights."`
	Kernel       string      `json:"kernel,omitempty" doc:"job.started: fingerprint of the arithmetic."`
	Tokens       []int       `json:"tokens,omitempty" doc:"job.advanced: the new token ids; none if a text that is refused ends inside a token."`
	Text         string      `json:"text,omitempty" doc:"job.advanced: the text they complete."`
	FinishReason string      `json:"finish_reason,omitempty" enum:"stop,length,content_filter" doc:"job.completed: why the text ends, as in a job."`
	Usage        *Usage      `json:"usage,omitempty" doc:"job.completed"`
	Timings      *TimingBody `json:"timings,omitempty" doc:"job.completed"`
	Reason       string      `json:"reason,omitempty" doc:"job.failed, job.cancelled"`
	Final        bool        `json:"final,omitempty" doc:"job.failed: false if it will be tried again."`
	By           string      `json:"by,omitempty" doc:"job.cancelled"`
}

// Reserved is a part of a token budget.
type Reserved struct {
	Day    string `json:"day" format:"date" doc:"The day in UTC whose budget it is, whenever the job ends."`
	Tokens int    `json:"tokens" doc:"Tokens of the prompt and the most that may follow. What is not used of them is given back when the job ends."`
}

// TimingBody says where the time of a job went.
type TimingBody struct {
	QueuedMS     int64 `json:"queued_ms" doc:"Milliseconds from accepted to started."`
	FirstTokenMS int64 `json:"first_token_ms" doc:"Milliseconds from accepted to the first token."`
	TotalMS      int64 `json:"total_ms" doc:"Milliseconds from accepted to completed."`
}

type eventsInput struct {
	ID          uuid.UUID `path:"id" format:"uuid" doc:"The job's id."`
	Accept      string    `header:"Accept" maxLength:"200" example:"text/event-stream" doc:"text/event-stream follows the job until it ends; anything else gets what there is as JSON."`
	LastEventID int       `header:"Last-Event-ID" minimum:"0" maximum:"2147483647" doc:"Continue after this version, as EventSource does after a cut."`
	After       int       `query:"after" minimum:"0" maximum:"2147483647" doc:"The same for clients that cannot set headers."`
	Ticket      string    `query:"ticket" maxLength:"100" doc:"From POST /jobs/{id}/ticket, for EventSource: in place of an Authorization header, and only with Accept: text/event-stream."`
}

type eventsOutput struct {
	ContentType string `header:"Content-Type"`
	Vary        string `header:"Vary" doc:"The headers that the answer depends on."`
	Body        func(huma.Context)
}

func (s *server) stream() {
	event := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[EventBody](), true, "EventBody")
	op := huma.Operation{
		OperationID: "job-events", Method: http.MethodGet, Path: "/jobs/{id}/events", Tags: []string{"jobs"},
		Summary: "Read or follow the events of a job",
		Description: "With Accept: text/event-stream, server-sent events: one message an event, with its version as id, its type as event, " +
			"and a comment every ten seconds in between; the stream ends after the job's last event. " +
			"If the service stops before that, or the access token expires, it says with retry how many milliseconds later to resume, with a valid access token. " +
			"When the session has ended or the account has been disabled or erased, the stream ends within seconds. " +
			"An account may have so many streams open at once, and the service: above that the answer is 429 too_many_streams or 503 streams_full, with Retry-After. " +
			"Without that media type, a JSON array of the events so far.",
		Security: append(private(), map[string][]string{ticketScheme: {}}),
		Errors:   []int{http.StatusNotFound},
		Responses: map[string]*huma.Response{"200": {
			Description: "The events after the one named.",
			Headers: map[string]*huma.Param{"X-Accel-Buffering": {
				Description: "no, with a stream: a proxy is not to hold events back.", Schema: &huma.Schema{Type: huma.TypeString},
			}},
			Content: map[string]*huma.MediaType{
				"application/json":  {Schema: &huma.Schema{Type: huma.TypeArray, Items: event}},
				"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString, Description: "Messages with id, event and data; data is an EventBody as JSON."}},
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
	// A version that there is not yet would have the stream wait for it beyond the
	// job's end.
	after := min(max(in.After, in.LastEventID), job.Version)
	if accepts(in.Accept, "text/event-stream") {
		return &eventsOutput{ContentType: "text/event-stream", Vary: "Accept, Authorization", Body: func(hctx huma.Context) {
			_, w := humago.Unwrap(hctx)
			w.Header().Set("X-Accel-Buffering", "no") // nginx would hold events back
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
				s.Log.DebugContext(ctx, "a stream ended early", "request", requestID(ctx), "err", err)
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
			s.Log.DebugContext(ctx, "could not write events", "request", requestID(ctx), "err", err)
		}
	}}, nil
}

// streams counts those that are open.
type streams struct {
	mu  sync.Mutex
	of  map[uuid.UUID]int // by account
	all int
}

// enter counts one more, unless that is one too many. Who entered has to leave.
func (s *streams) enter(account uuid.UUID, most, mostOfAll int) *Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case most > 0 && s.of[account] >= most:
		return newProblem(http.StatusTooManyRequests, "too_many_streams",
			fmt.Sprintf("your account follows %d jobs at once already, as many as it may: wait until one has ended, or close a stream", most)).retryAfter(jobsWait)
	case mostOfAll > 0 && s.all >= mostOfAll:
		return newProblem(http.StatusServiceUnavailable, "streams_full", "as many streams are open as the service has room for: try again later").retryAfter(jobsWait)
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

// send follows a job as server-sent events until it has ended, the client has
// left, its session has ended or its access token expired: what it is good for
// ends with it, and the client resumes with the next one. (huma/sse would need a Go type for each event and a fixed media
// type for the operation.)
func (s *server) send(ctx context.Context, w http.ResponseWriter, job events.Job, after int) error {
	control := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if err := control.Flush(); err != nil {
		return err
	}
	// A deadline is for one write: over HTTP/2 one that passes while nothing is
	// written ends the stream as well.
	if err := control.SetWriteDeadline(time.Time{}); err != nil {
		return err
	}
	if job.State.Final() && after >= job.Version {
		return nil
	}
	ctx, cancel := s.waiting(ctx)
	defer cancel()
	ctx, expire := context.WithDeadlineCause(ctx, caller(ctx).Expires, errExpired)
	defer expire()
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
	var buf bytes.Buffer
	for batch, err := range s.Store.Follow(ctx, events.JobStream(job.ID), after, s.timeouts.beat) {
		if cause := context.Cause(ctx); errors.Is(cause, errStopping) || errors.Is(cause, errExpired) {
			retry := retryMin + rand.N(retrySpread) //nolint:gosec // it spreads clients and hides nothing
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

// ends reports whether a fact is the last of its job.
func ends(f events.Fact) bool {
	switch f := f.(type) {
	case events.JobCompleted, events.JobCancelled:
		return true
	case events.JobFailed:
		return f.Final
	}
	return false
}

// eventBody returns an event as the JSON that EventBody describes: version,
// type and time, and the members of the fact beside them.
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
