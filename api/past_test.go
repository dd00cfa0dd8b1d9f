package api_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"colophon/events"
	"colophon/model"
	"colophon/test/apitest"
)

// past is what an owner's live service answered after each of the owner's events.
type past struct {
	apitest.Client
	store *events.Store
	owner uuid.UUID
	jobs  []events.Job
	steps []step
}

// step is one event of a job, and the answers of the live service after it.
type step struct {
	job     events.Job
	body    string // of GET /jobs/{id}, without the members that are not on record
	history string // of GET /history
}

// notOnRecord matches the members of a live answer that the answer for a past moment leaves
// out.
var notOnRecord = regexp.MustCompile(`"(queue_position|estimated_start_at|waiting_for_model)":[^,]*,`)

// drawNext draws a fact that may come next in the job's stream.
func drawNext(t *rapid.T, j events.Job) events.Fact {
	text := rapid.StringN(0, 9, -1)
	if j.Version == 0 {
		return events.JobAccepted{
			Prompt: text.Draw(t, "prompt"), PromptTokens: 3, Model: "m", Policy: "p",
			Params:  model.Params{MaxTokens: 9, TopP: 1, Seed: rapid.Uint64().Draw(t, "seed")},
			Weights: rapid.SampledFrom([]string{"", "sha256:0"}).Draw(t, "weights"),

			Watermark: rapid.SampledFrom([]events.Watermark{{}, {Key: "020ca29fff479ebe", Parameters: "gumbel-h3-s8/1"}}).Draw(t, "watermark"),
		}
	}
	failed := events.JobFailed{Attempt: j.Attempts, Reason: text.Draw(t, "reason"), Final: rapid.Bool().Draw(t, "final")}
	started := events.JobStarted{Attempt: j.Attempts + 1, Worker: "w", FromToken: len(j.Tokens), Weights: "sha256:0/f32", Kernel: rapid.SampledFrom([]string{"go", "avx"}).Draw(t, "kernel")}
	if j.State == events.Queued {
		return rapid.SampledFrom([]events.Fact{started, started, started, failed, events.JobCancelled{By: "owner"}}).Draw(t, "fact")
	}
	advanced := events.JobAdvanced{Tokens: rapid.SliceOfN(rapid.IntRange(0, 9), 1, 3).Draw(t, "tokens"), Text: text.Draw(t, "text")}
	completed := events.JobCompleted{FinishReason: "stop", Usage: events.Usage{CompletionTokens: len(j.Tokens)}}
	return rapid.SampledFrom([]events.Fact{advanced, advanced, completed, completed, started, failed, events.JobCancelled{By: "owner"}}).Draw(t, "fact")
}

// next appends an event to a new or an unfinished job, and records the answers of the live
// service.
func (p *past) next(t *rapid.T) {
	running := slices.DeleteFunc(slices.Clone(p.jobs), func(j events.Job) bool { return j.State.Final() })
	i := rapid.IntRange(0, len(running)).Draw(t, "job")
	job := events.Job{ID: p.store.NewID(), Owner: p.owner}
	if i < len(running) {
		job = running[i]
	}
	job, err := p.store.AppendJob(p.T.Context(), job, drawNext(t, job))
	if err != nil {
		t.Fatal(err)
	}
	p.jobs = append(slices.DeleteFunc(p.jobs, func(j events.Job) bool { return j.ID == job.ID }), job)
	live := p.Do("GET", "/jobs/"+job.ID.String(), "").Must(p.T, 200)
	p.steps = append(p.steps, step{
		job:     job,
		body:    notOnRecord.ReplaceAllString(string(live.Body), ""),
		history: string(p.Do("GET", "/history", "").Must(p.T, 200).Body),
	})
}

// drawTime draws a number of steps, and a time at which these and no further steps had
// happened. If two events have the same time, no time separates them.
func (p *past) drawTime(t *rapid.T) (happened int, at time.Time) {
	var cuts []int
	from := func(n int) time.Time { // the time of the latest of the first n events
		latest := p.steps[0].job.ChangedAt.Add(-time.Hour)
		for _, s := range p.steps[:n] {
			latest = later(latest, s.job.ChangedAt)
		}
		return latest
	}
	room := func(n int) time.Duration { // the time from the first n events to the others
		room := time.Microsecond
		for i, s := range p.steps[n:] {
			if gap := s.job.ChangedAt.Sub(from(n)); i == 0 || gap < room {
				room = gap
			}
		}
		return room
	}
	for n := range len(p.steps) + 1 {
		if room(n) > 0 {
			cuts = append(cuts, n)
		}
	}
	happened = rapid.SampledFrom(cuts).Draw(t, "steps")
	us := rapid.Int64Range(0, room(happened).Microseconds()-1).Draw(t, "microseconds after them")
	return happened, from(happened).Add(time.Duration(us) * time.Microsecond)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// spell draws a spelling of a time as a query parameter.
func spell(t *rapid.T, at time.Time) string {
	zone := rapid.SampledFrom([]*time.Location{time.UTC, time.FixedZone("", 19800), time.FixedZone("", -7200)}).Draw(t, "zone")
	return url.QueryEscape(at.In(zone).Format(time.RFC3339Nano))
}

// TestPastAnswersAreThoseOfThen appends random facts to several jobs of an owner, and records
// the answer of the live service after each. Later, the answers for each version and for
// random times must have the same bytes, except the members that are not on record.
func TestPastAnswersAreThoseOfThen(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	client := serve(t, f.api, false)
	users := 0
	rapid.Check(t, func(rt *rapid.T) {
		users++
		name := fmt.Sprint("user-", users)
		p := &past{store: f.store, owner: f.Register(name, apitest.Password)}
		p.Client = client.As(f.SignIn(name, apitest.Password).Access)
		for range rapid.IntRange(1, 9).Draw(rt, "events") {
			p.next(rt)
		}
		for _, s := range p.steps {
			path := fmt.Sprintf("/jobs/%s?at=%d", s.job.ID, s.job.Version)
			if got := p.Do("GET", path, "").Must(t, 200); string(got.Body) != s.body {
				rt.Fatalf("%s: now\n%s, then\n%s", path, got.Body, s.body)
			}
		}
		happened, at := p.drawTime(rt)
		then := map[uuid.UUID]string{}
		history := "[]\n"
		for _, s := range p.steps[:happened] {
			then[s.job.ID], history = s.body, s.history
		}
		for _, j := range p.jobs {
			a := p.Do("GET", "/jobs/"+j.ID.String()+"?at="+spell(rt, at), "")
			if then[j.ID] == "" {
				a.Refused(t, 404, "not_accepted_yet")
			} else if string(a.Must(t, 200).Body) != then[j.ID] {
				rt.Fatalf("at %s: now\n%s, then\n%s", at, a.Body, then[j.ID])
			}
		}
		if got := p.Do("GET", "/history?as_of="+spell(rt, at), "").Must(t, 200); string(got.Body) != history {
			rt.Fatalf("as of %s: now\n%s, then\n%s", at, got.Body, history)
		}
		pages := fmt.Sprintf("/history?as_of=%s&limit=%d", spell(rt, at), rapid.IntRange(1, 3).Draw(rt, "limit"))
		if got := p.pages(pages); got != history {
			rt.Fatalf("%s: now\n%s, then\n%s", pages, got, history)
		}
	})
}

var nextPage = regexp.MustCompile(`^<(/history\?[^>]+)>; rel="next"$`)

// pages follows the links from a page of the history, and returns all pages as one list.
func (p *past) pages(path string) string {
	all := []string{}
	for path != "" {
		a := p.Do("GET", path, "").Must(p.T, 200)
		var page []json.RawMessage
		a.Into(p.T, &page)
		for _, job := range page {
			all = append(all, string(job))
		}
		path = ""
		if link := nextPage.FindStringSubmatch(a.Header.Get("Link")); link != nil {
			path = link[1]
		}
	}
	return "[" + strings.Join(all, ",") + "]\n"
}
