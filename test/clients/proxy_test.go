package clients

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// cutter is a proxy of connections. It passes them to the two API processes in turn, and cuts
// them after a random number of bytes of the answers.
type cutter struct {
	url  string
	left chan struct{} // cuts for later connections
	made atomic.Int64

	mu     sync.Mutex
	random *rand.Rand
}

// most is the largest number of bytes before a cut. The longest message has fewer, with the
// headers of its answer.
const most = 5000

// newCutter starts a proxy that passes connections on whole, until cut is called.
func newCutter(t *testing.T, s *service, seed uint64) *cutter {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{url: "http://" + listener.Addr().String(), left: make(chan struct{}, cuts), random: rand.New(rand.NewPCG(seed, 0))}
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	t.Cleanup(func() { listener.Close() })
	all.Go(func() {
		for n := 0; ; n++ {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { c.pass(t, client, s.apis[n%2].URL) })
		}
	})
	return c
}

// cut makes so many cuts, cuts at most in all, and lets the other connections pass whole. Half of
// the cuts are resets, after which the client may not have what the proxy has sent.
func (c *cutter) cut(n int) {
	for range n {
		c.left <- struct{}{}
	}
}

// pass connects a client with an API process until one of them closes or the connection is cut.
func (c *cutter) pass(t *testing.T, client net.Conn, api string) {
	defer client.Close()
	at, err := url.Parse(api)
	if err != nil {
		t.Error(err)
		return
	}
	server, err := new(net.Dialer).DialContext(t.Context(), "tcp", at.Host)
	if err != nil {
		t.Error(err)
		return
	}
	defer server.Close()
	// The context ends before the test waits for its proxies. Idle connections would last.
	defer context.AfterFunc(t.Context(), func() { client.Close(); server.Close() })()
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		_, _ = io.Copy(server, client) // either end may close
		server.Close()
	}()
	c.answer(client, server)
	client.Close()
	<-stop
}

// answer passes the bytes of a server on. A connection that ends before its cut leaves the cut to
// another one.
func (c *cutter) answer(client, server net.Conn) {
	at := -1 // bytes before the cut
	for buf := make([]byte, 4096); ; {
		n, err := server.Read(buf)
		if n > 0 && at < 0 { // an idle connection keeps no cut from others
			select {
			case <-c.left:
				at = 1 + c.draw(most)
			default:
			}
		}
		if at >= 0 && n >= at {
			_, _ = client.Write(buf[:at]) // the client may have gone
			if tcp, ok := client.(*net.TCPConn); ok && c.draw(2) == 0 {
				_ = tcp.SetLinger(0)
			}
			c.made.Add(1)
			return
		}
		if _, failed := client.Write(buf[:n]); err == nil {
			err = failed
		}
		if err != nil {
			if at >= 0 {
				c.left <- struct{}{}
			}
			return
		}
		at = max(at-n, -1)
	}
}

// draw returns a random number below n.
func (c *cutter) draw(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(n)
}
