package api_test

import (
	"context"
	"strconv"
	"testing"

	"colophon/events"
	"colophon/test/apitest"
)

// TestLeavingClientCancelsItsJob disconnects clients that wait for their jobs. Each job
// must be cancelled, unless the request lets the client ask for the job later.
func TestLeavingClientCancelsItsJob(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i, c := range []struct {
		path    string
		headers []string
		want    events.State
	}{
		{"/generate", nil, events.Cancelled},
		{"/generate", []string{"Prefer", "wait=50"}, events.Cancelled},
		{"/jobs", []string{"Prefer", "wait=50"}, events.Cancelled},
		{"/generate", []string{"Idempotency-Key", "comes-back"}, events.Queued},
		{"/jobs", []string{"Prefer", "wait=50", "Idempotency-Key", "comes-back"}, events.Queued},
		{"/generate", []string{"Prefer", "respond-async, wait=50"}, events.Queued},
	} {
		ctx, leave := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() { gone <- f.leaving(ctx, c.path, prompt, c.headers...) }()
		j := f.newest(i + 1)
		leave()
		if err := <-gone; err == nil {
			t.Errorf("%s %q: answered", c.path, c.headers)
		}
		j, err := f.store.Job(t.Context(), j.ID)
		if err != nil {
			t.Fatal(err)
		}
		if j.State != c.want || c.want == events.Cancelled && j.Reason != "the client has left" {
			t.Errorf("%s %q: the job is %s %q, want %s", c.path, c.headers, j.State, j.Reason, c.want)
		}
	}
}

// TestAcceptedJobGoesOn disconnects after an answer of 202. The job must stay queued.
func TestAcceptedJobGoesOn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i, c := range []struct {
		path, prefer, applied string
	}{
		{"/jobs", "", ""},
		{"/jobs", "handling=lenient", ""},
		{"/jobs", "wait=0", "wait=0"},
		{"/generate", "respond-async", "respond-async"},
		{"/generate", "wait=1", "wait=1"},
		{"/jobs", "respond-async, wait=1", "respond-async, wait=1"},
	} {
		a := f.Do("POST", c.path, prompt, "Prefer", c.prefer).Must(t, 202)
		j := f.newest(i + 1)
		if j.State != events.Queued || a.Header.Get("Location") != "/jobs/"+j.ID.String() {
			t.Errorf("%s %q: the job is %s, at %q", c.path, c.prefer, j.State, a.Header.Get("Location"))
		}
		if got := a.Header.Get("Preference-Applied"); got != c.applied {
			t.Errorf("%s %q: Preference-Applied %q, want %q", c.path, c.prefer, got, c.applied)
		}
		if after, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || after < 1 || after > 60 {
			t.Errorf("%s %q: Retry-After %q", c.path, c.prefer, a.Header.Get("Retry-After"))
		}
		if a.Header.Get("Vary") != "Prefer" || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %q: headers %v", c.path, c.prefer, a.Header)
		}
	}
}

func TestStoppingServiceCancelsNoJob(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	answered := make(chan apitest.Answer)
	go func() {
		a, err := f.Send(t.Context(), "POST", "/generate", prompt)
		if err != nil {
			t.Errorf("not answered: %v", err)
		}
		answered <- a
	}()
	j := f.newest(1)
	f.stop()
	a := (<-answered).Must(t, 202)
	if now, err := f.store.Job(t.Context(), j.ID); err != nil || now.State != events.Queued || a.Header.Get("Location") != "/jobs/"+j.ID.String() {
		t.Errorf("%s at %q, %v", now.State, a.Header.Get("Location"), err)
	}
}
