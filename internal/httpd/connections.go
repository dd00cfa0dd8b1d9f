package httpd

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"colophon/internal/network"
)

// connectionLimiter is a listener that limits the number of open connections to max. The
// limit for one network is a quarter of max, except for the addresses of trusted proxies.
// connectionLimiter closes connections above a limit at once, so that no client waits in a
// queue.
type connectionLimiter struct {
	net.Listener
	max     int
	trusted []netip.Prefix
	log     *slog.Logger

	mu        sync.Mutex
	open      int
	byNetwork map[string]int
	refused   int // refused connections since the last log line
	logged    time.Time
}

// refusedEvery is the minimum time between two log lines about refused connections.
const refusedEvery = time.Minute

func limitConnections(l net.Listener, limit int, trusted []netip.Prefix, log *slog.Logger) *connectionLimiter {
	return &connectionLimiter{Listener: l, max: limit, trusted: trusted, log: log, byNetwork: map[string]int{}}
}

// Accept returns the next connection that is within the limits.
func (l *connectionLimiter) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		remote := conn.RemoteAddr().String()
		addr, err := network.ParseAddr(remote)
		proxy := err == nil && network.Contains(l.trusted, addr)
		from := network.Of(remote)
		if l.acquire(from, proxy) {
			return &connection{Conn: conn, release: sync.OnceFunc(func() { l.release(from) })}, nil
		}
		_ = conn.Close()
	}
}

// acquire reports whether one more connection of a network is within the limits. If so, it
// counts the connection.
func (l *connectionLimiter) acquire(from string, proxy bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.max || !proxy && l.byNetwork[from] >= max(1, l.max/4) {
		if l.refused++; time.Since(l.logged) >= refusedEvery {
			l.log.Warn("too many connections, closing new ones", "closed", l.refused, "open", l.open, "max", l.max)
			l.refused, l.logged = 0, time.Now()
		}
		return false
	}
	l.open++
	l.byNetwork[from]++
	return true
}

func (l *connectionLimiter) release(from string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.byNetwork[from]--; l.byNetwork[from] == 0 {
		delete(l.byNetwork, from)
	}
}

// connection counts towards the limits until it is closed.
type connection struct {
	net.Conn
	release func()
}

// Close closes the connection. Only the first call lowers the number of open connections.
func (c *connection) Close() error {
	defer c.release()
	return c.Conn.Close()
}
