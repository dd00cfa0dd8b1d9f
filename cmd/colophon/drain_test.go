package main

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"colophon/test/apitest"
)

// TestADrainedWorkersJobsGoOnAtOnce stops one of two workers by SIGTERM while it
// has jobs: the other one has them before a lease could have expired.
func TestADrainedWorkersJobsGoOnAtOnce(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	c := m.client(m.api(), "drainer")
	first := m.worker()
	bodies := []string{sized(1, 300), sized(2, 300), sized(3, 300)}
	var ids []string
	var heard []<-chan told
	for _, body := range bodies {
		ids = append(ids, c.Submit(body))
		heard = append(heard, c.watch(ids[len(ids)-1]))
	}
	for _, h := range heard {
		next(t, h, advanced)
	}
	second := m.worker()
	told0 := time.Now()
	first.signal(syscall.SIGTERM)
	for _, h := range heard {
		started := next(t, h, func(e told) bool { return e.Type == "job.started" })
		took := next(t, h, advanced).at.Sub(told0)
		t.Logf("%s from SIGTERM to the next token elsewhere", took)
		if started.Worker != second.worker || started.FromToken == 0 || took > 3*time.Second {
			t.Errorf("%s after SIGTERM the job goes on as %+v", took, started)
		}
	}
	if status := first.exit(20 * time.Second); status != 0 {
		t.Errorf("exit status %d", status)
	}
	t.Logf("%s from SIGTERM to the worker's end at most", time.Since(told0))
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
	var burnt, leases int
	m.query(`select (select count(*) from river.river_job where attempt > 1 or max_attempts < 3), (select count(*) from leases)`, &burnt, &leases)
	if burnt > 0 || leases > 0 {
		t.Errorf("%d attempts are burnt, %d leases are left", burnt, leases)
	}
}

// TestADrainedAPIAnswers stops an API process by SIGTERM while clients wait for
// a text and follow a job that no worker has taken up.
func TestADrainedAPIAnswers(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	p := m.api()
	c := m.client(p, "waiter")
	id := c.Submit(long(1))
	stream := c.Stream(t.Context(), "/jobs/"+id+"/events")
	for m := range stream {
		if m.Event == "job.accepted" {
			break
		}
	}
	waited := make(chan apitest.Answer, 1)
	go func() {
		a, err := c.Send(t.Context(), "POST", "/generate", long(2))
		if err != nil {
			t.Error(err)
		}
		waited <- a
	}()
	other := m.client(m.api(), "looker")
	eventually(t, "the second job is on record", func() bool {
		var n int
		m.query(`select count(*) from history`, &n)
		return n == 2
	})
	begin := time.Now()
	p.signal(syscall.SIGTERM)
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
	if status := p.exit(20 * time.Second); status != 0 {
		t.Errorf("exit status %d", status)
	}
	t.Logf("%s from SIGTERM to the end", time.Since(begin))
	if conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://")); err == nil {
		conn.Close()
		t.Error("somebody still listens")
	}
	// The client resumes elsewhere.
	c.URL = other.URL
	m.worker()
	if whole := c.follow(id, "1", 0); whole[0].ID != "2" || whole[len(whole)-1].Event != "job.completed" {
		t.Errorf("resumed with %+v", whole)
	}
}

// TestAWorkerThatCannotDrain freezes Postgres under workers that are told to stop.
func TestAWorkerThatCannotDrain(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	c := m.client(m.api(), "impatient")
	m.env = append(m.env, "COLOPHON_SLOTS=1")
	terminated, interrupted := m.worker(), m.worker()
	m.env = append(m.env, "COLOPHON_GRACE=3s")
	patient := m.worker()
	var heard []<-chan told
	for seed := range 3 {
		heard = append(heard, c.watch(c.Submit(sized(seed, 900))))
	}
	for _, h := range heard {
		next(t, h, advanced)
	}
	for _, pid := range m.pg.pids() {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
		defer syscall.Kill(pid, syscall.SIGCONT)
	}
	begin := time.Now()
	for _, p := range []*process{terminated, interrupted, patient} {
		p.signal(syscall.SIGTERM)
		p.logged("stopping")
	}
	terminated.signal(syscall.SIGTERM)
	interrupted.signal(syscall.SIGINT)
	for _, p := range []*process{terminated, interrupted} {
		if status := p.exit(2 * time.Second); status == 0 {
			t.Error("after a second signal it ended as if all was done")
		}
	}
	patient.exit(20 * time.Second)
	took := time.Since(begin)
	t.Logf("%s from SIGTERM to the end, with a grace of 3s", took)
	if took > 12*time.Second {
		t.Errorf("it took %s to end", took)
	}
}

// TestAClientThatTakesNothingIsGone freezes the worker after the first events,
// so that the server has next to nothing to write to a client that reads nothing.
func TestAClientThatTakesNothingIsGone(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells how long a peer has taken nothing")
	}
	m := newMembers(t)
	p := m.api()
	c := m.client(p, "sleeper")
	worker := m.worker()
	id := c.Submit(long(1))
	heard := c.watch(id)
	for range 20 {
		next(t, heard, advanced)
	}
	worker.signal(syscall.SIGSTOP)
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1) }) // the least there is
	}}
	conn, err := dialer.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	begin := time.Now()
	fmt.Fprintf(conn, "GET /jobs/%s/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nAccept: text/event-stream\r\n\r\n", id, c.Access)
	p.logged(`route="GET /jobs/{id}/events"`)
	t.Logf("gone after %s", time.Since(begin))
	if took := time.Since(begin); took > 20*time.Second { // 10, on a machine that has time
		t.Errorf("it is gone after %s", took)
	}
}
