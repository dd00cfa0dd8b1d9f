package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
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
			SendPingTimeout:      15 * time.Second,
			PingTimeout:          10 * time.Second,
			WriteByteTimeout:     10 * time.Second,
		},
	}
}
