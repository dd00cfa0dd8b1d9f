package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/google/uuid"
)

const (
	// retryMin is the shortest delay after which a client reconnects when the service has
	// ended its stream. A random part of retrySpread is added, so that clients do not
	// reconnect all at once.
	retryMin    = 500 * time.Millisecond
	retrySpread = time.Second
)

func retry() time.Duration {
	return retryMin + rand.N(retrySpread) //nolint:gosec // it spreads clients and protects nothing
}

// eventsOutput is a stream of server-sent events, or a JSON array of events.
type eventsOutput struct {
	ContentType string `header:"Content-Type"`
	Vary        string `header:"Vary" doc:"The request headers that the answer depends on."`
	Body        func(huma.Context)
}

// array returns the answer with a JSON array of events.
func (s *server) array(ctx context.Context, list []json.RawMessage) *eventsOutput {
	return &eventsOutput{ContentType: "application/json", Vary: "Accept, Authorization", Body: func(hctx huma.Context) {
		hctx.SetStatus(http.StatusOK)
		if err := huma.DefaultJSONFormat.Marshal(hctx.BodyWriter(), list); err != nil {
			s.Log.DebugContext(ctx, "events not written", "request", requestID(ctx), "err", err)
		}
	}}
}

// message is a message of a stream of server-sent events.
type message struct {
	id    string // empty means that the message has no id
	event string // empty means that the message has no event
	data  json.RawMessage
}

// write appends the message to buf.
func (m message) write(buf *bytes.Buffer) {
	if m.id != "" {
		fmt.Fprintf(buf, "id: %s\n", m.id)
	}
	if m.event != "" {
		fmt.Fprintf(buf, "event: %s\n", m.event)
	}
	fmt.Fprintf(buf, "data: %s\n\n", m.data)
}

// heartbeat is the comment that a silent stream sends.
const heartbeat = ": still here\n\n"

// messages yields the messages of a stream in batches until ctx ends. An empty batch is a
// heartbeat.
type messages func(ctx context.Context) iter.Seq2[[]message, error]

// nothingLeft returns the answer to a client with a ticket that has the last event of a stream.
// EventSource does not connect again after a 204, and would after a stream that ends.
func nothingLeft() *eventsOutput {
	return &eventsOutput{Vary: "Accept, Authorization", Body: func(hctx huma.Context) { hctx.SetStatus(http.StatusNoContent) }}
}

// sse returns the answer with a stream of server-sent events after the message with the
// number from. The stream counts as one of the account's. If the account or the service has too many open streams, the answer is a
// problem.
func (s *server) sse(ctx context.Context, account uuid.UUID, from int64, messages messages) *eventsOutput {
	return &eventsOutput{ContentType: "text/event-stream", Vary: "Accept, Authorization", Body: func(hctx huma.Context) {
		_, w := humago.Unwrap(hctx)
		w.Header().Set("X-Accel-Buffering", "no") // otherwise nginx would hold events back
		if hctx.Method() == http.MethodHead {
			hctx.SetStatus(http.StatusOK)
			return
		}
		if refused := s.streams.enter(account, s.MaxStreams, s.MaxAllStreams); refused != nil {
			s.refuse(hctx, refused)
			return
		}
		defer s.streams.leave(account)
		if err := s.send(ctx, w, from, messages); err != nil {
			s.Log.DebugContext(ctx, "stream ended early", "request", requestID(ctx), "err", err)
		}
	}}
}

// streams counts the open streams. Requests of OpenAI's API that wait for texts count as
// streams, because they take as long.
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
			fmt.Sprintf("your account has %d open streams and requests that wait for texts, the limit: wait until one has ended, or close one", most)).retryAfter(jobsWait)
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

// timedWriter writes to a client and bounds the time of each write. The deadline of a write
// is removed at its end: over HTTP/2, a deadline that passes between two writes would end the
// stream.
type timedWriter struct {
	http.ResponseWriter
	timeout time.Duration
}

func (w timedWriter) Write(b []byte) (int, error) {
	control := http.NewResponseController(w.ResponseWriter)
	if err := control.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
		return 0, err
	}
	n, err := w.ResponseWriter.Write(b)
	if err == nil {
		err = control.Flush()
	}
	if err == nil {
		err = control.SetWriteDeadline(time.Time{})
	}
	return n, err
}

// begin begins a stream of server-sent events. The context ends with a cause: see waiting, and
// errExpired. The caller must call done, also after an error.
func (s *server) begin(ctx context.Context, to http.ResponseWriter) (_ context.Context, w timedWriter, done func(), err error) {
	to.Header().Set("X-Accel-Buffering", "no") // otherwise nginx would hold events back
	to.WriteHeader(http.StatusOK)
	w = timedWriter{to, s.timeouts.write}
	ctx, cancel := s.waiting(ctx)
	done = cancel
	if expires := caller(ctx).Expires; !expires.IsZero() { // an API key may never expire
		var expire context.CancelFunc
		ctx, expire = untilExpired(ctx, expires, s.Store.Clock().Now, s.timeouts.beat)
		done = func() { expire(); cancel() }
	}
	// A proxy that compresses answers holds the headers back until the body begins.
	_, err = w.Write([]byte(": open\n\n"))
	return ctx, w, done, err
}

// send streams messages. The stream ends when the messages, the session or the API key end,
// the client disconnects, the access token or the key expires, or the service stops. In the last two cases, send
// tells the client when to resume. send does not use huma/sse, which needs a Go type for each
// event and a fixed media type for the operation.
func (s *server) send(ctx context.Context, to http.ResponseWriter, from int64, messages messages) error {
	ctx, w, done, err := s.begin(ctx, to)
	defer done()
	if err != nil {
		return err
	}
	mark := ""
	if proof := requestOf(ctx).proof; proof != "" {
		// A client that has read this message, which has no data, can resume before the first
		// event has arrived.
		mark = proofMark + proof
		if _, err := w.Write(fmt.Appendf(nil, "id: %d%s\nretry: %d\n\n", from, mark, retry().Milliseconds())); err != nil {
			return err
		}
	}
	var buf bytes.Buffer
	for batch, err := range messages(ctx) {
		if cause := context.Cause(ctx); errors.Is(cause, errStopping) || errors.Is(cause, errExpired) {
			_, err := w.Write(fmt.Appendf(nil, "retry: %d\n\n", retry().Milliseconds()))
			return err
		}
		if err != nil {
			return err
		}
		buf.Reset()
		for _, m := range batch {
			if m.id != "" {
				m.id += mark
			}
			m.write(&buf)
		}
		if len(batch) == 0 {
			buf.WriteString(heartbeat)
		}
		if _, err := w.Write(buf.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// untilExpired returns a context that ends with errExpired when now reaches the time
// expires. The clock of now, the database's, may be set while the context lives. So
// untilExpired asks it again before it ends the context, and at the given interval.
func untilExpired(ctx context.Context, expires time.Time, now func() time.Time, every time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		for left := expires.Sub(now()); left > 0; left = expires.Sub(now()) {
			select {
			case <-time.After(min(left, every)):
			case <-ctx.Done():
				return
			}
		}
		cancel(errExpired)
	}()
	return ctx, func() { cancel(nil) }
}
