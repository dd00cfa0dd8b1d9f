package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

const (
	// headerTimeout is how long a client may take to send the head of a request, and
	// before that to agree on TLS.
	headerTimeout = 10 * time.Second

	// idleTimeout is how long a connection stays open between requests.
	idleTimeout = 2 * time.Minute

	// longestAnswer bounds everything from the head of a request to the end of the
	// answer. Answers set shorter times when they begin, and streams one for each
	// write; see api. Nobody waits for longer than a minute before.
	longestAnswer = 3 * time.Minute

	// maxHeader bounds the head of a request, in bytes; above it net/http answers 431.
	maxHeader = 32 << 10

	// maxAllStreams bounds the event streams of a process, some 35 kB each: over
	// HTTP/2 there are many to a connection.
	maxAllStreams = 10_000
)

// newServer returns a server with bounds on what a client may take of it.
func newServer(ctx context.Context, handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ReadHeaderTimeout: headerTimeout,
		WriteTimeout:      longestAnswer,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// OPTIONS * is answered like everything else.
		DisableGeneralOptionsHandler: true,
		// A client that takes nothing of what is sent, or says nothing for long, loses
		// its connection and with it all of its streams.
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 100,
			MaxReadFrameSize:     16 << 10, // the protocol's own; net/http would take a megabyte
			SendPingTimeout:      15 * time.Second,
			PingTimeout:          10 * time.Second,
			WriteByteTimeout:     10 * time.Second,
		},
	}
}

// servers are those of one process.
type servers struct {
	ctx    context.Context
	log    *slog.Logger
	all    []*http.Server
	failed chan error // holds what has ended one of them
}

func newServers(ctx context.Context, log *slog.Logger) *servers {
	return &servers{ctx: ctx, log: log, failed: make(chan error, 1)}
}

// add serves a listener, over TLS if there is a configuration for it.
func (s *servers) add(handler http.Handler, listener net.Listener, config *tls.Config) {
	srv := newServer(s.ctx, handler, s.log)
	srv.TLSConfig = config
	s.all = append(s.all, srv)
	go func() {
		var err error
		if config == nil {
			err = srv.Serve(listener)
		} else {
			err = srv.ServeTLS(listener, "", "")
		}
		select {
		case s.failed <- err:
		default: // the first one counts
		}
	}()
}

// shutdown lets the servers answer what they have until ctx is done, and then cuts
// the rest.
func (s *servers) shutdown(ctx context.Context) error {
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

// close cuts what there is.
func (s *servers) close() {
	for _, srv := range s.all {
		_ = srv.Close()
	}
}

// front is where clients reach the service.
type front struct {
	public   net.Listener
	redirect net.Listener // nil if there is none
	secured  *secured     // nil without TLS
}

// listen opens a listener whose connections end when a client takes nothing.
func listen(ctx context.Context, flag, address string) (net.Listener, error) {
	config := net.ListenConfig{Control: control}
	config.SetMultipathTCP(false) // it knows no TCP_USER_TIMEOUT
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return listener, nil
}

// front opens what the flags ask for. Close it.
func (f *listenFlags) front(ctx context.Context, s *secured, log *slog.Logger) (at *front, err error) {
	at = &front{secured: s}
	if at.public, err = listen(ctx, "--listen", f.Listen); err != nil {
		return nil, err
	}
	if f.RedirectListen != "" {
		if at.redirect, err = listen(ctx, "--redirect-listen", f.RedirectListen); err != nil {
			at.close()
			return nil, err
		}
	}
	if f.MaxConnections > 0 {
		at.public = newCrowd(at.public, int(f.MaxConnections), f.trusted(), log)
		if at.redirect != nil {
			at.redirect = newCrowd(at.redirect, int(f.MaxConnections), f.trusted(), log)
		}
	}
	return at, nil
}

func (at *front) close() {
	at.public.Close()
	if at.redirect != nil {
		at.redirect.Close()
	}
}

func (at *front) tls() *tls.Config {
	if at.secured == nil {
		return nil
	}
	return at.secured.config
}

func (at *front) port() string {
	_, port, _ := net.SplitHostPort(at.public.Addr().String())
	return port
}

// local reports whether only this machine reaches the service, with no proxy in
// front of it; over TLS no other name than the certificate's does.
func (at *front) local(proxies []netip.Prefix) bool {
	return at.secured == nil && len(proxies) == 0 && loopback(at.public.Addr().String())
}

func (at *front) url() string {
	scheme := "http"
	if at.secured != nil {
		scheme = "https"
	}
	return scheme + "://" + at.public.Addr().String()
}
