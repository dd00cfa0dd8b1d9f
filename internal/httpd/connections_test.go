package httpd

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// TestConnectionsAreLimited opens connections from one network and from other networks.
// Connections above the limits must be closed at once.
func TestConnectionsAreLimited(t *testing.T) {
	for name, k := range map[string]struct {
		trusted []netip.Prefix
		want    int // the number of connections that one network may open
	}{
		"one network": {nil, 2},
		"a proxy":     {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, 8},
	} {
		t.Run(name, func(t *testing.T) {
			inner, err := Listen(t.Context(), "127.0.0.1:0", ListenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			c := limitConnections(inner, 8, k.trusted, slog.New(slog.DiscardHandler))
			t.Cleanup(func() { c.Close() })
			accepted := make(chan net.Conn, 100)
			go func() {
				for {
					conn, err := c.Accept()
					if err != nil {
						close(accepted)
						return
					}
					accepted <- conn
				}
			}()
			var held []net.Conn
			for range k.want {
				connect(t, inner.Addr().String())
				held = append(held, <-accepted)
			}
			// A further connection must be closed at once.
			extra := connect(t, inner.Addr().String())
			_ = extra.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := extra.Read(make([]byte, 1)); err == nil || !closedByPeer(err) {
				t.Errorf("a connection over the limit is open: %v", err)
			}
			// A connection that is closed twice must make room for only one new connection.
			_ = held[0].Close()
			_ = held[0].Close()
			connect(t, inner.Addr().String())
			held[0] = <-accepted
			if c.open != k.want || len(c.byNetwork) != 1 {
				t.Errorf("%d connections of %d networks", c.open, len(c.byNetwork))
			}
			var wg sync.WaitGroup
			for _, conn := range held {
				wg.Go(func() { _ = conn.Close() })
			}
			wg.Wait()
			if c.open != 0 || len(c.byNetwork) != 0 {
				t.Errorf("%d connections of %d networks are left", c.open, len(c.byNetwork))
			}
		})
	}
	c := limitConnections(nil, 8, nil, slog.New(slog.DiscardHandler))
	for i := range 8 {
		if !c.acquire(string(rune('a'+i/2)), false) {
			t.Errorf("connection %d of four networks was closed", i)
		}
	}
	if c.acquire("z", false) || c.acquire("z", true) {
		t.Error("a connection over the limit was accepted")
	}
}

func closedByPeer(err error) bool {
	timeout, ok := err.(net.Error)
	return err == io.EOF || ok && !timeout.Timeout()
}
