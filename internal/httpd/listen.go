package httpd

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"

	"colophon/internal/network"
)

// ListenOptions say how [Listen] treats clients. The zero value is plain HTTP
// without a limit.
type ListenOptions struct {
	TLS *tls.Config // nil is plain HTTP

	// MaxConnections is how many connections may be open at once; one network may
	// have a quarter of them, unless it is in Trusted. 0 is no limit.
	MaxConnections int

	Trusted []netip.Prefix // networks of proxies
	Log     *slog.Logger   // needed with MaxConnections
}

// Listener is an open listener and how it is served.
type Listener struct {
	net.Listener
	options ListenOptions
}

// Listen opens a TCP listener on an address and port. On Linux its connections end
// when a client has acknowledged nothing for 9 seconds.
func Listen(ctx context.Context, address string, o ListenOptions) (*Listener, error) {
	config := net.ListenConfig{Control: control}
	config.SetMultipathTCP(false) // it has no TCP_USER_TIMEOUT
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if o.MaxConnections > 0 {
		l = limitConnections(l, o.MaxConnections, o.Trusted, o.Log)
	}
	return &Listener{l, o}, nil
}

// URL returns the address at which clients reach the listener, without a slash at
// its end.
func (l *Listener) URL() string {
	scheme := "http"
	if l.options.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + l.Addr().String()
}

// Port returns the port that the listener has.
func (l *Listener) Port() string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// IsLocal reports whether only this machine reaches the listener, under the
// machine's own names: over TLS the certificate decides which names are right, and a
// proxy passes on other names.
func (l *Listener) IsLocal() bool {
	return l.options.TLS == nil && len(l.options.Trusted) == 0 && network.IsLoopback(l.Addr().String())
}
