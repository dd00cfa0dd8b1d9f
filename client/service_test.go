package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// A service is a fake service that records its requests.
type service struct {
	t *testing.T
	http.ServeMux

	mu   sync.Mutex
	seen []*http.Request
}

func newService(t *testing.T) *service { return &service{t: t} }

// client returns a client that calls the service without a network.
func (s *service) client(o Options) *Client {
	s.t.Helper()
	o.Transport = s
	c, err := New("http://service.example", o)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// over returns a client that calls the service over the network.
func (s *service) over(o Options) *Client {
	s.t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.note(r)
		s.ServeHTTP(w, r)
	}))
	s.t.Cleanup(server.Close)
	o.Transport = server.Client().Transport
	c, err := New(server.URL+"/", o)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *service) note(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, r)
}

// requests returns the requests so far, in order.
func (s *service) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

// answers registers handlers for a pattern. Each request gets the next handler. The last
// handler gets all further requests.
func (s *service) answers(pattern string, handlers ...http.HandlerFunc) {
	var mu sync.Mutex
	s.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		next := handlers[0]
		if len(handlers) > 1 {
			handlers = handlers[1:]
		}
		mu.Unlock()
		next(w, r)
	})
}

// RoundTrip calls the handler. The client reads the body of the answer while the handler
// writes this body. The body breaks off if the handler panics with http.ErrAbortHandler.
func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	s.note(r)
	body, writer := io.Pipe()
	w := &response{header: http.Header{}, body: writer, began: make(chan struct{})}
	go func() {
		defer func() {
			err := io.ErrUnexpectedEOF
			if v := recover(); v == nil {
				err = nil
			} else if v != http.ErrAbortHandler {
				panic(v)
			}
			w.begin()
			writer.CloseWithError(err)
		}()
		s.ServeHTTP(w, r)
		w.WriteHeader(http.StatusOK)
	}()
	select {
	case <-r.Context().Done():
		body.CloseWithError(r.Context().Err())
		return nil, r.Context().Err()
	case <-w.began:
	}
	if w.status == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	context.AfterFunc(r.Context(), func() { writer.CloseWithError(r.Context().Err()) })
	return &http.Response{Status: fmt.Sprint(w.status), StatusCode: w.status, Header: w.header, Body: body, Request: r}, nil
}

// response is the ResponseWriter of a handler.
type response struct {
	header http.Header
	status int
	body   *io.PipeWriter
	began  chan struct{}
	once   sync.Once
}

func (w *response) begin()              { w.once.Do(func() { close(w.began) }) }
func (w *response) Header() http.Header { return w.header }
func (w *response) Flush()              {}

func (w *response) WriteHeader(status int) {
	w.once.Do(func() {
		w.header = w.header.Clone()
		w.status = status
		close(w.began)
	})
}

func (w *response) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// abort breaks the connection before an answer.
func abort(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// text answers 200 with a body.
func text(body string, headers ...string) http.HandlerFunc { return status(200, body, headers...) }

// status answers with a status, a body and headers. The headers are names and values in
// turn.
func status(code int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
		io.WriteString(w, body)
	}
}

// problem answers with a problem document.
func problem(code int, name string, headers ...string) http.HandlerFunc {
	body := fmt.Sprintf(`{"title":%q,"status":%d,"detail":"it is so","instance":"urn:uuid:i","error":{"message":"it is so","type":"t","param":null,"code":%q}}`,
		http.StatusText(code), code, name)
	return status(code, body, append(headers, "Content-Type", "application/problem+json")...)
}
