//go:build !race

// With the race detector the model is a hundred times slower, so 200 texts take minutes.
// The race detector sees the same code in the other tests, which also run it
// concurrently.

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"colophon/client"
	"colophon/test/apitest"
)

// TestConcurrentRequestsAreServedInOrder sends 200 requests at once. Meanwhile it reads
// other pages whenever the service has answered a request. All requests must complete, in
// the order of acceptance.
func TestConcurrentRequestsAreServedInOrder(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits")
	c := apitest.NewUser(t, s.URL, "many")
	const requests = 200
	var wg sync.WaitGroup
	states := make([]string, requests)
	started, answered := make(chan struct{}), make(chan struct{}, 1)
	for i := range requests {
		wg.Go(func() {
			<-started
			defer func() {
				select {
				case answered <- struct{}{}:
				default: // the test is reading the pages
				}
			}()
			a, err := c.Send(t.Context(), "POST", "/generate", `{"prompt":"The nature of light is","max_length":40}`, "Prefer", "wait=60")
			var j client.Job
			if err != nil || a.Status != 200 || json.Unmarshal(a.Body, &j) != nil {
				states[i] = fmt.Sprintf("%d %s %v", a.Status, a.Body, err)
				return
			}
			states[i] = string(j.State)
		})
	}
	close(started)
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	reads := 0
	for working := true; working; reads++ {
		c.Do("GET", "/healthz", "").Must(t, 200)
		c.Do("GET", "/docs", "").Must(t, 200)
		select {
		case <-done:
			working = false
		case <-answered:
		}
	}
	if reads < 10 {
		t.Errorf("only %d reads of other pages while the model worked", reads)
	}
	for i, state := range states {
		if state != "completed" {
			t.Errorf("request %d: %s", i, state)
		}
	}
	// Jobs must start in the order of acceptance. The only exception is that eight jobs
	// run at once.
	type text struct {
		ID        string
		StartedAt time.Time `json:"started_at"`
	}
	var history []text
	for path := "/history?limit=100"; path != ""; {
		var page []text
		a := c.Do("GET", path, "").Must(t, 200)
		a.Into(t, &page)
		history = append(history, page...)
		path, _, _ = strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">")
	}
	if len(history) != requests {
		t.Fatalf("%d texts in the history", len(history))
	}
	slices.Reverse(history) // the history begins with the latest job
	byStart := slices.Clone(history)
	slices.SortStableFunc(byStart, func(a, b text) int { return a.StartedAt.Compare(b.StartedAt) })
	distance := 0
	for started, j := range byStart {
		accepted := slices.Index(history, j)
		distance += max(accepted-started, started-accepted)
	}
	// A job that is slow to commit may start after many jobs that were accepted later.
	// But not all jobs can be slow, so the average distance must be small.
	if distance > requests*2*8 {
		t.Errorf("on average a job started %d positions away from its turn", distance/requests)
	}
}
