package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"colophon/api"
	"colophon/test/apitest"
)

// feedEvent is an event of the feed.
type feedEvent struct {
	Index    int64
	Stream   string
	Version  int
	Type     string
	At       time.Time
	Prompt   string
	Username string
	Rule     string
	Policy   string
}

// feedPages reads a feed as JSON, page by page.
func feedPages(t *testing.T, c apitest.Client, limit int) (feed []feedEvent) {
	t.Helper()
	for path := fmt.Sprintf("/events?limit=%d", limit); path != ""; {
		a := c.Do("GET", path, "").Must(t, 200)
		var page []feedEvent
		a.Into(t, &page)
		feed = append(feed, page...)
		next, _, ok := strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">; rel=\"next\"")
		if path = next; ok != (len(page) == limit) {
			t.Fatalf("%d events, and the link %q", len(page), a.Header.Get("Link"))
		}
	}
	return feed
}

// nextEvents reads the next n events of a stream, and skips comments.
func nextEvents(t testing.TB, next func() (apitest.Message, error, bool), n int) (feed []feedEvent) {
	t.Helper()
	for len(feed) < n {
		m, err, ok := next()
		if !ok || err != nil {
			t.Fatalf("the stream ends after %d events: %v", len(feed), err)
		}
		if m.Data == "" {
			continue
		}
		var e feedEvent
		if err := json.Unmarshal([]byte(m.Data), &e); err != nil {
			t.Fatal(err)
		}
		if m.ID != fmt.Sprint(e.Index) || m.Event != e.Type {
			t.Errorf("%+v", m)
		}
		feed = append(feed, e)
	}
	return feed
}

func types(feed []feedEvent) []string {
	list := make([]string, len(feed))
	for i, e := range feed {
		list[i] = e.Type
	}
	return list
}

// TestFeedHasAllEventsOfTheOwner reads the feeds of two users in pages of several sizes.
func TestFeedHasAllEventsOfTheOwner(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, access := f.user("somebody-else")
	other := f.As(access)
	id := f.Submit(prompt)
	other.Submit(`{"prompt":"The color of bodies"}`)
	f.Do("POST", "/jobs/"+id+"/cancel", "").Must(t, 200)
	if a := f.Do("GET", "/events", "").Must(t, 200); string(a.Body) != "[]\n" || a.Header.Get("Link") != "" {
		t.Errorf("before the events are in the log: %s, %s", a.Body, a.Header.Get("Link"))
	}
	f.sequence()
	feed := feedPages(t, f.Client, 50)
	if diff := cmp.Diff([]string{"account.registered", "account.signed_in", "job.accepted", "job.cancelled"}, types(feed)); diff != "" {
		t.Fatal(diff)
	}
	for i, e := range feed {
		if stream := "account/" + f.owner.String(); i < 2 && e.Stream != stream || i >= 2 && e.Stream != "job/"+id || e.At.IsZero() || i > 0 && e.Index <= feed[i-1].Index {
			t.Errorf("%+v", e)
		}
	}
	if feed[0].Username != "somebody" || feed[2].Prompt != "The nature of light" {
		t.Errorf("the texts are not opened: %+v", feed)
	}
	for _, limit := range []int{1, 2, 3, 4, 256} {
		if diff := cmp.Diff(feed, feedPages(t, f.Client, limit)); diff != "" {
			t.Errorf("pages of %d: %s", limit, diff)
		}
	}
	for _, e := range feedPages(t, other, 50) {
		if strings.Contains(e.Stream, id) || strings.Contains(e.Stream, f.owner.String()) || e.Prompt == "The nature of light" {
			t.Errorf("another's event: %+v", e)
		}
	}
	if a := f.Do("GET", "/events?after=9007199254740991", "").Must(t, 200); string(a.Body) != "[]\n" {
		t.Errorf("%s", a.Body)
	}
}

// TestFeedResumesElsewhere cuts a feed at every event. It must go on at another server, after
// the last event, however the client names this event.
func TestFeedResumesElsewhere(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	elsewhere := f.another(t, func(*api.Options) {})
	elsewhere.T = t
	for range 2 {
		f.Do("POST", "/jobs/"+f.Submit(prompt)+"/cancel", "").Must(t, 200)
	}
	f.sequence()
	want := feedPages(t, f.Client, 50)
	for cut := range want {
		ctx, cancel := context.WithCancel(t.Context())
		next, stop := iter.Pull2(f.Stream(ctx, "/events", "Last-Event-ID", ""))
		got := nextEvents(t, next, cut+1)
		cancel()
		stop()
		last := fmt.Sprint(got[cut].Index)
		path, headers := "/events?after="+last, []string(nil)
		if cut%2 == 0 {
			path, headers = "/events", []string{"Last-Event-ID", last}
		}
		ctx, cancel = context.WithCancel(t.Context())
		next, stop = iter.Pull2(elsewhere.Stream(ctx, path, headers...))
		got = append(got, nextEvents(t, next, len(want)-cut-1)...)
		cancel()
		stop()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("cut after %d events: %s", cut+1, diff)
		}
	}
}

// TestFeedFollowsNewEvents follows from the end of the log. Only new events may come, and a
// stream must end with its session.
func TestFeedFollowsNewEvents(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tokens := f.SignIn("somebody", "a long sentence")
	c := f.As(tokens.Access)
	f.sequence()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	next, stop := iter.Pull2(c.Stream(ctx, "/events?after=9007199254740991"))
	defer stop()
	if m, err, _ := next(); m != (apitest.Message{}) || err != nil {
		t.Fatalf("%+v, %v", m, err)
	}
	// An event that enters the log before the feed has read the end of the log does not come.
	seen := make(chan []feedEvent, 1)
	go func() { seen <- nextEvents(apitest.Beside(t), next, 1) }()
	for got := []feedEvent(nil); got == nil; {
		c.Submit(prompt)
		f.sequence()
		select {
		case got = <-seen:
			if got[0].Type != "job.accepted" {
				t.Errorf("%+v", got)
			}
		case <-time.After(100 * time.Millisecond):
		}
	}
	f.Form("/revoke", "token", tokens.Refresh).Must(t, 200)
	for m, err, ok := next(); ok; m, err, ok = next() {
		if err != nil || m.Retry != "" {
			t.Errorf("%+v, %v", m, err)
		}
	}
	if ctx.Err() != nil {
		t.Error("the stream does not end with its session")
	}
}

// TestFeedCountsAsAStream opens a feed and a stream of a job, with one stream allowed.
func TestFeedCountsAsAStream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.Submit(prompt)
	c := f.another(t, func(o *api.Options) { o.MaxStreams = 1 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range c.Stream(ctx, "/events") {
		break
	}
	for _, path := range []string{"/events", "/jobs/" + id + "/events"} {
		c.Do("GET", path, "", "Accept", "text/event-stream").Refused(t, 429, "too_many_streams")
	}
	c.Do("GET", "/events", "").Must(t, 200)
	c.Do("HEAD", "/events", "", "Accept", "text/event-stream").Must(t, 200)
}

// TestFeedSaysWhenToResume stops a service. The stream must end with a retry field.
func TestFeedSaysWhenToResume(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var all []apitest.Message
	for m, err := range f.Stream(t.Context(), "/events") {
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, m); len(all) == 1 {
			f.stop()
		}
	}
	if last := all[len(all)-1]; last.Retry == "" || slices.ContainsFunc(all, func(m apitest.Message) bool { return m.Data != "" }) {
		t.Errorf("%+v", all)
	}
}

// TestFeedParametersAreBounded sends parameters beyond their bounds.
func TestFeedParametersAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, query := range []string{"after=-2", "after=9007199254740992", "after=x", "after=", "limit=0", "limit=257", "before=1"} {
		f.Do("GET", "/events?"+query, "").Refused(t, 422, "invalid_request")
	}
	f.Do("GET", "/events", "", "Last-Event-ID", "x").Refused(t, 422, "invalid_request")
	f.As("").Do("GET", "/events", "").Refused(t, 401, "missing_access_token")
}

// TestRefusedPromptsAreLimited sends more refused prompts than the limit of jobs allows. Each
// that the service has read must be in the feed, and no other.
//
// security: API4:2023
func TestRefusedPromptsAreLimited(t *testing.T) {
	t.Parallel()
	const most = 3
	f := newFixture(t, func(f *fixture) {
		f.api.Limits.Jobs = inMemory(t, most).Jobs
	})
	for range most {
		f.Do("POST", "/jobs", `{"prompt":"such violence"}`).Refused(t, 422, "prompt_word")
	}
	for range 5 {
		f.Do("POST", "/jobs", `{"prompt":"such violence"}`).Refused(t, 429, "rate_limit_exceeded")
	}
	f.sequence()
	var refusals []string
	for _, e := range feedPages(t, f.Client, 50) {
		if e.Type == "policy.refused" {
			refusals = append(refusals, e.Rule+" "+strings.Split(e.Policy, "/")[0])
		}
	}
	if diff := cmp.Diff(slices.Repeat([]string{"prompt_word seed"}, most), refusals); diff != "" {
		t.Error(diff)
	}
}
