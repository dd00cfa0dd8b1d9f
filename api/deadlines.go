package api

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// timeouts bound the time for which the service waits for a client, and the time for
// which a stream may be silent.
type timeouts struct {
	body   time.Duration // the time for a client to send the body of a request
	answer time.Duration // the time for a client to read an answer that is not a stream; a client that reads nothing is dropped sooner
	write  time.Duration // the time for a client to read one write of a stream
	beat   time.Duration // the time until a silent stream sends a heartbeat
	texts  time.Duration // the time for which a request of OpenAI's API waits for its texts
}

var productionTimeouts = timeouts{
	body:   10 * time.Second,
	answer: time.Minute,
	write:  8 * time.Second,
	beat:   beat,
	texts:  9 * time.Minute, // OpenAI's clients wait for ten minutes
}

// deadlines bounds how long a client may take to send its request and to read the
// answer. The time in between, while a handler waits, is not bounded.
func (s *server) deadlines(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// An error from SetReadDeadline or SetWriteDeadline means that the connection has
		// no deadlines, as in a test. The service still answers the request.
		control := http.NewResponseController(w)
		if r.Body != nil && r.Body != http.NoBody {
			_ = control.SetReadDeadline(time.Now().Add(s.timeouts.body))
			r.Body = &timedBody{r.Body, control}
		}
		next.ServeHTTP(&starting{ResponseWriter: w, start: func() {
			_ = control.SetWriteDeadline(time.Now().Add(s.timeouts.answer))
		}}, r)
	})
}

// timedBody is a body with a read deadline. When the body has been read to its end, the
// connection has no read deadline until its next request.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.control.SetReadDeadline(time.Time{}) // the comment in deadlines says why the error is ignored
	}
	return n, err
}

// starting is a ResponseWriter that calls start once, right before the answer
// starts.
type starting struct {
	http.ResponseWriter
	start   func()
	started bool
}

func (w *starting) begin(status int) {
	if !w.started && status >= http.StatusOK { // a 1xx status does not start the answer
		w.started = true
		w.start()
	}
}

func (w *starting) WriteHeader(status int) {
	w.begin(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *starting) Write(b []byte) (int, error) {
	w.begin(http.StatusOK)
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController and Huma find the connection.
func (w *starting) Unwrap() http.ResponseWriter { return w.ResponseWriter }
