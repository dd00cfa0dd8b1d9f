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
// limit for one network is a quarter of max, and the limit for the networks of one IPv6
// site is half of max. The addresses of trusted proxies have neither of these two limits.
// connectionLimiter closes connections above a limit at once, so that no client waits in a
// queue.
type connectionLimiter struct {
	net.Listener
	max     int
	trusted []netip.Prefix
	log     *slog.Logger

	mu        sync.Mutex
	open      int
	byNetwork map[string]int // by network or site
	refused   int            // refused connections since the last log line
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
		site := network.Site(from)
		if l.acquire(from, site, proxy) {
			return &connection{Conn: conn, release: sync.OnceFunc(func() { l.release(from, site) })}, nil
		}
		_ = conn.Close()
	}
}

// acquire reports whether one more connection of a network is within the limits. If so, it
// counts the connection. The site is empty if the network has none.
func (l *connectionLimiter) acquire(from, site string, proxy bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	greedy := l.byNetwork[from] >= max(1, l.max/4) || site != "" && l.byNetwork[site] >= max(1, l.max/2)
	if l.open >= l.max || !proxy && greedy {
		if l.refused++; time.Since(l.logged) >= refusedEvery {
			l.log.Warn("too many connections, closing new ones", "closed", l.refused, "open", l.open, "max", l.max)
			l.refused, l.logged = 0, time.Now()
		}
		return false
	}
	l.open++
	l.byNetwork[from]++
	if site != "" {
		l.byNetwork[site]++
	}
	return true
}

func (l *connectionLimiter) release(from, site string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	for _, key := range []string{from, site} {
		if l.byNetwork[key]--; l.byNetwork[key] <= 0 {
			delete(l.byNetwork, key)
		}
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
