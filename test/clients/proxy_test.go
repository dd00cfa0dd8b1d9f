package clients

import (
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// cutter is a proxy of connections. It passes them to the two API processes in turn, and cuts
// some of them after a random number of bytes of the answer.
type cutter struct {
	url  string
	cuts atomic.Int64 // connections that were cut
}

// newCutter starts a proxy that cuts so many connections, and passes all later ones on whole.
// A connection is cut at the earliest after some bytes, and before an end.
func newCutter(t *testing.T, s *service, cuts int, earliest, end int64, seed uint64) *cutter {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{url: "http://" + listener.Addr().String()}
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	t.Cleanup(func() { listener.Close() })
	all.Go(func() {
		for n := 0; ; n++ {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			most := int64(-1)
			if n < cuts {
				most = earliest + random.Int64N(end-earliest)
			}
			all.Go(func() { c.pass(t, client, s.apis[n%2].URL, most) })
		}
	})
	return c
}

// pass connects a client with an API process until one of them closes, or until the process
// has sent most bytes, unless most is negative.
func (c *cutter) pass(t *testing.T, client net.Conn, api string, most int64) {
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
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		_, _ = io.Copy(server, client) // either end may close
		server.Close()
	}()
	if most < 0 {
		_, _ = io.Copy(client, server)
	} else if n, _ := io.CopyN(client, server, most); n == most {
		c.cuts.Add(1)
		if tcp, ok := client.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // the client gets a reset
		}
	}
	client.Close()
	<-stop
}
