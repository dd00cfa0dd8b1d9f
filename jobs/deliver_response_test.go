package jobs_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"

	"colophon/events"
)

// TestEndsOfResponsesAreNamed ends jobs of responses and of other operations in every way, with
// the store alone. Webhooks must hear of the ends of responses under their names, and only of
// those that they have asked for.
func TestEndsOfResponsesAreNamed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	all := f.hook("https://example.com/", events.WebhookEvents()...)
	jobsAlone := f.hook("https://example.com/")
	completed := f.hook("https://example.com/", "response.completed")
	started := events.JobStarted{Attempt: 1, Worker: "w", Weights: "sha256:00/f32", Kernel: "k"}
	var want, wantCompleted []string
	for _, response := range []string{"", events.ResponseUncapped, events.ResponseCapped} {
		for _, end := range []struct {
			facts      []events.Fact
			of         string
			of2        string // if the client chose the length
			ofResponse string
		}{
			{[]events.Fact{started, events.JobCompleted{FinishReason: "stop"}}, "job.completed", "response.completed", "response.completed"},
			{[]events.Fact{started, events.JobCompleted{FinishReason: "length"}}, "job.completed", "response.incomplete", "response.completed"},
			{[]events.Fact{started, events.JobCompleted{FinishReason: "content_filter"}}, "job.completed", "response.incomplete", "response.incomplete"},
			{[]events.Fact{started, events.JobFailed{Attempt: 1, Reason: `"response":"capped"`, Final: true}}, "job.failed", "response.failed", "response.failed"},
			{[]events.Fact{events.JobCancelled{By: "owner", Reason: `"finish_reason":"length"`}}, "job.cancelled", "response.cancelled", "response.cancelled"},
			{[]events.Fact{started, events.JobFailed{Attempt: 1, Reason: "r"}}, "", "", ""},
		} {
			r := request
			r.Prompt, r.Response = `a prompt with "response":"capped"`, response
			j, err := f.store.AppendJob(t.Context(), f.submit(r), end.facts...)
			if err != nil {
				t.Fatal(err)
			}
			if end.of == "" {
				continue
			}
			want = append(want, fmt.Sprint(end.of, " ", j.ID))
			name := map[string]string{events.ResponseUncapped: end.ofResponse, events.ResponseCapped: end.of2}[response]
			if name != "" {
				want = append(want, fmt.Sprint(name, " ", j.ID))
			}
			if name == "response.completed" {
				wantCompleted = append(wantCompleted, fmt.Sprint(name, " ", j.ID))
			}
		}
	}
	heard := func(w events.Webhook) (got []string) {
		t.Helper()
		for _, d := range f.deliveries(w) {
			got = append(got, fmt.Sprint(d.Type, " ", d.Job))
		}
		return got
	}
	if got := heard(all); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := heard(completed); !slices.Equal(got, wantCompleted) {
		t.Errorf("%v, want %v", got, wantCompleted)
	}
	if got := heard(jobsAlone); len(got) != 15 {
		t.Errorf("%v, want the ends of 15 jobs alone", got)
	}
}

// TestMessageAboutAResponseHasOpenAIsForm delivers the end of a response. The official library
// must verify it, and its members must be those of OpenAI's API, without a text.
func TestMessageAboutAResponseHasOpenAIsForm(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), newReceiver(t)
	w := f.hook(r.URL, "response.completed", "response.incomplete")
	f.deliver()
	asked := request
	asked.Response = events.ResponseCapped
	j := f.until(f.submit(asked), final)
	m := r.next(200)
	if !verifies(t, m, w.Keys[0]) {
		t.Errorf("not verified: %v", m.header)
	}
	want := fmt.Sprintf(`{"id":"evt_%s","object":"event","created_at":%d,"type":"response.incomplete","data":{"id":"resp_%s"}}`, m.id, j.FinishedAt.Unix(), j.ID)
	if m.body != want || j.FinishReason != "length" {
		t.Errorf("%s, want %s", m.body, want)
	}
	if d := f.untilDelivery(w, ended); d.Type != "response.incomplete" || d.Job != j.ID || d.Job == uuid.Nil {
		t.Errorf("%+v", d)
	}
	var body map[string]json.RawMessage
	if err := json.Unmarshal([]byte(m.body), &body); err != nil || len(body) != 5 {
		t.Errorf("%v, %v", body, err)
	}
}
