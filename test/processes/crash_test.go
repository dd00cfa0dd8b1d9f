package processes

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"colophon/client"
	"colophon/internal/pg/pgtest"
	"colophon/test/program/programtest"
)

// TestJobOfAKilledWorkerContinues kills the worker of a job. Another worker must continue
// the job. The database's clock is 15 seconds off and jumps by 30 seconds at each kill.
// COLOPHON_TEST_KILLS sets the number of kills, 2 by default. The test logs the time from
// each kill to the next token. The text of every second job is marked.
func TestJobOfAKilledWorkerContinues(t *testing.T) {
	slow(t)
	t.Parallel()
	kills := 2
	if n, err := strconv.Atoi(os.Getenv("COLOPHON_TEST_KILLS")); err == nil {
		kills = n
	}
	m := newMembers(t)
	shift := -15 * time.Second // negative at first, because an access token is not valid before the time at which it is signed
	pgtest.ShiftClock(t, m.url, shift)
	c := newUser(t, m.api("--no-rate-limits").URL, "killer")
	workers := []*programtest.Process{m.worker(), m.worker()}
	var took []time.Duration
	for seed := 0; len(took) < kills; seed++ {
		body := long(seed)
		if seed%2 == 1 {
			body = marked(body)
		}
		id := c.Submit(body)
		events := c.watch(id)
		first := next(t, events, started)
		next(t, events, advanced)
		holder := slices.IndexFunc(workers, func(p *programtest.Process) bool { return p.Worker == first.Worker })
		shift = -shift
		pgtest.ShiftClock(t, m.url, shift)
		killed := time.Now()
		workers[holder].Kill()
		undisturbed := c.Submit(body) // runs while the lease of the other job expires
		second := next(t, events, func(e event) bool { return started(e) || e.Type == "job.completed" })
		if second.Type == "job.completed" {
			t.Logf("job %d was faster than the signal", seed)
		} else {
			took = append(took, next(t, events, advanced).at.Sub(killed))
			if second.Worker == first.Worker || second.FromToken == 0 {
				t.Errorf("the job continued as %+v after %+v", second, first)
			}
		}
		workers[holder] = m.worker()
		got := c.end(id)
		if want := c.end(undisturbed); got.State != "completed" || got.Completion != want.Completion {
			t.Errorf("seed %d: %s %q, undisturbed %q", seed, got.State, got.Completion, want.Completion)
		}
	}
	slices.Sort(took)
	p := func(share float64) time.Duration { return took[min(len(took)-1, int(share*float64(len(took))))] }
	t.Logf("%d kills; from SIGKILL to the next token elsewhere: min %s, p50 %s, p99 %s, max %s", len(took), took[0], p(0.5), p(0.99), took[len(took)-1])
	if most := took[len(took)-1]; most > 10*time.Second {
		t.Errorf("it took %s until a job continued", most)
	}
}

// TestFrozenWorkerWritesNothing freezes a worker until its lease has expired and another
// worker has its job. Then the test thaws the first worker, which must not write to that
// job.
func TestFrozenWorkerWritesNothing(t *testing.T) {
	slow(t)
	t.Parallel()
	m := newMembers(t)
	c := newUser(t, m.api("--no-rate-limits").URL, "freezer")
	frozen := m.worker()
	var id string
	var events <-chan event
	seed := 0
	for running := false; !running; {
		seed++
		id = c.Submit(long(seed))
		events = c.watch(id)
		next(t, events, advanced)
		frozen.Freeze()
		var j client.Job
		c.Do("GET", "/jobs/"+id, "").Must(t, 200).Into(t, &j)
		if running = j.State == "running"; !running {
			t.Logf("job %d was faster than the signal", seed)
			frozen.Thaw()
		}
	}
	other := m.worker()
	undisturbed := c.Submit(long(seed)) // runs while the lease of the other job expires
	taken := next(t, events, started)
	if taken.Worker != other.Worker {
		t.Fatalf("started as %+v", taken)
	}
	frozen.Thaw()
	got := c.end(id)
	if want := c.end(undisturbed); got.State != "completed" || got.Completion != want.Completion {
		t.Errorf("%s %q, undisturbed %q", got.State, got.Completion, want.Completion)
	}
	next(t, events, func(e event) bool {
		if started(e) {
			t.Errorf("the job was started again: %+v", e)
		}
		return e.Type == "job.completed"
	})
	// The thawed worker must have dropped the old job and must take new jobs.
	other.Signal(syscall.SIGTERM)
	if status := other.Exit(20 * time.Second); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if j := c.end(c.Submit(sized(2, 20))); j.State != "completed" {
		t.Errorf("afterwards: %+v", j)
	}
}

// TestServiceSurvivesARestartOfPostgres first stops and later crashes Postgres, under two
// API processes and two workers that run jobs. It starts Postgres again each time. All
// jobs must then complete, also those that were accepted just before. The server does not
// wait for the disk unless a connection asks for it.
//
// security: ASVS 16.5.2
func TestServiceSurvivesARestartOfPostgres(t *testing.T) {
	slow(t)
	t.Parallel()
	server := newServer(t)
	server.Set("synchronous_commit", "off")
	m := membersOver(t, server.URL())
	apis := []*programtest.Process{m.api("--no-rate-limits"), m.api("--no-rate-limits")}
	workers := []*programtest.Process{m.worker(), m.worker()}
	one := newUser(t, apis[0].URL, "restarter")
	two := one
	two.URL = apis[1].URL
	bodies := []string{sized(0, 200), sized(1, 200), sized(2, 200), sized(3, 200)}
	ids := make([]string, len(bodies))
	watched := make([]<-chan event, len(bodies))
	var want map[string]string
	for _, down := range []func(){server.Stop, server.Crash} {
		for i, body := range bodies {
			ids[i] = one.Submit(body)
			watched[i] = two.watch(ids[i]) // follows the job across the restart, through the other API process
		}
		for _, events := range watched {
			next(t, events, advanced)
		}
		last := []string{one.Submit(sized(0, 2)), two.Submit(sized(1, 2)), one.Submit(sized(2, 2))}
		down()
		for _, c := range []user{one, two} {
			for _, request := range [][2]string{
				{"GET", "/readyz"}, {"GET", "/jobs/" + ids[0]}, {"POST", "/jobs"}, {"GET", "/history"}, {"GET", "/jobs/" + ids[0] + "/events"},
			} {
				body := ""
				if request[0] == "POST" {
					body = long(0)
				}
				if request[1] == "/readyz" { // the service caches the state of the database for a second
					programtest.Eventually(t, "the service is not ready", func() bool { return c.Do("GET", "/readyz", "").Status != 200 })
				}
				a := c.Do(request[0], request[1], body)
				a.Refused(t, 503, "")
				if seconds, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || seconds < 1 {
					t.Errorf("%v: Retry-After %q", request, a.Header.Get("Retry-After"))
				}
			}
			c.Do("GET", "/healthz", "").Must(t, 200)
		}
		server.Start()
		back := time.Now()
		for i, events := range watched {
			version := 0
			text := []int{}
			for e := range events {
				if version != 0 && e.Version != version+1 {
					t.Errorf("version %d is followed by %d", version, e.Version)
				}
				version = e.Version
				text = append(text, e.Tokens...)
			}
			got := two.end(ids[i])
			if got.State != "completed" || got.Version != version || len(text) == 0 {
				t.Errorf("%s at version %d, the stream ended at %d", got.State, got.Version, version)
			}
		}
		for _, id := range last {
			if j := two.end(id); j.State != "completed" {
				t.Errorf("a job accepted just before is %s", j.State)
			}
		}
		t.Logf("all jobs were completed %s after Postgres was back", time.Since(back))
		if want == nil {
			want = undisturbed(one, bodies...)
		}
		for i, id := range ids {
			if got := one.end(id).Completion; got != want[bodies[i]] {
				t.Errorf("%s: %q, undisturbed %q", bodies[i], got, want[bodies[i]])
			}
		}
		for _, c := range []user{one, two} {
			c.Do("GET", "/readyz", "").Must(t, 200)
		}
	}
	for _, p := range slices.Concat(apis, workers) {
		if !p.Running() {
			t.Errorf("%s has ended", p)
		}
	}
	// An outage of Postgres must not use up an attempt of a job.
	var listening, used int
	m.query(`select count(*) from pg_stat_activity where application_name like '% listen'`, &listening)
	m.query(`select count(*) from river.river_job where attempt > 1 or max_attempts < 3`, &used)
	if listening != 4 || used > 0 {
		t.Errorf("%d connections listen for events in 4 processes; %d attempts are used up", listening, used)
	}
}

// TestJobThatKillsItsWorkersFails kills every worker that starts a job. After each crash
// another worker must start the job, until the job fails at the permitted number of
// crashes. The worker that ends the job must run other jobs.
func TestJobThatKillsItsWorkersFails(t *testing.T) {
	slow(t)
	t.Parallel()
	m := newMembers(t)
	c := newUser(t, m.api("--no-rate-limits").URL, "poisoner")
	id := c.Submit(long(1))
	events := c.watch(id)
	var killed []string
	for range 2 {
		worker := m.worker("--slots", "1")
		if e := next(t, events, started); e.Worker != worker.Worker || slices.Contains(killed, e.Worker) {
			t.Fatalf("started as %+v after %v", e, killed)
		}
		worker.Kill()
		killed = append(killed, worker.Worker)
	}
	// The waits before more crashes would take a minute, so the test sets the number of
	// crashes. New tokens would reset this number. The large token count prevents the
	// reset.
	var n int
	m.query(`with seeded as (update leases set crashes = 4, tokens = 1000000 returning 1) select count(*)::integer from seeded`, &n)
	if n != 1 {
		t.Fatalf("%d leases, want that of the job", n)
	}
	m.worker("--slots", "1")
	if j := c.end(id); j.State != "failed" || !strings.Contains(j.Reason, "too many workers crashed") {
		t.Errorf("the job ended as %s: %s", j.State, j.Reason)
	}
	if j := c.end(c.Submit(sized(2, 20))); j.State != "completed" {
		t.Errorf("another job ended as %s: %s", j.State, j.Reason)
	}
}
