package contract

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

// streamTime limits how long a test reads a stream that does not end, such as the stream
// of a queued job.
const streamTime = 300 * time.Millisecond

// framing lists the headers of HTTP itself. An OpenAPI document does not describe these
// headers.
var framing = []string{"Connection", "Content-Length", "Date"}

// wire sends requests byte for byte, also requests that net/http's client refuses to
// send. It reuses connections and is safe for concurrent use.
type wire struct {
	address  string
	patience time.Duration // longest wait for an answer

	mu   sync.Mutex
	idle []*connection
}

type connection struct {
	net.Conn
	buffer *bufio.Reader
	used   bool // the connection has carried a request
}

// newWire returns a wire to the service at url. Idle connections are closed when the test
// ends.
func newWire(t testing.TB, url string) *wire {
	w := &wire{address: strings.TrimPrefix(url, "http://"), patience: programtest.Patience}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, c := range w.idle {
			c.Close()
		}
	})
	return w
}

func (w *wire) get() (*connection, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if last := len(w.idle) - 1; last >= 0 {
		c := w.idle[last]
		w.idle = w.idle[:last]
		return c, nil
	}
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		return nil, err
	}
	return &connection{Conn: conn, buffer: bufio.NewReader(conn)}, nil
}

func (w *wire) put(c *connection) {
	c.used = true
	w.mu.Lock()
	defer w.mu.Unlock()
	w.idle = append(w.idle, c)
}

// send sends a request and reads the answer. If the service has closed a connection since
// the last answer on it, send uses another connection.
func (w *wire) send(r *request, req *http.Request) (apitest.Answer, error) {
	for {
		c, err := w.get()
		if err != nil {
			return apitest.Answer{}, err
		}
		a, keep, err := c.exchange(r, req, w.patience)
		if keep {
			w.put(c)
			return a, nil
		}
		c.Close()
		if !errors.Is(err, errClosed) || !c.used {
			return a, err
		}
	}
}

// errClosed reports that a connection ended before the first byte of an answer.
var errClosed = errors.New("connection closed before an answer")

// exchange sends a request and reads the answer. The result keep reports whether the
// connection can carry another request.
func (c *connection) exchange(r *request, req *http.Request, patience time.Duration) (a apitest.Answer, keep bool, err error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return a, false, err
	}
	body := r.content()
	var head bytes.Buffer
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: %s\r\n", req.Method, req.RequestURI, c.RemoteAddr())
	if err := req.Header.Write(&head); err != nil {
		return a, false, err
	}
	if len(body) > 0 || req.Method == http.MethodPost || req.Method == http.MethodPut {
		fmt.Fprintf(&head, "Content-Length: %d\r\n", len(body))
	}
	head.WriteString("\r\n")
	sent := make(chan error, 1)
	go func() { // concurrent, because the service may answer before it has read the whole body
		_, err := (&net.Buffers{head.Bytes(), body}).WriteTo(c.Conn)
		sent <- err
	}()
	if _, err := c.buffer.Peek(1); errors.Is(err, os.ErrDeadlineExceeded) {
		return a, false, fmt.Errorf("wait for an answer: %w", err)
	} else if err != nil {
		return a, false, fmt.Errorf("%w: %w", errClosed, err)
	}
	resp, err := http.ReadResponse(c.buffer, req)
	if err != nil {
		return a, false, err
	}
	defer resp.Body.Close()
	stream := strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream")
	if stream {
		if err := c.SetReadDeadline(time.Now().Add(streamTime)); err != nil {
			return a, false, err
		}
	}
	a = apitest.Answer{Status: resp.StatusCode, Header: resp.Header}
	a.Body, err = io.ReadAll(resp.Body)
	cut := stream && errors.Is(err, os.ErrDeadlineExceeded)
	if err != nil && !cut {
		return a, false, err
	}
	if cut {
		events := bytes.SplitAfter(a.Body, []byte("\n\n"))
		a.Body = bytes.Join(events[:len(events)-1], nil) // the last event is incomplete
	}
	for _, name := range framing {
		a.Header.Del(name)
	}
	return a, !cut && !resp.Close && <-sent == nil, nil
}

// countConnections starts a server and counts its connections.
func countConnections(t *testing.T, handle http.HandlerFunc) (*httptest.Server, *atomic.Int32) {
	t.Helper()
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(handle)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	return server, &connections
}

// TestWireReusesConnections sends requests to a server whose answers end in different
// ways. The wire must reuse each connection that can carry another request.
func TestWireReusesConnections(t *testing.T) {
	t.Parallel()
	server, connections := countConnections(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/stream":
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: 1\n\ndata: 2")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case "/large":
			http.Error(w, "too much", http.StatusRequestEntityTooLarge) // the handler does not read the body
		default:
			_, _ = io.Copy(w, r.Body)
		}
	})
	w := newWire(t, server.URL)
	for i, c := range []struct {
		path, body  string
		status      int
		want        string
		connections int32 // number of connections so far
	}{
		{"echo", "one", 200, "one", 1},
		{"echo", "", 200, "", 1},
		{"large", strings.Repeat("x", 4<<20), 413, "too much\n", 1},
		{"echo", "two", 200, "two", 2},
		{"stream", "", 200, "data: 1\n\n", 2},
		{"echo", "three", 200, "three", 3},
		{"echo", "four", 200, "four", 4},
	} {
		if i == 6 {
			server.CloseClientConnections()
		}
		r := &request{method: "POST", path: []string{c.path}, raw: []byte(c.body)}
		a, err := w.send(r, r.http())
		if err != nil || a.Status != c.status || string(a.Body) != c.want || connections.Load() != c.connections {
			t.Errorf("%d: %s: %d %q over %d connections, %v", i, c.path, a.Status, a.Body, connections.Load(), err)
		}
		for _, name := range framing {
			if a.Header.Get(name) != "" {
				t.Errorf("%s: %s", name, a.Header.Get(name))
			}
		}
	}
}

// TestWireReportsAMissingAnswer sends a request on a used connection, and the server does
// not answer it. The wire must return an error and must not open another connection.
func TestWireReportsAMissingAnswer(t *testing.T) {
	t.Parallel()
	server, connections := countConnections(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
	})
	w := newWire(t, server.URL)
	answered := &request{method: "GET", path: []string{"answer"}}
	if _, err := w.send(answered, answered.http()); err != nil {
		t.Fatal(err)
	}
	w.patience = 100 * time.Millisecond
	unanswered := &request{method: "GET", path: []string{"hang"}}
	if _, err := w.send(unanswered, unanswered.http()); !errors.Is(err, os.ErrDeadlineExceeded) || connections.Load() != 1 {
		t.Errorf("%v, over %d connections", err, connections.Load())
	}
}
