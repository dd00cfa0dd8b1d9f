package api_test

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"colophon/api"
	"colophon/client"
	"colophon/events"
	"colophon/test/apitest"
)

// source is what EventSource knows between two connections. Its rules are those of the
// specification of server-sent events: an id counts even without data, an empty one is not
// sent, and a status other than 200 ends everything.
type source struct {
	path, last string
	got        []string // the data of all messages
	status     int      // the last status that was not 200
}

// connect opens the stream and reads at most n bytes of it.
func (s *source) connect(t *testing.T, c apitest.Client, n int64) {
	t.Helper()
	headers := []string{"Accept", "text/event-stream"}
	if s.last != "" {
		headers = append(headers, "Last-Event-ID", s.last)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	resp, err := c.As("").Open(ctx, "GET", s.path, "", headers...)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		s.status = resp.StatusCode
		return
	}
	for m, err := range client.Messages(io.LimitReader(resp.Body, n)) {
		if err != nil {
			return
		}
		if m.ID != "" {
			s.last = m.ID
		}
		if m.Data != "" {
			s.got = append(s.got, m.Data)
		}
	}
}

// newSource returns a source with a ticket from a route.
func newSource(t *testing.T, c apitest.Client, route string) *source {
	t.Helper()
	var ticket struct{ URL string }
	c.Do("POST", route, "").Must(t, 200).Into(t, &ticket)
	return &source{path: ticket.URL}
}

const unlimited = 1 << 40

// TestTicketSurvivesACutAnywhere cuts the first connection after each number of bytes, and
// reconnects at another process, as EventSource does. All events must arrive, each once. Then
// the answer must be 204, which stops EventSource. A cut before the first id must end in 401,
// because the client could not prove that it has read the stream.
func TestTicketSurvivesACutAnywhere(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	elsewhere := f.another(t, func(*api.Options) {})
	elsewhere.T = t
	id := f.Submit(prompt)
	f.Do("POST", "/jobs/"+id+"/cancel", "").Must(t, 200)
	path := "/jobs/" + id
	var want []string
	for _, data := range f.follow(path + "/events") {
		want = append(want, strings.TrimSuffix(data, "\n"))
	}
	opened := f.Do("GET", newSource(t, f.Client, path+"/ticket").path, "", "Accept", "text/event-stream", "Authorization", "").Must(t, 200).Body
	text := string(opened)
	first := strings.Index(text, "\n\nid: ") + len("\n\n")
	first += strings.Index(text[first:], "\n\n") + len("\n\n")
	for cut := 1; cut <= len(text); cut += 7 {
		s := newSource(t, f.Client, path+"/ticket")
		s.connect(t, f.Client, int64(cut))
		again := []apitest.Client{elsewhere, f.Client}[cut/7%2]
		s.connect(t, again, unlimited)
		if cut < first-1 { // the length of a retry field varies by a digit
			if s.last == "" && (s.status != 401 || s.got != nil) {
				t.Errorf("cut after %d bytes: %d, %q", cut, s.status, s.got)
			}
			continue
		}
		s.connect(t, again, unlimited)
		if diff := cmp.Diff(want, s.got); s.last != "" && (diff != "" || s.status != 204) {
			t.Fatalf("cut after %d bytes: status %d: %s", cut, s.status, diff)
		}
	}
}

// TestTicketFollowsARunningJob cuts the stream of a running job after each message.
func TestTicketFollowsARunningJob(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.Submit(prompt)
	s := newSource(t, f.Client, "/jobs/"+id+"/ticket")
	c := f.As("")
	// read opens the stream, and reads until it has one more event.
	read := func() {
		t.Helper()
		for m, err := range c.Stream(t.Context(), s.path, "Last-Event-ID", s.last) {
			if err != nil {
				t.Fatal(err)
			}
			if m.ID != "" {
				s.last = m.ID
			}
			if m.Data != "" {
				s.got = append(s.got, m.Event)
				return
			}
		}
		t.Fatal("the stream ends")
	}
	read()
	job := f.newest(1)
	if _, err := f.store.AppendJob(t.Context(), job, events.JobStarted{Attempt: 1, Worker: "w", Weights: "w/f32", Kernel: "k"}); err != nil {
		t.Fatal(err)
	}
	read()
	f.Do("POST", "/jobs/"+id+"/cancel", "").Must(t, 200)
	read()
	f.Do("DELETE", "/jobs/"+id, "").Must(t, 204)
	read()
	if diff := cmp.Diff([]string{"job.accepted", "job.started", "job.cancelled", "job.erased"}, s.got); diff != "" {
		t.Error(diff)
	}
	if s.connect(t, f.Client, unlimited); s.status != 204 {
		t.Errorf("after the erasure: %d", s.status)
	}
}

// TestProofOpensOneStream presents the proof of a stream where it must not count.
//
// security: ASVS 8.2.2, ASVS 14.2.1
func TestProofOpensOneStream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id, other := f.Submit(prompt), f.Submit(prompt)
	s := newSource(t, f.Client, "/jobs/"+id+"/ticket")
	stranger := f.As("")
	for m := range stranger.Stream(t.Context(), s.path) {
		if s.last = m.ID; s.last != "" {
			break
		}
	}
	_, proof, _ := strings.Cut(s.last, ".")
	if proof == "" || strings.Contains(s.path, proof) {
		t.Fatalf("id %q at %s", s.last, s.path)
	}
	ask := func(path string, headers ...string) apitest.Answer {
		t.Helper()
		return stranger.Do("GET", path, "", append([]string{"Accept", "text/event-stream"}, headers...)...)
	}
	_, query, _ := strings.Cut(s.path, "?")
	for _, last := range []string{"0", "1", ".", "0.", "1." + strings.Repeat("A", 22), "1." + proof + "A"} {
		ask(s.path, "Last-Event-ID", last).Refused(t, 401, "invalid_ticket")
	}
	for _, path := range []string{"/jobs/" + other + "/events?" + query, "/events?" + query} {
		ask(path, "Last-Event-ID", s.last).Refused(t, 401, "invalid_ticket")
	}
	newer := newSource(t, f.Client, "/jobs/"+id+"/ticket")
	ask(newer.path, "Last-Event-ID", s.last).Refused(t, 401, "invalid_ticket") // the proof of another ticket
	ask("/jobs/"+id+"/events", "Last-Event-ID", s.last).Refused(t, 401, "missing_access_token")
	f.Do("GET", "/jobs/"+id+"/events", "", "Accept", "text/event-stream", "Last-Event-ID", s.last).Refused(t, 422, "invalid_request") // not with an access token
	stranger.Do("GET", s.path, "", "Last-Event-ID", s.last).Refused(t, 401, "missing_access_token")                                   // not for JSON
	for _, last := range []string{"x." + proof, "-1." + proof, "1.0." + proof, "9999999999." + proof} {
		if a := ask(s.path, "Last-Event-ID", last); a.Status != 422 && a.Status != 401 {
			t.Errorf("Last-Event-ID %.5s...: %d %s", last, a.Status, a.Body)
		}
	}
	f.Do("POST", "/jobs/"+id+"/cancel", "").Must(t, 200)
	ask(s.path, "Last-Event-ID", s.last).Must(t, 200) // none of the requests has used it up
	if log := f.log.String(); strings.Contains(log, proof) {
		t.Error("the proof is in the log")
	}
}

// TestReopenedStreamEndsWithItsSession ends a session at another process while a stream is
// open that a ticket has reopened. The stream must end, and the ticket must open nothing more.
//
// security: ASVS 7.4.1
func TestReopenedStreamEndsWithItsSession(t *testing.T) {
	t.Parallel()
	for what, end := range map[string]func(*testing.T, *fixture, apitest.Client){
		"signed out": func(t *testing.T, f *fixture, c apitest.Client) { c.Form("/revoke", "token", c.Access).Must(t, 200) },
		"erased": func(t *testing.T, f *fixture, c apitest.Client) {
			if a := c.Do("DELETE", "/users/me", `{"password":"a long sentence"}`); a.Status != 204 && a.Status != 202 {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			elsewhere := f.another(t, func(o *api.Options) {})
			id := f.Submit(prompt)
			s := newSource(t, f.Client, "/jobs/"+id+"/ticket")
			var next func() (apitest.Message, error, bool)
			for range 2 {
				var stop func()
				next, stop = iter.Pull2(f.As("").Stream(t.Context(), s.path, "Last-Event-ID", s.last))
				t.Cleanup(stop)
				for m := (apitest.Message{}); m.ID == ""; {
					var err error
					if m, err, _ = next(); err != nil {
						t.Fatal(err)
					}
					s.last = m.ID
				}
			}
			end(t, f, elsewhere)
			for m, err, ok := next(); ok; m, err, ok = next() {
				if err != nil {
					t.Errorf("%+v, %v", m, err)
				}
			}
			if s.connect(t, f.Client, unlimited); s.status != 401 {
				t.Errorf("status %d", s.status)
			}
		})
	}
}

// TestTicketFollowsTheFeed follows all events by a ticket, cut at each message, from the
// beginning and from the end of the log.
func TestTicketFollowsTheFeed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.Do("POST", "/jobs/"+f.Submit(prompt)+"/cancel", "").Must(t, 200)
	f.sequence()
	want := feedPages(t, f.Client, 50)
	all := newSource(t, f.Client, "/events/ticket")
	var got []feedEvent
	for range want {
		next, stop := iter.Pull2(f.As("").Stream(t.Context(), all.path, "Last-Event-ID", all.last))
		for len(all.got) == len(got) {
			m, err, ok := next()
			if err != nil || !ok {
				t.Fatal(err, ok)
			}
			if m.ID != "" {
				all.last = m.ID
			}
			if m.Data != "" {
				all.got = append(all.got, m.Data)
			}
		}
		stop()
		var e feedEvent
		apitest.Answer{Body: []byte(all.got[len(got)])}.Into(t, &e)
		if number, _, _ := strings.Cut(all.last, "."); number != fmt.Sprint(e.Index) {
			t.Errorf("id %s of event %d", all.last, e.Index)
		}
		got = append(got, e)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	// A stream of new events, cut before the first of them, must not lose any.
	latest := newSource(t, f.Client, "/events/ticket")
	latest.path += "&after=9007199254740991"
	for m := range f.As("").Stream(t.Context(), latest.path) {
		if latest.last = m.ID; m.ID != "" {
			break
		}
	}
	f.Submit(prompt)
	f.sequence()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var seen []string
	for m, err := range f.As("").Stream(ctx, latest.path, "Last-Event-ID", latest.last) {
		if err != nil {
			t.Fatal(err)
		}
		if m.Data != "" {
			seen = append(seen, m.Event)
			break
		}
	}
	if !slices.Equal(seen, []string{"job.accepted"}) {
		t.Errorf("%q", seen)
	}
}
