package httpd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// timeouts are the maximum times that a server waits for a client.
type timeouts struct {
	// header bounds the duration of the TLS handshake. It also bounds the time in which
	// the head of a request must arrive.
	header time.Duration

	// idle bounds the time between two requests on a connection.
	idle time.Duration

	// write bounds the time from the request headers to the end of the response. It
	// applies until the handler sets a shorter deadline of its own, within a minute. A
	// handler that streams sets a deadline for each write.
	write time.Duration

	// unacknowledged bounds the time until the client acknowledges sent data. Without
	// this timeout a write fails only when the kernel's buffers are full. A stream may
	// never fill these buffers. Only Linux has this timeout.
	unacknowledged time.Duration
}

var productionTimeouts = timeouts{
	header:         10 * time.Second,
	idle:           2 * time.Minute,
	write:          3 * time.Minute,
	unacknowledged: 9 * time.Second,
}

// maxHeader is the maximum size of a request's head, in bytes. Package net/http answers a
// larger head with 431.
const maxHeader = 32 << 10

// newServer returns a server that limits the resources of each client.
func newServer(ctx context.Context, handler http.Handler, t timeouts, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           closeAmbiguous(handler),
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ReadHeaderTimeout: t.header,
		WriteTimeout:      t.write,
		IdleTimeout:       t.idle,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// With this option the handler also answers OPTIONS *.
		DisableGeneralOptionsHandler: true,
		// A client that stops reading or does not answer pings loses its connection.
		// All streams of the connection end too.
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 100,
			MaxReadFrameSize:     16 << 10, // the protocol's default; net/http allows a megabyte
			SendPingTimeout:      15 * time.Second,
			PingTimeout:          10 * time.Second,
			WriteByteTimeout:     10 * time.Second,
		},
	}
}

// closeAmbiguous closes the connection after each request whose end is ambiguous. A proxy
// in front may see the end of such a request at another byte (RFC 9112, 6.1 and 6.3). An
// ambiguous request has both Transfer-Encoding and Content-Length, or has Transfer-Encoding
// in HTTP/1.0. Package net/http removes one of the headers before a handler sees the
// request. So closeAmbiguous treats every chunked request and every HTTP/1.0 request as
// ambiguous.
func closeAmbiguous(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 && (r.ProtoMinor == 0 || len(r.TransferEncoding) > 0) {
			w.Header().Set("Connection", "close")
		}
		handler.ServeHTTP(w, r)
	})
}

// Servers are the HTTP servers of one process. The methods are not safe for concurrent use.
type Servers struct {
	ctx    context.Context
	log    *slog.Logger
	all    []*http.Server
	failed chan error
}

// NewServers returns an empty set of servers. The context of a request has the values of
// ctx, but the end of ctx does not end the request. Only [Servers.Shutdown] and
// [Servers.Close] end requests.
func NewServers(ctx context.Context, log *slog.Logger) *Servers {
	return &Servers{ctx: ctx, log: log, failed: make(chan error, 1)}
}

// Serve serves a listener in the background. It uses TLS if the listener's options have a
// TLS configuration.
func (s *Servers) Serve(l *Listener, handler http.Handler) {
	srv := newServer(s.ctx, handler, l.options.timeouts, s.log)
	srv.TLSConfig = l.options.TLS
	s.all = append(s.all, srv)
	go func() {
		var err error
		if srv.TLSConfig == nil {
			err = srv.Serve(l)
		} else {
			err = srv.ServeTLS(l, "", "")
		}
		select {
		case s.failed <- err:
		default: // an earlier error is in the channel
		}
	}()
}

// Failed returns a channel that receives the error of the first server that ended. After a
// Shutdown or a Close the error is [http.ErrServerClosed].
func (s *Servers) Failed() <-chan error { return s.failed }

// Shutdown closes the listeners and waits until all requests have been answered. If ctx
// is done first, Shutdown closes the remaining connections and returns an error.
func (s *Servers) Shutdown(ctx context.Context) error {
	errs := make([]error, len(s.all))
	var wg sync.WaitGroup
	for i, srv := range s.all {
		wg.Go(func() {
			if errs[i] = srv.Shutdown(ctx); errs[i] != nil {
				_ = srv.Close()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close closes the listeners and all connections. After a Shutdown it does nothing.
func (s *Servers) Close() {
	for _, srv := range s.all {
		_ = srv.Close()
	}
}
