package api_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"colophon/api"
	"colophon/test/apitest"
)

// streaming opens a stream, reads its first message, and returns a function that closes
// it.
func streaming(t *testing.T, c apitest.Client, id string) context.CancelFunc {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	for range c.Stream(ctx, "/jobs/"+id+"/events") {
		break
	}
	return cancel
}

// TestStreamsAreBounded opens more streams than one account may have, and more than all
// accounts together may have. Each stream beyond a limit must be refused.
//
// security: API4:2023
func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.Submit(prompt)
	c := f.another(t, func(o *api.Options) { o.MaxStreams, o.MaxAllStreams = 2, 3 })
	_, other := f.user("somebody-else")
	others := f.As(other).Submit(prompt)
	o := c.As(other)
	o.T = t
	refused := func(c apitest.Client, id string, status int, code string) {
		t.Helper()
		a := c.Do("GET", "/jobs/"+id+"/events", "", "Accept", "text/event-stream")
		if a.Refused(t, status, code); a.Header.Get("Retry-After") != "5" {
			t.Errorf("%v", a.Header)
		}
	}
	leave := streaming(t, c, id)
	streaming(t, c, id)
	refused(c, id, 429, "too_many_streams")
	c.Do("GET", "/jobs/"+id+"/events", "").Must(t, 200) // an answer in JSON does not count as a stream
	c.Do("HEAD", "/jobs/"+id+"/events", "", "Accept", "text/event-stream").Must(t, 200)
	leaveOther := streaming(t, o, others)
	refused(o, others, 503, "streams_full")
	refused(c, id, 429, "too_many_streams")
	// A closed stream must make room for its own account and for other accounts.
	reopen := func(c apitest.Client, id string) {
		t.Helper()
		for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			ctx, cancel := context.WithCancel(t.Context())
			resp, err := c.Open(ctx, "GET", "/jobs/"+id+"/events", "", "Accept", "text/event-stream")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(cancel)
			if resp.StatusCode == 200 {
				return
			}
			resp.Body.Close()
			if time.Since(begin) > time.Minute {
				t.Fatalf("no room: %s", resp.Status)
			}
		}
	}
	leave()
	reopen(o, others)
	leaveOther()
	reopen(c, id)
	refused(c, id, 429, "too_many_streams")
	// The end of a job must make room too.
	f.Do("POST", "/jobs/"+id+"/cancel", "").Must(t, 200)
	next := f.Submit(prompt)
	reopen(c, next)
}

// TestHeadOpensNoStream sends HEAD requests for a stream. They must end at once and must
// not use up a ticket.
func TestHeadOpensNoStream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.Submit(prompt)
	path := "/jobs/" + id + "/events"
	c := f.another(t, func(*api.Options) {})
	// The client uses HTTP/1.1, because over HTTP/2 it would reset a stream that does not
	// end.
	c.Transport.(*http.Transport).ForceAttemptHTTP2, c.Transport.(*http.Transport).TLSClientConfig.NextProtos = false, []string{"http/1.1"}
	a := c.Do("HEAD", path, "", "Accept", "text/event-stream").Must(t, 200)
	if a.Header.Get("Content-Type") != "text/event-stream" || a.Header.Get("X-Accel-Buffering") != "no" {
		t.Errorf("%v", a.Header)
	}
	for begin := time.Now(); !strings.Contains(f.log.String(), `route="GET /jobs/{id}/events" status=200`); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatal("the request does not end")
		}
	}
	var ticket struct{ URL string }
	f.Do("POST", "/jobs/"+id+"/ticket", "").Must(t, 200).Into(t, &ticket)
	c.As("").Do("HEAD", ticket.URL, "", "Accept", "text/event-stream").Must(t, 401)
	for m := range f.As("").Stream(t.Context(), ticket.URL) { // the ticket is still valid
		if m != (apitest.Message{}) {
			t.Errorf("%+v", m)
		}
		break
	}
}

// TestStreamFromAFutureVersionEnds resumes after versions that do not exist yet. The
// stream must still end with the job.
func TestStreamFromAFutureVersionEnds(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for what, from := range map[string]func(string) (string, []string){
		"after":         func(path string) (string, []string) { return path + "?after=1000", nil },
		"Last-Event-ID": func(path string) (string, []string) { return path, []string{"Last-Event-ID", fmt.Sprint(1 << 30)} },
	} {
		t.Run(what, func(t *testing.T) {
			id := f.Submit(prompt)
			path, headers := from("/jobs/" + id + "/events")
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			stream := f.Stream(ctx, path, headers...)
			f.Do("POST", "/jobs/"+id+"/cancel", "").Must(t, 200)
			var last apitest.Message
			for m, err := range stream {
				if err != nil {
					t.Fatal(err)
				}
				last = m
			}
			if last.Event != "job.cancelled" {
				t.Errorf("the stream ends with %+v", last)
			}
			// A stream of an ended job must have no further events.
			for m, err := range f.Stream(ctx, path, headers...) {
				if err != nil || m != (apitest.Message{}) {
					t.Errorf("%+v, %v", m, err)
				}
			}
			if a := f.Do("GET", path, "", headers...).Must(t, 200); string(a.Body) != "[]\n" {
				t.Errorf("%s", a.Body)
			}
		})
	}
}
