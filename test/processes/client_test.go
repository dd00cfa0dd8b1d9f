package processes

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestStreamOfAClientThatReadsNothingIsClosed freezes the worker after the first events.
// After that the service has almost nothing to write to the client, but it must still
// close the stream.
func TestStreamOfAClientThatReadsNothingIsClosed(t *testing.T) {
	slow(t)
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux reports how long a peer has read nothing")
	}
	m := newMembers(t)
	p := m.api("--no-rate-limits")
	c := newUser(t, p.URL, "sleeper")
	worker := m.worker()
	id := c.Submit(long(1))
	events := c.watch(id)
	for range 20 {
		next(t, events, advanced)
	}
	worker.Freeze()
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1) }) // asks for the smallest buffer
	}}
	conn, err := dialer.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	begin := time.Now()
	fmt.Fprintf(conn, "GET /jobs/%s/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nAccept: text/event-stream\r\n\r\n", id, c.Access)
	p.Await(`route="GET /jobs/{id}/events"`)
	t.Logf("closed after %s", time.Since(begin))
	if took := time.Since(begin); took > 20*time.Second { // closing takes 10 s on an idle machine
		t.Errorf("it was closed after %s", took)
	}
}
