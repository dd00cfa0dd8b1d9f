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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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
	head := head(req, c.RemoteAddr().String())
	if len(body) > 0 || req.Method == http.MethodPost || req.Method == http.MethodPut {
		head += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	head += "\r\n"
	sent := make(chan error, 1)
	go func() { // concurrent, because the service may answer before it has read the whole body
		_, err := (&net.Buffers{[]byte(head), body}).WriteTo(c.Conn)
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

// pause is the time after which sendText tells the service that no more bytes follow.
const pause = time.Second

// sendText sends a text over a connection of its own. It returns the final answers that
// the service sends before it closes the connection. The first answer is to a request
// with the given method. If ends is true, the client closes its side of the connection
// after the text. Otherwise the client does so only if the service still waits after a
// pause, because the text may be a part of a request.
func (w *wire) sendText(text, method string, ends bool) (answers []apitest.Answer, err error) {
	dialed, err := net.Dial("tcp", w.address)
	if err != nil {
		return nil, err
	}
	conn := dialed.(*net.TCPConn)
	defer conn.Close()
	_ = conn.SetLinger(0) // a closed connection then does not occupy its port
	if err := conn.SetDeadline(time.Now().Add(w.patience)); err != nil {
		return nil, err
	}
	go func() { // the errors are ignored, because the service may close the connection at any time
		_, _ = io.WriteString(conn, text)
		if ends {
			_ = conn.CloseWrite()
		}
	}()
	defer time.AfterFunc(pause, func() { _ = conn.CloseWrite() }).Stop()
	for buffer := bufio.NewReader(conn); ; {
		if _, err := buffer.Peek(1); errors.Is(err, os.ErrDeadlineExceeded) {
			return answers, err
		} else if err != nil {
			return answers, nil // the service has closed the connection
		}
		resp, err := http.ReadResponse(buffer, &http.Request{Method: method})
		if errors.Is(err, syscall.ECONNRESET) {
			return answers, nil
		} else if err != nil {
			return answers, err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if errors.Is(err, syscall.ECONNRESET) {
			return answers, nil
		} else if err != nil {
			return answers, err
		}
		if resp.StatusCode >= 200 {
			answers = append(answers, apitest.Answer{Status: resp.StatusCode, Header: resp.Header, Body: body})
			method = http.MethodGet
		}
	}
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

// TestSendTextReadsTheFinalAnswers sends texts to a server. sendText must return the final
// answers until the server closes the connection. A text that ends within a request must
// not keep sendText waiting.
func TestSendTextReadsTheFinalAnswers(t *testing.T) {
	t.Parallel()
	server, connections := countConnections(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.Copy(w, r.Body)
	})
	w := newWire(t, server.URL)
	const get, last = "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	for i, c := range []struct {
		text, method string
		ends         bool
		want         string // statuses
	}{
		{get + last, "GET", false, "200 200"},
		{"HEAD" + last[3:], "HEAD", false, "200"},
		{get + "no HTTP\r\n\r\n", "GET", false, "200 400"},
		{get, "GET", true, "200"},
		{get[:10], "GET", false, "400"}, // after the pause
		{"", "GET", true, ""},
	} {
		answers, err := w.sendText(c.text, c.method, c.ends)
		var got []string
		for _, a := range answers {
			got = append(got, strconv.Itoa(a.Status))
		}
		if s := strings.Join(got, " "); err != nil || s != c.want || int(connections.Load()) != i+1 {
			t.Errorf("%q: %q, %v, want %q", c.text, s, err, c.want)
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
