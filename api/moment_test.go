package api_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
)

func TestPastJobHasNoOutlook(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var j job
	f.Do("POST", "/jobs", prompt).Must(t, 202).Into(t, &j)
	path := "/jobs/" + j.ID
	live := f.Do("GET", path, "").Must(t, 200)
	past := f.Do("GET", path+"?at=1", "").Must(t, 200)
	if past.Header.Get("Retry-After") != "" || strings.Contains(string(past.Body), "queue_position") {
		t.Errorf("%v %s", past.Header, past.Body)
	}
	if live.Header.Get("Retry-After") == "" || !strings.Contains(string(live.Body), "queue_position") {
		t.Errorf("the live answer has no outlook: %v %s", live.Header, live.Body)
	}
	etag := past.Header.Get("ETag")
	if etag == "" || etag == live.Header.Get("ETag") || past.Header.Get("Cache-Control") != "private, no-cache" || past.Header.Get("Vary") != "Authorization" {
		t.Errorf("%v", past.Header)
	}
	f.Do("POST", path+"/cancel", "").Must(t, 200)
	again := f.Do("GET", path+"?at=1", "", "If-None-Match", etag).Must(t, 304)
	if len(again.Body) > 0 || again.Header.Get("ETag") != etag {
		t.Errorf("%v %s", again.Header, again.Body)
	}
	f.Do("GET", path+"?at=2", "", "If-None-Match", etag).Must(t, 200).Into(t, &j)
	if j.State != "cancelled" {
		t.Errorf("version 2 is %s", j.State)
	}
}

// TestMomentsThatCannotBeAnsweredAreExplained asks for versions and times that do not exist,
// or do not exist yet. Each answer must have its own code and say what to do.
func TestMomentsThatCannotBeAnsweredAreExplained(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var j job
	f.Do("POST", "/jobs", prompt).Must(t, 202).Into(t, &j)
	_, stranger := f.user("somebody-else")
	path := "/jobs/" + j.ID
	before := j.CreatedAt.Add(-time.Microsecond).Format(time.RFC3339Nano)
	future := time.Now().AddDate(1, 0, 0).UTC().Format(time.RFC3339)
	for _, c := range []struct {
		path   string
		status int
		code   string
		detail string
	}{
		{path + "?at=0", 404, "not_accepted_yet", "it was accepted at " + j.CreatedAt.Format(time.RFC3339Nano) + ", as version 1"},
		{path + "?at=" + before, 404, "not_accepted_yet", "as version 1"},
		{path + "?at=0001-01-01T00:00:00Z", 404, "not_accepted_yet", "as version 1"},
		{path + "?at=2", 404, "no_such_version", "the job has no such version yet: its latest is 1"},
		{path + "?at=" + future, 422, "time_in_future", "leave at out for the present state"},
		{path + "?at=2026-02-30T00:00:00Z", 422, "invalid_time", "send a day that exists"},
		{path + "?at=2026-08-01T12:00:00+02:00", 422, "invalid_request", "in a URL, + is %2B"},
		{path + "?at=-1", 422, "invalid_request", "a version such as 3, or an RFC 3339 time"},
		{path + "?at=yesterday", 422, "invalid_request", "a version such as 3, or an RFC 3339 time"},
		{path + "?at=9999999999", 422, "invalid_request", ""},
		{path + "?at=", 422, "invalid_request", ""},
		{"/jobs/" + uuid.NewString() + "?at=1", 404, "not_found", ""},
		{"/history?as_of=" + future, 422, "time_in_future", "leave as_of out"},
		{"/history?as_of=2026-02-30T00:00:00Z", 422, "invalid_request", ""},
		{"/history?as_of=2026-08-01T12:00:00,5Z", 422, "invalid_request", ""},
		{"/history?as_of=3", 422, "invalid_request", ""},
		{"/history?as_of=", 422, "invalid_request", ""},
	} {
		p := f.Do("GET", c.path, "").Refused(t, c.status, c.code)
		t.Log(c.path, p.Detail)
		if !strings.Contains(p.Detail, c.detail) {
			t.Errorf("%s: %s", c.path, p.Detail)
		}
	}
	for _, at := range []string{"0", "1", "2", before, j.CreatedAt.Format(time.RFC3339Nano), future, "2026-02-30T00:00:00Z"} {
		f.As(stranger).Do("GET", path+"?at="+at, "").Refused(t, 404, "not_found")
	}
	f.Do("POST", path+"/cancel", "").Must(t, 200)
	if p := f.Do("GET", path+"?at=3", "").Refused(t, 404, "no_such_version"); !strings.Contains(p.Detail, "it has ended with version 2") {
		t.Errorf("%s", p.Detail)
	}
	for _, early := range []string{before, "0000-01-01T00:00:00Z"} {
		if a := f.Do("GET", "/history?as_of="+early, "").Must(t, 200); string(a.Body) != "[]\n" {
			t.Errorf("as of %s: %s", early, a.Body)
		}
	}
}

// TestTimeALittleAheadIsAwaited asks for a time that comes within a second. The clock of the
// client may be ahead, so the service must wait and then answer.
func TestTimeALittleAheadIsAwaited(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.Submit(prompt)
	for _, path := range []string{"/jobs/" + id + "?at=", "/history?as_of="} {
		for same := false; !same; { // tried again if the store has corrected its clock meanwhile
			epoch := f.store.Clock().Epoch()
			at := f.store.Clock().Now().Add(500 * time.Millisecond)
			f.Do("GET", path+at.Format(time.RFC3339Nano), "").Must(t, 200)
			now := f.store.Clock().Now()
			if same = f.store.Clock().Epoch().Equal(epoch); same && now.Before(at) {
				t.Errorf("%s: answered at %v for %v", path, now, at)
			}
		}
	}
}

// TestMomentsAreThoseOfTheDatabasesClock asks for moments of a job while the database's clock is
// an hour off. The time of a process differs from the database's by part of a round trip, so the
// job itself says when it was accepted.
func TestMomentsAreThoseOfTheDatabasesClock(t *testing.T) {
	t.Parallel()
	for name, shift := range map[string]time.Duration{"behind": -time.Hour, "ahead": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, func(f *fixture) { f.db.ShiftClock(t, shift) })
			if err := f.store.Clock().Sync(t.Context(), f.db.App); err != nil {
				t.Fatal(err)
			}
			id := f.Submit(prompt)
			var job struct {
				CreatedAt time.Time `json:"created_at"`
			}
			f.Do("GET", "/jobs/"+id, "").Must(t, 200).Into(t, &job)
			now := time.Now().Add(shift)
			if off := now.Sub(job.CreatedAt); off.Abs() > time.Minute {
				t.Errorf("accepted %s ago", off)
			}
			for moment, want := range map[time.Time]int{job.CreatedAt: 200, now.Add(time.Minute): 422} {
				at := moment.UTC().Format(time.RFC3339Nano)
				f.Do("GET", "/jobs/"+id+"?at="+at, "").Must(t, want)
				f.Do("GET", "/history?as_of="+at, "").Must(t, want)
			}
		})
	}
}

// TestDamagedJobHasNoPast damages the last event of a job. The versions before it must be
// refused too, as the present job is.
func TestDamagedJobHasNoPast(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.Submit(prompt)
	f.Do("POST", "/jobs/"+id+"/cancel", "").Must(t, 200)
	_, stranger := f.user("somebody-else")
	f.db.Damage(t, `update events set payload = '\x00' where stream = $1 and version = 2`, events.Stream("job/"+id))
	for _, at := range []string{"", "?at=1", "?at=2", "?at=3"} {
		f.Do("GET", "/jobs/"+id+at, "").Refused(t, 410, "damaged")
		f.As(stranger).Do("GET", "/jobs/"+id+at, "").Refused(t, 404, "not_found")
	}
}

// TestPagesOfThePastStayInThePast completes the older of two jobs after the time of the
// request. The link to the next page must keep the time, so that page must be empty.
func TestPagesOfThePastStayInThePast(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) { f.db.ShiftClock(t, 0) })
	var running [2]events.Job
	put := func(j events.Job, facts ...events.Fact) events.Job {
		for _, fact := range facts {
			var err error
			if j, err = f.store.AppendJob(t.Context(), j, fact); err != nil {
				t.Fatal(err)
			}
		}
		return j
	}
	for i := range running {
		running[i] = put(events.Job{ID: f.store.NewID(), Owner: f.owner}, events.JobAccepted{Model: "m", Policy: "p"}, events.JobStarted{Attempt: 1, Weights: "w", Kernel: "k"})
	}
	newer := put(running[1], events.JobCompleted{FinishReason: "stop"})
	f.db.ShiftClock(t, time.Minute) // so the completion of the older job has a later time
	if err := f.store.Clock().Sync(t.Context(), f.db.App); err != nil {
		t.Fatal(err)
	}
	put(running[0], events.JobCompleted{FinishReason: "stop"})
	asOf := url.QueryEscape(newer.FinishedAt.In(time.FixedZone("", 7200)).Format(time.RFC3339Nano))
	a := f.Do("GET", "/history?limit=1&as_of="+asOf, "").Must(t, 200)
	var page []job
	if a.Into(t, &page); len(page) != 1 || page[0].ID != newer.ID.String() {
		t.Errorf("first page %+v", page)
	}
	link := nextPage.FindStringSubmatch(a.Header.Get("Link"))
	if link == nil {
		t.Fatalf("Link %q", a.Header.Get("Link"))
	}
	if a := f.Do("GET", link[1], "").Must(t, 200); string(a.Body) != "[]\n" || a.Header.Get("Link") != "" {
		t.Errorf("next page %s, Link %q", a.Body, a.Header.Get("Link"))
	}
	f.Do("GET", "/history?limit=2", "").Must(t, 200).Into(t, &page)
	if len(page) != 2 {
		t.Errorf("present history %+v", page)
	}
}
