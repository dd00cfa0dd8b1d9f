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

// timeouts say how long a server waits for one client.
type timeouts struct {
	// header bounds the TLS handshake, and separately the head of each request.
	header time.Duration

	// idle bounds the time between two requests of a connection.
	idle time.Duration

	// write bounds the time from the head of a request to the end of the response.
	// Handlers begin within a minute. They set shorter deadlines then, and streams set
	// one for each write.
	write time.Duration

	// unacknowledged bounds how long sent data may wait for the client to acknowledge
	// it. A write fails only once the kernel's buffers are full, and a stream may never
	// fill them. Only Linux has this timeout.
	unacknowledged time.Duration
}

var productionTimeouts = timeouts{
	header:         10 * time.Second,
	idle:           2 * time.Minute,
	write:          3 * time.Minute,
	unacknowledged: 9 * time.Second,
}

// maxHeader bounds the head of a request, in bytes; above it net/http answers 431.
const maxHeader = 32 << 10

// newServer returns a server with bounds on what one client may use.
func newServer(ctx context.Context, handler http.Handler, t timeouts, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           closeAmbiguous(handler),
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ReadHeaderTimeout: t.header,
		WriteTimeout:      t.write,
		IdleTimeout:       t.idle,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// The handler answers OPTIONS * too.
		DisableGeneralOptionsHandler: true,
		// A client that stops reading or stays silent for long loses its connection,
		// and all streams of the connection with it.
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 100,
			MaxReadFrameSize:     16 << 10, // the protocol's default; net/http allows a megabyte
			SendPingTimeout:      15 * time.Second,
			PingTimeout:          10 * time.Second,
			WriteByteTimeout:     10 * time.Second,
		},
	}
}

// closeAmbiguous ends the connection after each request whose end a proxy in front may
// see elsewhere (RFC 9112, 6.1 and 6.3). These have both Transfer-Encoding and
// Content-Length, or Transfer-Encoding in HTTP/1.0. net/http removes the second header
// before a handler sees it, so each chunked request and each of HTTP/1.0 counts.
func closeAmbiguous(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 && (r.ProtoMinor == 0 || len(r.TransferEncoding) > 0) {
			w.Header().Set("Connection", "close")
		}
		handler.ServeHTTP(w, r)
	})
}

// Servers are the HTTP servers of one process. Their methods are not safe for concurrent
// use.
type Servers struct {
	ctx    context.Context
	log    *slog.Logger
	all    []*http.Server
	failed chan error
}

// NewServers returns an empty set of servers. Requests have the values of ctx but not its
// cancellation: only [Servers.Shutdown] and [Servers.Close] end them.
func NewServers(ctx context.Context, log *slog.Logger) *Servers {
	return &Servers{ctx: ctx, log: log, failed: make(chan error, 1)}
}

// Serve serves a listener in the background, over TLS if its options say so.
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
		default: // an earlier error is reported
		}
	}()
}

// Failed receives the error of the first server that ended. After a Shutdown or a Close
// the error is [http.ErrServerClosed].
func (s *Servers) Failed() <-chan error { return s.failed }

// Shutdown closes the listeners and waits until all requests have been answered. When
// ctx is done first, it closes the remaining connections and returns an error.
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
