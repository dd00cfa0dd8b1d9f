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

const (
	// headerTimeout bounds the TLS handshake, and then the head of a request.
	headerTimeout = 10 * time.Second

	// idleTimeout is how long a connection stays open between requests.
	idleTimeout = 2 * time.Minute

	// writeTimeout bounds everything from the head of a request to the end of the
	// response. Handlers set shorter times when they begin, and streams one for each
	// write. No handler waits for longer than a minute before it begins.
	writeTimeout = 3 * time.Minute

	// maxHeader bounds the head of a request, in bytes; above it net/http answers 431.
	maxHeader = 32 << 10
)

// newServer returns a server with bounds on what one client may use.
func newServer(ctx context.Context, handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ReadHeaderTimeout: headerTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// The handler answers OPTIONS * like everything else.
		DisableGeneralOptionsHandler: true,
		// A client that reads nothing, or says nothing for long, loses its connection
		// and with it all of its streams.
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 100,
			MaxReadFrameSize:     16 << 10, // the protocol's own; net/http would take a megabyte
			SendPingTimeout:      15 * time.Second,
			PingTimeout:          10 * time.Second,
			WriteByteTimeout:     10 * time.Second,
		},
	}
}

// Servers are the HTTP servers of one process. Its methods are not safe for concurrent
// use.
type Servers struct {
	ctx    context.Context
	log    *slog.Logger
	all    []*http.Server
	failed chan error
}

// NewServers returns no servers yet. Requests carry ctx's values and not its end:
// only [Servers.Shutdown] and [Servers.Close] end them.
func NewServers(ctx context.Context, log *slog.Logger) *Servers {
	return &Servers{ctx: ctx, log: log, failed: make(chan error, 1)}
}

// Serve serves a listener in the background, over TLS if it was opened with it.
func (s *Servers) Serve(l *Listener, handler http.Handler) {
	srv := newServer(s.ctx, handler, s.log)
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
		default: // only the first one is reported
		}
	}()
}

// Failed receives what ended the first server that ended. After a Shutdown or a Close
// that is [http.ErrServerClosed].
func (s *Servers) Failed() <-chan error { return s.failed }

// Shutdown closes the listeners and waits until all requests have been answered. When
// ctx ends first, it cuts the remaining connections and returns an error.
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

// Close closes the listeners and cuts all connections. After a Shutdown it does nothing.
func (s *Servers) Close() {
	for _, srv := range s.all {
		_ = srv.Close()
	}
}
