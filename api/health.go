package api

import (
	"context"
	"net/http"
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
	// readyTimeout is how long the database may take to answer: probes of
	// readiness do not wait long.
	readyTimeout = 2 * time.Second

	// readyFor is how long its answer holds, for all probes.
	readyFor = time.Second
)

// ready reports whether requests can be served.
func (s *server) ready(ctx context.Context) bool {
	if s.Stopping.Err() != nil {
		return false
	}
	_, err := s.readiness.Do(ctx, "readiness", func(ctx context.Context) (none struct{}, err error) {
		if err = s.Ready(ctx); err != nil {
			s.Log.WarnContext(ctx, "not ready", "request", requestID(ctx), "err", err)
		}
		return none, err
	})
	return err == nil
}
