package httpd

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"

	"colophon/internal/network"
)

// ListenOptions configure [Listen]. The zero value means plain HTTP without a limit on
// connections.
type ListenOptions struct {
	TLS *tls.Config // nil means plain HTTP

	// MaxConnections is the maximum number of open connections. It is lowered to three
	// quarters of the file descriptors that the process may open. One network may have a
	// quarter of the connections, and the networks of one IPv6 /48 may have half of them,
	// unless the network is in Trusted. 0 means no limit.
	MaxConnections int

	Trusted []netip.Prefix // networks of trusted reverse proxies
	Log     *slog.Logger   // required if MaxConnections is not 0

	timeouts timeouts // zero means productionTimeouts
}

// Listener is an open listener and the options of its server.
type Listener struct {
	net.Listener
	options ListenOptions
}

// Listen opens a TCP listener on an address with a port. On Linux, a connection ends when
// the client has not acknowledged data for 9 seconds.
func Listen(ctx context.Context, address string, o ListenOptions) (*Listener, error) {
	if o.timeouts == (timeouts{}) {
		o.timeouts = productionTimeouts
	}
	config := net.ListenConfig{Control: limitUnacknowledged(o.timeouts.unacknowledged)}
	config.SetMultipathTCP(false) // Multipath TCP has no TCP_USER_TIMEOUT
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if o.MaxConnections > 0 {
		limit := withinDescriptors(o.MaxConnections, maxDescriptors())
		if limit < o.MaxConnections {
			o.Log.WarnContext(ctx, "fewer connections than configured, because the process may open few files",
				"connections", limit, "configured", o.MaxConnections)
		}
		l = limitConnections(l, limit, o.Trusted, o.Log)
	}
	return &Listener{l, o}, nil
}

// URL returns the URL of the listener, without a slash at its end.
func (l *Listener) URL() string {
	scheme := "http"
	if l.options.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + l.Addr().String()
}

// Port returns the port of the listener.
func (l *Listener) Port() string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// IsLocal reports whether clients can reach the listener only from this machine and only
// under the machine's own names. It returns false for TLS, because the certificate decides
// which names are valid. It returns false for a listener behind a proxy, because the proxy
// passes on other names.
func (l *Listener) IsLocal() bool {
	return l.options.TLS == nil && len(l.options.Trusted) == 0 && network.IsLoopback(l.Addr().String())
}
