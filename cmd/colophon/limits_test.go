package main

import (
	"strconv"
	"strings"
	"testing"
)

// TestWhatIsTooMuchIsRefused asks a service without a worker, where jobs stay queued.
func TestWhatIsTooMuchIsRefused(t *testing.T) {
	s := serving(t, "api", dataDir(t), "--no-rate-limits", "--max-outstanding-jobs", "2", "--max-queued-jobs", "3", "--token-budget", "250")
	c := newUser(t, s, "flooder")
	refused := func(a answer, status int, code string, most int) problem {
		t.Helper()
		p := a.refused(t, status)
		if p.Error.Code == nil || *p.Error.Code != code {
			t.Errorf("%+v, want %s", p, code)
		}
		after := a.header.Get("Retry-After")
		if n, err := strconv.Atoi(after); most == 0 && after != "" || most > 0 && (err != nil || n < 1 || n > most) {
			t.Errorf("%s: Retry-After %q", code, after)
		}
		return p
	}
	const body = `{"prompt":"The nature of light","max_new_tokens":50}`
	j := c.submit(body)
	c.submit(body)
	refused(c.do("POST", "/jobs", body), 429, "too_many_jobs", 60)
	refused(c.do("POST", "/generate", body), 429, "too_many_jobs", 60)
	c.do("POST", "/jobs/"+j.ID+"/cancel", "").must(t, 200)
	p := refused(c.do("POST", "/jobs", `{"prompt":"The nature of light","max_new_tokens":220}`), 429, "token_budget_spent", 24*60*60)
	if !strings.Contains(p.Detail, "250") || p.Error.Type != "rate_limit_error" {
		t.Errorf("%+v", p)
	}
	refused(c.do("POST", "/jobs", `{"prompt":"The nature of light","max_new_tokens":1000}`), 422, "over_token_budget", 0)
	other := newUser(t, s, "other")
	for range 2 { // the second one may find the one that was cancelled still counted
		if a := other.do("POST", "/jobs", body); a.status != 503 {
			a.must(t, 202)
		}
	}
	refused(other.do("POST", "/jobs", body), 503, "queue_full", 60)
}
