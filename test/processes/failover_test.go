package processes

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"colophon/internal/pg/pgtest"
	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

// TestFailoverLosesNoAcceptedJob kills the primary while clients submit jobs, and promotes
// its synchronous standby. Every job with an answer of 202 must complete.
// COLOPHON_TEST_FAILOVER_JOBS sets the number of accepted jobs, 300 by default.
func TestFailoverLosesNoAcceptedJob(t *testing.T) {
	slow(t)
	t.Parallel()
	failover(t, 5*time.Second, (*pgtest.Server).Kill)
}

// TestFailoverFromASilentServer is like TestFailoverLosesNoAcceptedJob, but the primary
// freezes, so the connections to it never end. The test takes half a minute, so it runs only
// if COLOPHON_TEST_FAILOVER_JOBS is set.
func TestFailoverFromASilentServer(t *testing.T) {
	if os.Getenv("COLOPHON_TEST_FAILOVER_JOBS") == "" {
		t.Skip("COLOPHON_TEST_FAILOVER_JOBS is not set")
	}
	t.Parallel()
	failover(t, 5*time.Second, func(s *pgtest.Server) { s.Freeze() })
}

// failover ends the primary. The service must accept jobs again within the given time of
// the promotion.
func failover(t *testing.T, within time.Duration, end func(primary *pgtest.Server)) {
	t.Helper()
	jobs := 300
	if n, err := strconv.Atoi(os.Getenv("COLOPHON_TEST_FAILOVER_JOBS")); err == nil {
		jobs = n
	}
	primary := newServer(t)
	standby := primary.Standby()
	url := pgtest.AnyOf(primary, standby)
	m := &members{t, url, []string{"DATABASE_URL=" + url, "COLOPHON_DATA=" + t.TempDir()}}
	api, worker := m.api("--no-rate-limits", "--max-outstanding-jobs=0"), m.worker()
	c := newUser(t, api.URL, "promoted")

	const warning = "waits for no standby"
	if body := string(c.Do("GET", "/readyz", "").Must(t, 200).Body); !strings.Contains(body, warning) {
		t.Errorf("with an asynchronous standby, /readyz answers %s", body)
	}
	for _, p := range []*programtest.Process{api, worker} {
		p.Await("only asynchronous standbys")
	}
	primary.WaitForStandby()
	programtest.Eventually(t, "/readyz without a warning", func() bool {
		return !strings.Contains(string(c.Do("GET", "/readyz", "").Must(t, 200).Body), warning)
	})

	var mu sync.Mutex
	var ids []string
	var promoted, back time.Time // back is the time of the first answer of 202 after the promotion
	half := make(chan struct{})
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			c := c
			c.T = apitest.Beside(t)
			for seed := 0; ; seed++ {
				a := c.Do("POST", "/jobs", sized(seed, 2))
				mu.Lock()
				switch {
				case len(ids) >= jobs && !back.IsZero():
					mu.Unlock()
					return
				case a.Status == 202:
					if ids = append(ids, strings.TrimPrefix(a.Header.Get("Location"), "/jobs/")); len(ids) == jobs/2 {
						close(half)
					}
					if !promoted.IsZero() && back.IsZero() {
						back = time.Now()
					}
				case a.Status != 503 || a.Header.Get("Retry-After") == "":
					t.Errorf("a job was answered %d with Retry-After %q: %s", a.Status, a.Header.Get("Retry-After"), a.Body)
				}
				mu.Unlock()
			}
		})
	}
	<-half
	end(primary)
	standby.Promote()
	mu.Lock()
	promoted = time.Now()
	mu.Unlock()
	clients.Wait()
	t.Logf("first job accepted %s after the promotion", back.Sub(promoted))
	if took := back.Sub(promoted); took > within {
		t.Errorf("the service was back %s after the promotion", took)
	}
	var unfinished []string
	programtest.Eventually(t, "every accepted job has completed", func() bool {
		var known int
		standby.Query(`select count(*) from history where job = any('{`+strings.Join(ids, ",")+`}')`, &known)
		if known != len(ids) {
			t.Fatalf("%d of %d accepted jobs are lost", len(ids)-known, len(ids))
		}
		standby.Query(`select array_agg(job::text) from history where job = any('{`+strings.Join(ids, ",")+`}') and state <> 'completed'`, &unfinished)
		return len(unfinished) == 0
	})
	for line := range strings.Lines(api.Log()) {
		if strings.Contains(line, "request failed") {
			t.Error(line)
		}
	}
	c.Do("GET", "/readyz", "").Must(t, 200)
	t.Logf("%d accepted jobs completed %s after the promotion", len(ids), time.Since(promoted))

	// The new primary becomes read-only while clients are connected to it, as after a
	// demotion.
	standby.Set("default_transaction_read_only", "on")
	programtest.Eventually(t, "jobs are refused", func() bool {
		a := c.Do("POST", "/jobs", sized(0, 2))
		return a.Status == 503 && strings.Contains(string(a.Body), "database_read_only")
	})
	programtest.Eventually(t, "the service is not ready", func() bool {
		a := c.Do("GET", "/readyz", "")
		return a.Status == 503 && strings.Contains(string(a.Body), "read-only")
	})
	standby.Set("default_transaction_read_only", "off")
	programtest.Eventually(t, "jobs are accepted again", func() bool { return c.Do("POST", "/jobs", sized(0, 2)).Status == 202 })
}
