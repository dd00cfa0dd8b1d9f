package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"colophon/internal/pg"
)

type healthOutput struct {
	Body struct {
		Status string `json:"status" enum:"ok" doc:"ok, in every answer with this form."`
	}
}

type readyOutput struct {
	Body struct {
		Status   string   `json:"status" enum:"ok" doc:"ok, in every answer with this form."`
		Warnings []string `json:"warnings,omitempty" doc:"What the operator should change, although requests can be served."`
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
		Description: "503 while the database does not answer, accepts no writes or lacks resources, and once the service has been told to stop. Not limited: the database is queried at most once a second.",
		Metadata:    limited(uncounted),
	}, func(ctx context.Context, _ *struct{}) (*readyOutput, error) {
		warnings, err := s.ready(ctx)
		if err != nil {
			return nil, notReady(err)
		}
		out := &readyOutput{}
		out.Body.Status, out.Body.Warnings = "ok", warnings
		return out, nil
	})
}

const (
	// readyTimeout bounds the wait for the database's answer, because readiness probes do
	// not wait long.
	readyTimeout = 2 * time.Second

	// readyFor is the time for which all probes share one answer of the database.
	readyFor = time.Second

	// stateFor is the time for which the service is not ready after a request has met an
	// exhausted database. A probe cannot see that state, because only some statements
	// fail.
	stateFor = 5 * time.Second
)

// ready returns no error if requests can be served, and the warnings for the operator.
func (s *server) ready(ctx context.Context) (warnings []string, err error) {
	if s.Stopping.Err() != nil {
		return nil, errStopping
	}
	warnings, err = s.readiness.Do(ctx, "readiness", s.Ready)
	if at := s.exhausted.Load(); err == nil && at != nil && time.Since(*at) < stateFor {
		err = pg.ErrExhausted
	}
	if err != nil && ctx.Err() == nil { // the client is still connected
		s.Log.WarnContext(ctx, "not ready", "request", requestID(ctx), "err", err)
	}
	return warnings, err
}

// met records the time if the state of the database that a request has met is
// ErrExhausted.
func (s *server) met(state error) {
	if errors.Is(state, pg.ErrExhausted) {
		now := time.Now()
		s.exhausted.Store(&now)
	}
}

// notReady returns the answer to a probe. It names the state of the database, for the
// operator who reads the probe.
func notReady(err error) *Problem {
	detail := tryAgain
	if state := pg.State(err); state != nil {
		detail = cannotServe + ": " + state.Error()
	}
	return newProblem(http.StatusServiceUnavailable, "not_ready", detail).retryAfter(beat)
}
