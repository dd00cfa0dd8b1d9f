package api

import (
	"context"
	"net/http"

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
		Summary: "Whether requests can be served now",
	}, func(ctx context.Context, _ *struct{}) (*healthOutput, error) {
		if err := s.Ready(ctx); err != nil {
			s.Log.WarnContext(ctx, "not ready", "request", requestID(ctx), "err", err)
			return nil, newProblem(http.StatusServiceUnavailable, "not_ready", "the service cannot serve requests at the moment: try again").retryAfter(beat)
		}
		out := &healthOutput{}
		out.Body.Status = "ok"
		return out, nil
	})
}
