package api

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"time"
)

const (
	// bodyTimeout is how long a client may take to send the body of a request.
	bodyTimeout = 10 * time.Second

	// answerTimeout is how long it may take to take an answer that is no stream. A
	// client that takes nothing at all is gone sooner.
	answerTimeout = time.Minute
)

// recorder notes what was answered, for the access log, and gives the client a
// time to take it in.
type recorder struct {
	http.ResponseWriter
	control *http.ResponseController
	varies  bool // by the request's origin
	status  int
	bytes   int64
}

func (w *recorder) begin(status int) {
	if w.status < 200 { // none yet, or one that only informs
		w.status = status
		if h := w.Header(); w.varies && !slices.Contains(h["Vary"], "Origin") {
			h.Add("Vary", "Origin") // an operation sets its own
		}
		_ = w.control.SetWriteDeadline(time.Now().Add(answerTimeout)) // see guard
	}
}

func (w *recorder) WriteHeader(status int) {
	w.begin(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	w.begin(http.StatusOK)
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController and Huma find the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// timedBody is a body that has a deadline until it has been read to its end: then
// only the connection's next request has one again.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.control.SetReadDeadline(time.Time{}) // see guard
	}
	return n, err
}
