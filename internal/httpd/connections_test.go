package httpd

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"colophon/internal/network"
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
		if !c.acquire(string(rune('a'+i/2)), "", false) {
			t.Errorf("connection %d of four networks was closed", i)
		}
	}
	if c.acquire("z", "", false) || c.acquire("z", "", true) {
		t.Error("a connection over the limit was accepted")
	}
}

// TestOneSiteCannotTakeAllConnections opens connections from many networks of one IPv6
// site. They must get at most half of all connections, and other sites must get the rest.
func TestOneSiteCannotTakeAllConnections(t *testing.T) {
	t.Parallel()
	c := limitConnections(nil, 16, nil, slog.New(slog.DiscardHandler))
	open := func(site int, want int) {
		t.Helper()
		got := 0
		for i := range 16 {
			from := network.Of(fmt.Sprintf("[2001:db8:%d:%d::1]:443", site, i))
			if c.acquire(from, network.Site(from), false) {
				got++
			}
		}
		if got != want {
			t.Errorf("site %d has %d connections, want %d", site, got, want)
		}
	}
	open(1, 8)
	open(2, 8)
	open(3, 0)
	for i := range 8 {
		from := network.Of(fmt.Sprintf("[2001:db8:1:%d::1]:443", i))
		c.release(from, network.Site(from))
	}
	open(3, 8)
}

// TestConnectionsFollowTheFileDescriptors limits the file descriptors of a process. The
// process must accept at most three quarters as many connections, so that descriptors
// remain for its files and its database.
func TestConnectionsFollowTheFileDescriptors(t *testing.T) {
	t.Parallel()
	for descriptors, want := range map[uint64]int{256: 192, 1024: 768, 1 << 20: 10_000, 1<<64 - 1: 10_000, 4: 3} {
		if got := withinDescriptors(10_000, descriptors); got != want {
			t.Errorf("%d descriptors: %d connections, want %d", descriptors, got, want)
		}
	}
}

func closedByPeer(err error) bool {
	timeout, ok := err.(net.Error)
	return err == io.EOF || ok && !timeout.Timeout()
}
