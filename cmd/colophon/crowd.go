package main

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"colophon/api"
)

// crowd is a listener that holds so many connections at once and no more: what is
// above that is closed as soon as it comes, and does not wait in front of others.
// One network may have a quarter of them, unless it is a trusted proxy's.
type crowd struct {
	net.Listener
	most    int
	trusted []netip.Prefix
	log     *slog.Logger

	mu     sync.Mutex
	all    int
	of     map[string]int // by network
	closed int            // since it was last said
	said   time.Time
}

// sayEvery is how often it is said that connections are closed.
const sayEvery = time.Minute

func newCrowd(l net.Listener, most int, trusted []netip.Prefix, log *slog.Logger) *crowd {
	return &crowd{Listener: l, most: most, trusted: trusted, log: log, of: map[string]int{}}
}

// Accept returns the next connection that there is room for.
func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		network := api.Network(conn.RemoteAddr().String())
		if c.enter(network, c.proxy(conn)) {
			return &guest{Conn: conn, leave: sync.OnceFunc(func() { c.leave(network) })}, nil
		}
		_ = conn.Close()
	}
}

func (c *crowd) proxy(conn net.Conn) bool {
	addr, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := addr.AddrPort().Addr().Unmap().WithZone("")
	for _, p := range c.trusted {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

func (c *crowd) enter(network string, proxy bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= c.most || !proxy && c.of[network] >= max(1, c.most/4) {
		if c.closed++; time.Since(c.said) >= sayEvery {
			c.log.Warn("connections are closed because there are too many", "closed", c.closed, "open", c.all, "most", c.most)
			c.closed, c.said = 0, time.Now()
		}
		return false
	}
	c.all++
	c.of[network]++
	return true
}

func (c *crowd) leave(network string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.of[network]--; c.of[network] == 0 {
		delete(c.of, network)
	}
}

// guest is a connection that makes room when it is closed.
type guest struct {
	net.Conn
	leave func()
}

// Close closes the connection.
func (g *guest) Close() error {
	defer g.leave()
	return g.Conn.Close()
}
