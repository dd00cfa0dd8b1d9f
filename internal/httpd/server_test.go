package httpd

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// serve serves a handler on loopback until the test ends.
func serve(t *testing.T, o ListenOptions, handler http.HandlerFunc) *Listener {
	t.Helper()
	listener, err := Listen(t.Context(), "127.0.0.1:0", o)
	if err != nil {
		t.Fatal(err)
	}
	servers := NewServers(t.Context(), slog.New(slog.DiscardHandler))
	servers.Serve(listener, handler)
	t.Cleanup(servers.Close)
	return listener
}

func connect(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// exchange sends bytes that no HTTP client would send. It returns all bytes that the
// server sends until the server closes the connection.
func exchange(t *testing.T, addr, request string) string {
	t.Helper()
	conn := connect(t, addr)
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(conn) // no error check, because a reset after the response also ends the connection
	return string(got)
}

// TestMalformedRequestsNeverReachTheHandler sends requests that package net/http answers
// itself. Each response must be short and must repeat nothing of the request. The
// connection must end after the response.
//
// security: ASVS 16.5.1, ASVS 4.2.1
func TestMalformedRequestsNeverReachTheHandler(t *testing.T) {
	addr := serve(t, ListenOptions{}, func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s reached the handler", r.Method, r.URL)
	}).Addr().String()
	const canary = "canary"
	for name, k := range map[string]struct{ request, status string }{
		"not HTTP":          {canary + "\r\n\r\n", "400"},
		"no host":           {"GET /" + canary + " HTTP/1.1\r\n\r\n", "400"},
		"two hosts":         {"GET / HTTP/1.1\r\nHost: " + canary + "\r\nHost: b\r\n\r\n", "400"},
		"a space in a name": {"GET / HTTP/1.1\r\nHost: a\r\n" + canary + " x: 1\r\n\r\n", "400"},
		"a NUL":             {"GET / HTTP/1.1\r\nHost: a\r\nX: " + canary + "\x00\r\n\r\n", "400"},
		"a bad path":        {"GET /%zz" + canary + " HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		"two lengths":       {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n" + canary, "400"},
		"a negative length": {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n" + canary, "400"},
		"unknown encoding":  {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: " + canary + "\r\n\r\n", "501"},
		"unknown version":   {"GET / HTTP/3.7\r\nHost: a\r\n\r\n", "505"},
		"bad expectation":   {"POST / HTTP/1.1\r\nHost: a\r\nExpect: " + canary + "\r\nContent-Length: 1\r\n\r\n1", "417"},
		"a long header":     {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat(canary, 10_000) + "\r\n\r\n", "431"},
		"many headers":      {"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat(canary+": 1\r\n", 6_000) + "\r\n", "431"},
		"a long line":       {"GET /" + strings.Repeat(canary, 10_000) + " HTTP/1.1\r\nHost: a\r\n\r\n", "431"},
		"TLS on plain HTTP": {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + canary + "\r\n\r\n", "400"},
	} {
		t.Run(name, func(t *testing.T) {
			got := exchange(t, addr, k.request)
			head, body, _ := strings.Cut(got, "\r\n\r\n")
			if !strings.HasPrefix(head, "HTTP/1.1 "+k.status) || !strings.Contains(head, "Connection: close") {
				t.Errorf("%q, want %s", got, k.status)
			}
			if len(body) > 100 || strings.Contains(got, canary) || strings.Contains(got, "<") {
				t.Errorf("%q", got)
			}
		})
	}
}

// TestAmbiguousFramingClosesTheConnection sends two requests at once. If a proxy may see
// the end of the first request at another byte, the server must not answer the second.
//
// security: ASVS 4.2.1
func TestAmbiguousFramingClosesTheConnection(t *testing.T) {
	addr := serve(t, ListenOptions{}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	}).Addr().String()
	const next = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	for name, k := range map[string]struct {
		request string
		answers int
	}{
		"a length":                    {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx" + next, 2},
		"no body":                     {"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + next, 2},
		"length, then chunks":         {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx" + next, 1},
		"chunks, then length":         {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + next, 1},
		"HTTP/1.0 with chunks":        {"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + next, 1},
		"HTTP/1.0 with both":          {"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + next, 1},
		"a length behind a chunk end": {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n" + next, 1},
	} {
		got := exchange(t, addr, k.request)
		if n := strings.Count(got, "HTTP/1."); n != k.answers || !strings.Contains(got, "Connection: close") {
			t.Errorf("%s: %d answers, want %d: %q", name, n, k.answers, got)
		}
	}
}

// TestHandlerAnswersOptionsOfTheServer sends OPTIONS *. The handler must answer it,
// although net/http would answer it itself by default.
func TestHandlerAnswersOptionsOfTheServer(t *testing.T) {
	addr := serve(t, ListenOptions{}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }).Addr().String()
	if got := exchange(t, addr, "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 418") {
		t.Errorf("%q", got)
	}
}

// quick has short timeouts for the head and for unacknowledged data. The other timeouts
// are long, so that they do not end a connection first.
var quick = timeouts{header: 200 * time.Millisecond, idle: time.Minute, write: time.Minute, unacknowledged: 200 * time.Millisecond}

// TestServersHaveTheProductionTimeouts reads the timeouts of a server. They must be the
// production timeouts, which TestSlowClientsLoseTheirConnections replaces.
func TestServersHaveTheProductionTimeouts(t *testing.T) {
	l, err := Listen(t.Context(), "127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := NewServers(t.Context(), slog.New(slog.DiscardHandler))
	s.Serve(l, http.NotFoundHandler())
	defer s.Close()
	got := s.all[0]
	if got.ReadHeaderTimeout != 10*time.Second || got.IdleTimeout != 2*time.Minute || got.WriteTimeout != 3*time.Minute {
		t.Errorf("header %s, idle %s, write %s", got.ReadHeaderTimeout, got.IdleTimeout, got.WriteTimeout)
	}
}

// TestSlowClientsLoseTheirConnections measures the time until the server closes the
// connections of slow clients. The time must fit the timeouts in quick.
//
// security: API4:2023
func TestSlowClientsLoseTheirConnections(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{}) // closed when a connection has ended during the response
	addr := serve(t, ListenOptions{timeouts: quick}, nil).Addr().String()
	// The client that does not read must have sent its request, however late it runs.
	patient := quick
	patient.header = time.Minute
	if runtime.GOOS != "linux" {
		patient = quick // only Linux has the timeout unacknowledged; elsewhere the timeout header ends the connection
	}
	answering := serve(t, ListenOptions{timeouts: patient}, func(w http.ResponseWriter, _ *http.Request) {
		defer close(closed)
		_, _ = w.Write(make([]byte, 20<<20))
	}).Addr().String()
	for name, client := range map[string]func(net.Conn){
		"sends nothing": func(net.Conn) {},
		"sends the head byte by byte": func(conn net.Conn) {
			for _, b := range []byte("GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 1000)) {
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		},
		"does not read the response": func(conn net.Conn) {
			if runtime.GOOS != "linux" {
				return
			}
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			<-closed
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			to := addr
			if name == "does not read the response" {
				to = answering
			}
			conn := connect(t, to)
			client(conn)
			_ = conn.SetReadDeadline(begin.Add(50 * time.Second))
			_, err := io.Copy(io.Discard, conn)
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				t.Error("the connection is still open")
			}
			// The connection must end before the write timeout, which is a minute.
			if took := time.Since(begin); took < quick.header/2 || took > 40*time.Second {
				t.Errorf("closed after %s", took)
			} else {
				t.Logf("closed after %s", took.Round(time.Millisecond))
			}
		})
	}
}
