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
	register(s, huma.Operation{
		OperationID: "healthz", Method: http.MethodGet, Path: "/healthz", Tags: []string{"service"},
		Summary: "Whether the process is alive",
	}, func(context.Context, *struct{}) (*healthOutput, error) {
		out := &healthOutput{}
		out.Body.Status = "ok"
		return out, nil
	})
	register(s, huma.Operation{
		OperationID: "readyz", Method: http.MethodGet, Path: "/readyz", Tags: []string{"service"},
		Summary:     "Whether requests can be served now",
		Description: "503 while the database does not answer, and from the moment on that the service is told to stop.",
	}, func(ctx context.Context, _ *struct{}) (*healthOutput, error) {
		ctx, cancel := context.WithTimeout(ctx, readyTimeout)
		defer cancel()
		if err := s.ready(ctx); err != nil {
			s.Log.WarnContext(ctx, "not ready", "request", requestID(ctx), "err", err)
			return nil, newProblem(http.StatusServiceUnavailable, "not_ready", "the service cannot serve requests at the moment: try again").retryAfter(beat)
		}
		out := &healthOutput{}
		out.Body.Status = "ok"
		return out, nil
	})
}

// readyTimeout is how long the database may take to answer: who asks whether
// this process is ready has little patience.
const readyTimeout = 2 * time.Second

// ready returns nil while requests can be served.
func (s *server) ready(ctx context.Context) error {
	if s.Stopping.Err() != nil {
		return errStopping
	}
	return s.Ready(ctx)
}
