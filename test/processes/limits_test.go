package processes

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

// TestProcessesCountRequestsTogether floods two API processes over one database. Both
// processes together must accept no more jobs than the limit.
func TestProcessesCountRequestsTogether(t *testing.T) {
	t.Parallel()
	const limit, requests = 7, 30
	server := newServer(t)
	m := &members{t, server.URL(), []string{"DATABASE_URL=" + server.URL(), "COLOPHON_DATA=" + t.TempDir()}}
	flags := []string{"--limit-jobs", fmt.Sprintf("%d/1h", limit), "--limit-anonymous", "3/1h"}
	first, second := m.api(flags...), m.api(flags...)
	c := newUser(t, first.URL, "flooder")
	var accepted atomic.Int32
	var wg sync.WaitGroup
	for i := range requests {
		wg.Go(func() {
			user := apitest.Client{T: apitest.Beside(t), URL: []string{first.URL, second.URL}[i%2], Access: c.Access}
			a := user.Do("POST", "/jobs", `{"prompt":"Light","max_length":10}`)
			if a.Status == 202 {
				accepted.Add(1)
				return
			}
			a.Refused(user.T, 429, "rate_limit_exceeded")
		})
	}
	wg.Wait()
	if n := accepted.Load(); n != limit {
		t.Errorf("two processes accepted %d jobs, want %d", n, limit)
	}
	// Each process must count anonymous requests for itself, even without a database.
	server.Stop()
	for _, p := range []*programtest.Process{first, second} {
		stranger := apitest.Client{T: t, URL: p.URL}
		for range 3 {
			stranger.Do("GET", "/docs", "").Must(t, 200)
		}
		stranger.Do("GET", "/docs", "").Refused(t, 429, "rate_limit_exceeded")
		stranger.As(c.Access).Do("GET", "/history", "").Refused(t, 503, "unavailable")
	}
}

// TestEverySlotRunsAJob submits one job for each slot of a worker before the worker
// starts. All jobs must run at once. A job that only waited in its slot would hold a
// lease and use up its deadline.
func TestEverySlotRunsAJob(t *testing.T) {
	t.Parallel()
	const slots = 20
	m := newMembers(t)
	c := newUser(t, m.api("--no-rate-limits").URL, "slotted")
	var ids []string
	var watched []<-chan event
	for seed := range slots {
		ids = append(ids, c.Submit(sized(seed, 900)))
		watched = append(watched, c.watch(ids[seed]))
	}
	m.worker("--slots", strconv.Itoa(slots))
	for i, events := range watched {
		next(t, events, advanced)
		t.Logf("job %d has a token", i)
	}
	var running int
	if m.query(`select count(*) from history where state = 'running'`, &running); running != slots {
		t.Errorf("%d jobs are running, want %d", running, slots)
	}
	for _, id := range ids {
		c.Do("POST", "/jobs/"+id+"/cancel", "").Must(t, 200)
	}
}
