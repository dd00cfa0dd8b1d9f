package api_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"colophon/api"
	"colophon/test/apitest"
)

// TestSilentStreamOutlivesWriteDeadlines keeps a stream over HTTP/2 silent for longer
// than any write deadline. The stream must go on until the job ends.
func TestSilentStreamOutlivesWriteDeadlines(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.Submit(prompt)
	c := f.another(t, func(o *api.Options) {
		o.Timeouts(time.Minute, time.Second, time.Second, 1500*time.Millisecond)
	})
	resp, err := c.Open(t.Context(), "GET", "/jobs/"+id+"/events", "", "Accept", "text/event-stream")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.TLS.NegotiatedProtocol != "h2" || resp.TLS.Version < tls.VersionTLS12 {
		t.Fatalf("%s over %x", resp.Proto, resp.TLS.Version)
	}
	beats := 0
	for m, err := range apitest.Messages(resp.Body) {
		if err != nil {
			t.Error(err)
		}
		if m == (apitest.Message{}) {
			if beats++; beats == 1 { // the stream has been silent for longer than a write may take
				f.Do("POST", "/jobs/"+id+"/cancel", "").Must(t, 200)
			}
		}
	}
	if beats == 0 {
		t.Error("the stream ended without a heartbeat")
	}
}

// TestSlowBodiesAreGivenUp sends bodies one byte at a time, to routes that read bodies
// and to routes that do not. The service must answer and close the connection within 10
// seconds.
//
// security: API4:2023
func TestSlowBodiesAreGivenUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) { f.api.Timeouts(time.Second, time.Minute, time.Minute, time.Minute) })
	for _, route := range []string{"POST /users", "POST /nowhere", "GET /history", "GET /docs"} {
		t.Run(route, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, f.URL)
			fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", route)
			begin := time.Now()
			go func() {
				for {
					if _, err := conn.Write([]byte(" ")); err != nil {
						return
					}
					select {
					case <-t.Context().Done():
						return
					case <-time.After(50 * time.Millisecond):
					}
				}
			}()
			got, err := io.ReadAll(conn)
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("given up after %s", took)
			}
			if !strings.HasPrefix(string(got), "HTTP/1.1 4") && !strings.HasPrefix(string(got), "HTTP/1.1 200") {
				t.Errorf("%.100q, %v", got, err)
			}
			if route == "POST /users" && !strings.HasPrefix(string(got), "HTTP/1.1 408") {
				t.Errorf("%.100q", got)
			}
		})
	}
}

func dial(t *testing.T, url string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// exchange sends text over a new connection. If ends is set, exchange then closes the
// sending half of the connection. It returns the answers that arrive until the service
// closes the connection.
func exchange(t *testing.T, url, text string, ends bool) (answers []apitest.Answer) {
	t.Helper()
	conn := dial(t, url)
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	if ends {
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	for r := bufio.NewReader(conn); ; {
		resp, err := http.ReadResponse(r, nil)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return answers
		}
		if err != nil {
			t.Fatalf("after %d answers: %v", len(answers), err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, apitest.Answer{Status: resp.StatusCode, Header: resp.Header, Body: body})
	}
}
