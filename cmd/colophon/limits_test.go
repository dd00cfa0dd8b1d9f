package main

import (
	"strconv"
	"strings"
	"testing"

	"colophon/internal/pg/pgtest"
	"colophon/test/apitest"
)

// TestRequestsOverTheLimitsAreRefused exceeds each limit on jobs and streams. Each
// refusal must have the code of that limit. The service has no worker, so that jobs stay
// queued.
func TestRequestsOverTheLimitsAreRefused(t *testing.T) {
	t.Parallel()
	pgtest.OneDay(t)
	s := serve(t, "api", "--no-rate-limits", "--max-outstanding-jobs", "2", "--max-queued-jobs", "3", "--token-budget", "250", "--max-streams", "1")
	c := newUser(t, s.url, "busy")
	refused := func(a apitest.Answer, status int, code string, maxWait int) apitest.Problem {
		t.Helper()
		p := a.Refused(t, status, code)
		after := a.Header.Get("Retry-After")
		if n, err := strconv.Atoi(after); maxWait == 0 && after != "" || maxWait > 0 && (err != nil || n < 1 || n > maxWait) {
			t.Errorf("%s: Retry-After %q", code, after)
		}
		return p
	}
	const body = `{"prompt":"The nature of light","max_new_tokens":50}`
	first := c.Submit(body)
	c.Submit(body)
	for range c.Stream(t.Context(), "/jobs/"+first+"/events") {
		break // the stream stays open until the test ends
	}
	refused(c.Do("GET", "/jobs/"+first+"/events", "", "Accept", "text/event-stream"), 429, "too_many_streams", 60)
	refused(c.Do("POST", "/jobs", body), 429, "too_many_jobs", 60)
	refused(c.Do("POST", "/generate", body), 429, "too_many_jobs", 60)
	c.Do("POST", "/jobs/"+first+"/cancel", "").Must(t, 200)
	p := refused(c.Do("POST", "/jobs", `{"prompt":"The nature of light","max_new_tokens":220}`), 429, "token_budget_spent", 24*60*60)
	if !strings.Contains(p.Detail, "250") || p.Error.Type != "rate_limit_error" {
		t.Errorf("%+v", p)
	}
	refused(c.Do("POST", "/jobs", `{"prompt":"The nature of light","max_new_tokens":1000}`), 422, "over_token_budget", 0)
	other, accepted := newUser(t, s.url, "other"), 0
	eventually(t, "the queue no longer counts the cancelled job", func() bool { // it counts once a second
		a := other.Do("POST", "/jobs", body)
		if a.Status == 503 {
			return false
		}
		accepted++
		a.Must(t, 202)
		return accepted == 2
	})
	refused(other.Do("POST", "/jobs", body), 503, "queue_full", 60)
}
