package api

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

type healthOutput struct {
	Body struct {
		Status string `json:"status" enum:"ok"`
	}
}

func (s *server) health() {
	// Whoever keeps processes alive may ask from an address that others flood from.
	register(s, huma.Operation{
		OperationID: "healthz", Method: http.MethodGet, Path: "/healthz", Tags: []string{"service"},
		Summary:     "Whether the process is alive",
		Description: "Under no limit.",
		Metadata:    limited(uncounted),
	}, func(context.Context, *struct{}) (*healthOutput, error) {
		out := &healthOutput{}
		out.Body.Status = "ok"
		return out, nil
	})
	register(s, huma.Operation{
		OperationID: "readyz", Method: http.MethodGet, Path: "/readyz", Tags: []string{"service"},
		Summary:     "Whether requests can be served now",
		Description: "503 while the database does not answer, and from the moment on that the service is told to stop. Under no limit: the database is asked once a second at the most.",
		Metadata:    limited(uncounted),
	}, func(ctx context.Context, _ *struct{}) (*healthOutput, error) {
		if !s.ready(ctx) {
			return nil, newProblem(http.StatusServiceUnavailable, "not_ready", "the service cannot serve requests at the moment: try again").retryAfter(beat)
		}
		out := &healthOutput{}
		out.Body.Status = "ok"
		return out, nil
	})
}

const (
	// readyTimeout is how long the database may take to answer: who asks whether
	// this process is ready has little patience.
	readyTimeout = 2 * time.Second

	// readyFor is how long its answer holds, for whoever asks.
	readyFor = time.Second
)

// readiness is what the database has answered.
type readiness struct {
	mu    sync.Mutex // held while it is asked
	until time.Time
	ok    bool
}

// ready reports whether requests can be served.
func (s *server) ready(ctx context.Context) bool {
	if s.Stopping.Err() != nil {
		return false
	}
	s.looked.mu.Lock()
	defer s.looked.mu.Unlock()
	if time.Now().Before(s.looked.until) {
		return s.looked.ok
	}
	// Others will be told the same: it is not to hang on this client's patience.
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
	defer cancel()
	err := s.Ready(asking)
	if err != nil {
		s.Log.WarnContext(ctx, "not ready", "request", requestID(ctx), "err", err)
	}
	s.looked.ok, s.looked.until = err == nil, time.Now().Add(readyFor)
	return s.looked.ok
}
