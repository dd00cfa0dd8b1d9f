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
	// The probes have no limit, because an orchestrator may have the same address as a
	// client that floods the service.
	register(s, huma.Operation{
		OperationID: "healthz", Method: http.MethodGet, Path: "/healthz", Tags: []string{"service"},
		Summary:     "Check that the process is alive",
		Description: "Not limited.",
		Metadata:    limited(uncounted),
	}, func(context.Context, *struct{}) (*healthOutput, error) {
		out := &healthOutput{}
		out.Body.Status = "ok"
		return out, nil
	})
	register(s, huma.Operation{
		OperationID: "readyz", Method: http.MethodGet, Path: "/readyz", Tags: []string{"service"},
		Summary:     "Check that requests can be served",
		Description: "503 while the database does not answer, and once the service has been told to stop. Not limited: the database is queried at most once a second.",
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
	// readyTimeout bounds the wait for the database's answer, because readiness probes do
	// not wait long.
	readyTimeout = 2 * time.Second

	// readyFor is the time for which all probes share one answer of the database.
	readyFor = time.Second
)

// ready reports whether requests can be served.
func (s *server) ready(ctx context.Context) bool {
	if s.Stopping.Err() != nil {
		return false
	}
	_, err := s.readiness.Do(ctx, "readiness", func(ctx context.Context) (none struct{}, err error) {
		return none, s.Ready(ctx)
	})
	if err != nil && ctx.Err() == nil { // the client is still connected
		s.Log.WarnContext(ctx, "not ready", "request", requestID(ctx), "err", err)
	}
	return err == nil
}
