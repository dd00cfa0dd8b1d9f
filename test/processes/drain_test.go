package processes

import (
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

// TestDrainedWorkerHandsItsJobsOver stops one of two workers by SIGTERM while it has
// jobs. The other worker must get these jobs without waiting for the end of a lease.
func TestDrainedWorkerHandsItsJobsOver(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	c := newUser(t, m.api("--no-rate-limits").URL, "drainer")
	// The second worker stays busy until the first worker has the jobs.
	second := m.worker("--slots=3")
	var others []string
	for seed := range 3 {
		id := c.Submit(sized(seed, 900))
		next(t, c.watch(id), started)
		others = append(others, id)
	}
	first := m.worker()
	bodies := []string{sized(1, 300), sized(2, 300), sized(3, 300)}
	var ids []string
	var watched []<-chan event
	for _, body := range bodies {
		ids = append(ids, c.Submit(body))
		watched = append(watched, c.watch(ids[len(ids)-1]))
	}
	for _, events := range watched {
		if e := next(t, events, started); e.Worker != first.Worker {
			t.Fatalf("started as %+v", e)
		}
		next(t, events, advanced)
	}
	second.Freeze() // otherwise the second worker could store an event of its running job before the cancellation
	for _, id := range others {
		c.Do("POST", "/jobs/"+id+"/cancel", "").Must(t, 200)
	}
	second.Thaw()
	begin := time.Now()
	first.Signal(syscall.SIGTERM)
	for _, events := range watched {
		again := next(t, events, started)
		took := next(t, events, advanced).at.Sub(begin)
		t.Logf("%s from SIGTERM to the next token elsewhere", took)
		if again.Worker != second.Worker || again.FromToken == 0 {
			t.Errorf("%s after SIGTERM the job continues as %+v", took, again)
		}
	}
	if status := first.Exit(20 * time.Second); status != 0 {
		t.Errorf("exit status %d", status)
	}
	t.Logf("%s from SIGTERM to the end, at most", time.Since(begin))
	for line := range strings.Lines(second.Log()) {
		for _, id := range ids {
			if strings.Contains(line, "went silent") && strings.Contains(line, id) {
				t.Errorf("the job waited for the end of its lease: %s", line)
			}
		}
	}
	var got []string
	for _, id := range ids {
		j := c.end(id)
		if j.State != "completed" {
			t.Errorf("%+v", j)
		}
		got = append(got, j.Completion)
	}
	want := undisturbed(c, bodies...)
	for i, body := range bodies {
		if got[i] != want[body] {
			t.Errorf("%s: %q, undisturbed %q", body, got[i], want[body])
		}
	}
	var used, leases int
	m.query(`select (select count(*) from river.river_job where attempt > 1 or max_attempts < 3), (select count(*) from leases)`, &used, &leases)
	if used > 0 || leases > 0 {
		t.Errorf("%d attempts are used up, %d leases are left", used, leases)
	}
}

// TestDrainedAPIAnswersWaitingClients stops an API process by SIGTERM while one client
// waits for a text and another follows a job. There is no worker. The process must answer
// both clients before it ends.
func TestDrainedAPIAnswersWaitingClients(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	p := m.api("--no-rate-limits")
	c := newUser(t, p.URL, "waiter")
	id := c.Submit(sized(1, 50))
	stream := c.Stream(t.Context(), "/jobs/"+id+"/events")
	for m := range stream {
		if m.Event == "job.accepted" {
			break
		}
	}
	waited := make(chan apitest.Answer, 1)
	go func() {
		a, err := c.Send(t.Context(), "POST", "/generate", sized(2, 50))
		if err != nil {
			t.Error(err)
		}
		waited <- a
	}()
	other := newUser(t, m.api("--no-rate-limits").URL, "looker")
	programtest.Eventually(t, "the second job is on record", func() bool {
		var n int
		m.query(`select count(*) from history`, &n)
		return n == 2
	})
	begin := time.Now()
	p.Signal(syscall.SIGTERM)
	a := <-waited
	a.Must(t, 202)
	if at := a.Header.Get("Location"); !strings.HasPrefix(at, "/jobs/") {
		t.Errorf("Location %q", at)
	}
	var last apitest.Message
	for m, err := range stream {
		if last = m; err != nil {
			t.Errorf("the stream was cut: %v", err)
		}
	}
	if last.Retry == "" {
		t.Errorf("the stream ended with %+v", last)
	}
	if status := p.Exit(20 * time.Second); status != 0 {
		t.Errorf("exit status %d", status)
	}
	t.Logf("%s from SIGTERM to the end", time.Since(begin))
	if conn, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://")); err == nil {
		conn.Close()
		t.Error("the address still accepts connections")
	}
	// The client must be able to resume the stream at the other process.
	c.URL = other.URL
	m.worker()
	var whole []apitest.Message
	for m, err := range c.Stream(t.Context(), "/jobs/"+id+"/events", "Last-Event-ID", "1") {
		if err != nil {
			t.Fatalf("stream: %v", err)
		}
		if m != (apitest.Message{}) {
			whole = append(whole, m)
		}
	}
	if whole[0].ID != "2" || whole[len(whole)-1].Event != "job.completed" {
		t.Errorf("resumed with %+v", whole)
	}
}

// TestSecondSignalEndsAWorkerThatCannotDrain freezes Postgres and tells workers to stop.
// A second signal must end a worker at once. Without a second signal a worker must end
// after its grace period.
func TestSecondSignalEndsAWorkerThatCannotDrain(t *testing.T) {
	slow(t)
	t.Parallel()
	server := newServer(t)
	m := membersOver(t, server.URL())
	c := newUser(t, m.api("--no-rate-limits").URL, "impatient")
	terminated, interrupted := m.worker("--slots=1"), m.worker("--slots=1")
	patient := m.worker("--slots=1", "--grace=3s")
	var watched []<-chan event
	for seed := range 3 {
		watched = append(watched, c.watch(c.Submit(sized(seed, 900))))
	}
	for _, events := range watched {
		next(t, events, advanced)
	}
	defer server.Freeze()()
	begin := time.Now()
	for _, p := range []*programtest.Process{terminated, interrupted, patient} {
		p.Signal(syscall.SIGTERM)
		p.Await("stopping")
	}
	terminated.Signal(syscall.SIGTERM)
	interrupted.Signal(syscall.SIGINT)
	for _, p := range []*programtest.Process{terminated, interrupted} {
		if status := p.Exit(2 * time.Second); status == 0 {
			t.Error("after a second signal it ended with status 0")
		}
	}
	patient.Exit(20 * time.Second)
	took := time.Since(begin)
	t.Logf("%s from SIGTERM to the end, with a grace of 3s", took)
	if took > 12*time.Second {
		t.Errorf("it took %s to end", took)
	}
}
