package api_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/test/apitest"
)

// listedJob is a job in an answer of GET /jobs.
type listedJob struct {
	ID         uuid.UUID
	State      string
	Prompt     string
	Completion string
	Deadline   *time.Time
	CreatedAt  time.Time  `json:"created_at"`
	ErasedAt   *time.Time `json:"erased_at"`
}

// jobPages reads a list of jobs from a path on, page by page.
func jobPages(t testing.TB, c apitest.Client, path string) (all []listedJob, pages int) {
	t.Helper()
	for ; path != ""; pages++ {
		a := c.Do("GET", path, "").Must(t, 200)
		var page []listedJob
		a.Into(t, &page)
		all = append(all, page...)
		path, _, _ = strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), `>; rel="next"`)
	}
	return all, pages
}

// TestJobsAreListed lists jobs in each state, with each filter, in pages.
//
// security: API1:2023
func TestJobsAreListed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if a := f.Do("GET", "/jobs", "").Must(t, 200); string(a.Body) != "[]\n" || a.Header.Get("Link") != "" {
		t.Errorf("before the first job: %s, %v", a.Body, a.Header)
	}
	completed, erased, damaged, cancelled, queued := f.submit("completed"), f.submit("erased"), f.submit("damaged"), f.submit("cancelled"), f.submit("queued")
	f.complete(completed)
	f.complete(erased)
	f.Do("DELETE", "/jobs/"+erased.String(), "").Must(t, 204)
	f.Do("POST", "/jobs/"+cancelled.String()+"/cancel", "").Must(t, 200)
	f.db.Damage(t, `update events set payload = '\x00' where stream = $1`, events.JobStream(damaged))
	f.Do("GET", "/jobs/"+damaged.String(), "").Refused(t, 410, "damaged")
	newest := []uuid.UUID{queued, cancelled, damaged, erased, completed}
	all, _ := jobPages(t, f.Client, "/jobs")
	for i, want := range []struct {
		state, prompt, completion string
		deadline, erased          bool
	}{
		{"queued", "queued", "", true, false},
		{"cancelled", "cancelled", "", false, false},
		{"damaged", "", "", false, false},
		{"completed", "", "", false, true},
		{"completed", "completed", " is <white>.", false, false},
	} {
		if j := all[i]; j.ID != newest[i] || j.State != want.state || j.Prompt != want.prompt || j.Completion != want.completion || (j.Deadline != nil) != want.deadline || (j.ErasedAt != nil) != want.erased {
			t.Errorf("%d: %+v, want %+v", i, j, want)
		}
	}
	at := url.QueryEscape(all[2].CreatedAt.Format(time.RFC3339Nano))
	for query, want := range map[string][]uuid.UUID{
		"":                                           newest,
		"state=queued":                               newest[:1],
		"state=completed":                            newest[3:],
		"state=completed,queued,completed":           {queued, erased, completed},
		"state=damaged%2Cfailed":                     {damaged},
		"model=fake":                                 newest,
		"model=fake&state=cancelled":                 {cancelled},
		"model=other":                                nil,
		"since=" + at:                                newest[:3],
		"until=" + at:                                newest[3:],
		"since=" + at + "&until=" + at:               nil,
		"since=0000-01-01T00:00:00Z":                 newest,
		"until=0000-01-01T00:00:00Z":                 nil,
		"since=9999-12-31T23:59:59Z":                 nil,
		"before=" + damaged.String():                 newest[3:],
		"before=" + uuid.Nil.String():                newest,
		"before=" + uuid.Max.String():                newest,
		"state=queued,completed&since=" + at:         {queued},
		"until=" + at + "&before=" + erased.String(): {completed},
	} {
		for _, limit := range []int{1, 2, 100} {
			found, pages := jobPages(t, f.Client, fmt.Sprintf("/jobs?%s&limit=%d", query, limit))
			var ids []uuid.UUID
			for _, j := range found {
				ids = append(ids, j.ID)
			}
			if !slices.Equal(ids, want) || pages > len(want)/limit+1 {
				t.Errorf("%s: %d pages of %d with %v, want %v", query, pages, limit, ids, want)
			}
		}
	}
	for _, query := range []string{"state=", "state=ended", "state=queued,", "state=queued&state=running", "model=", "since=yesterday", "until=2026", "limit=0", "limit=101", "before=x", "after=x", "count=true"} {
		f.Do("GET", "/jobs?"+query, "").Refused(t, 422, "invalid_request")
	}
	// Nobody else sees the jobs, whatever the role.
	_, auditor := f.auditor()
	_, stranger := f.user("stranger")
	for _, c := range []apitest.Client{auditor, f.As(stranger)} {
		if found, _ := jobPages(t, c, "/jobs?before="+queued.String()); len(found) != 0 {
			t.Errorf("%+v", found)
		}
	}
	f.As("").Do("GET", "/jobs", "").Refused(t, 401, "missing_access_token")
	f.Do("DELETE", "/users/me", `{"password":"a long sentence"}`).Must(t, 204)
	f.Do("GET", "/jobs", "").Refused(t, 401, "invalid_access_token")
}

// TestPagesHoldWhileJobsArrive reads pages while other jobs are accepted. The pages must have
// each earlier job once.
func TestPagesHoldWhileJobsArrive(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var want []uuid.UUID
	for range 12 {
		want = append([]uuid.UUID{f.submit("early")}, want...)
	}
	ctx := t.Context()
	read := make(chan struct{})
	var writers sync.WaitGroup
	for range 2 {
		writers.Go(func() {
			for {
				if a, err := f.Send(ctx, "POST", "/jobs", `{"prompt":"late"}`); err != nil || a.Status != 202 {
					t.Errorf("%d %s, %v", a.Status, a.Body, err)
					return
				}
				select {
				case <-read:
					return
				default:
				}
			}
		})
	}
	for range 5 {
		found, _ := jobPages(t, f.Client, "/jobs?limit=2")
		var early []uuid.UUID
		seen := map[uuid.UUID]bool{}
		for _, j := range found {
			if seen[j.ID] {
				t.Errorf("job %s twice", j.ID)
			}
			if seen[j.ID] = true; j.Prompt == "early" {
				early = append(early, j.ID)
			}
		}
		if !slices.Equal(early, want) {
			t.Errorf("%v, want %v", early, want)
		}
	}
	close(read)
	writers.Wait()
}

// TestHistoryGoesOnBehindADamagedText damages the newest text. The page without it must link
// to the next one.
func TestHistoryGoesOnBehindADamagedText(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	older, newer := f.submit("older"), f.submit("newer")
	f.complete(older)
	f.complete(newer)
	f.db.Damage(t, `update events set payload = '\x00' where stream = $1`, events.JobStream(newer))
	f.db.Damage(t, `update history set sealed = '\x00' where job = $1`, newer)
	found, _ := jobPages(t, f.Client, "/history?limit=1")
	if len(found) != 1 || found[0].ID != older {
		t.Errorf("%+v", found)
	}
}
