package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"colophon/test/apitest"
)

// TestTwoProcessesCountTogether floods two API processes over one database.
func TestTwoProcessesCountTogether(t *testing.T) {
	const most, requests = 7, 30
	m := newMembers(t)
	serve := func() *process {
		return start(t, m.env, "api", "--listen", "127.0.0.1:0", "--limit-jobs", fmt.Sprintf("%d/1h", most), "--limit-anonymous", "3/1h")
	}
	first, second := serve(), serve()
	c := m.client(first, "flooder")
	var accepted atomic.Int32
	var wg sync.WaitGroup
	for i := range requests {
		wg.Go(func() {
			user := apitest.Client{T: apitest.Beside(t), URL: []string{first.url, second.url}[i%2], Access: c.Access}
			a := user.Do("POST", "/jobs", `{"prompt":"Light","max_length":10}`)
			if a.Status == 202 {
				accepted.Add(1)
				return
			}
			a.Refused(user.T, 429, "rate_limit_exceeded")
		})
	}
	wg.Wait()
	if n := accepted.Load(); n != most {
		t.Errorf("two processes accepted %d jobs, want %d", n, most)
	}
	// What reaches no user is each process's own, and works without a database.
	m.pg.stop()
	for _, p := range []*process{first, second} {
		stranger := anyone(t, p.url)
		for range 3 {
			stranger.Do("GET", "/docs", "").Must(t, 200)
		}
		stranger.Do("GET", "/docs", "").Refused(t, 429, "rate_limit_exceeded")
		stranger.As(c.Access).Do("GET", "/history", "").Refused(t, 503, "unavailable")
	}
}
