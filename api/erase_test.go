package api_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/events/receipt"
	"colophon/internal/vault"
)

// follow returns the data of the events of a stream that ends.
func (f *fixture) follow(path string) (data []string) {
	f.T.Helper()
	body := string(f.Do("GET", path, "", "Accept", "text/event-stream").Must(f.T, 200).Body)
	for line := range strings.Lines(body) {
		if text, ok := strings.CutPrefix(line, "data: "); ok {
			data = append(data, text)
		}
	}
	return data
}

// mustHide fails the test unless no answer about a job contains a secret of it.
func (f *fixture) mustHide(t *testing.T, id uuid.UUID, secrets ...string) {
	t.Helper()
	path := "/jobs/" + id.String()
	for _, route := range []string{path, path + "?at=1", path + "?at=2", path + "/events", path + "/receipt?disclose=text,prompt,params,stop,tokens,owner,request", "/history", "/jobs"} {
		a := f.Do("GET", route, "").Must(t, 200)
		all := string(a.Body)
		if strings.Contains(route, "receipt") {
			all = plain(t, a.Body)
		}
		for _, secret := range secrets {
			if strings.Contains(all, secret) {
				t.Errorf("GET %s shows %q: %s", route, secret, a.Body)
			}
		}
	}
	for _, m := range f.follow(path + "/events") {
		for _, secret := range secrets {
			if strings.Contains(m, secret) {
				t.Errorf("the stream shows %q: %s", secret, m)
			}
		}
	}
}

// TestErasedJobIsATombstone erases an ended job. Every route must show its record without
// texts, and receipts from before and after the erasure must be proven.
//
// security: LLM02:2025
func TestErasedJobIsATombstone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const body = `{"prompt":"The nature of peacockfeather","stop":["peacockstop"],"seed":170417041704}`
	key := []string{"Idempotency-Key", `"k"`}
	var submitted struct{ ID uuid.UUID }
	f.Do("POST", "/jobs", body, key...).Must(t, 202).Into(t, &submitted)
	id := submitted.ID
	path := "/jobs/" + id.String()
	f.complete(id)
	f.sequence()
	keys := f.keys()
	before := f.Do("GET", path+"/receipt", "").Must(t, 200).Body

	_, stranger := f.user("stranger")
	f.As(stranger).Do("DELETE", path, "").Refused(t, 404, "not_found")
	f.Do("DELETE", "/jobs/"+uuid.NewString(), "").Refused(t, 404, "not_found")
	f.As("").Do("DELETE", path, "").Refused(t, 401, "missing_access_token")
	for range 2 {
		if a := f.Do("DELETE", path, "").Must(t, 204); len(a.Body) != 0 {
			t.Errorf("%s", a.Body)
		}
	}
	f.sequence()
	f.mustHide(t, id, "peacock", "white", "170417041704")

	var tombstone struct {
		State, Prompt string
		GeneratedText string `json:"generated_text"`
		Params        any
		Version       int
		Usage         struct {
			CompletionTokens int `json:"completion_tokens"`
		}
		ErasedAt time.Time `json:"erased_at"`
	}
	a := f.Do("GET", path, "").Must(t, 200)
	a.Into(t, &tombstone)
	if tombstone.State != "completed" || tombstone.Prompt+tombstone.GeneratedText != "" || tombstone.Params != nil ||
		tombstone.Usage.CompletionTokens != 3 || tombstone.Version != 6 || tombstone.ErasedAt.IsZero() {
		t.Errorf("%s", a.Body)
	}
	past := f.Do("GET", path+"?at=5", "").Must(t, 200)
	if past.Into(t, &tombstone); tombstone.Usage.CompletionTokens != 3 || tombstone.Version != 5 || tombstone.ErasedAt.IsZero() {
		t.Errorf("before the erasure: %s", past.Body)
	}
	var list []struct {
		Prompt   string
		ErasedAt time.Time `json:"erased_at"`
	}
	f.Do("GET", "/history", "").Must(t, 200).Into(t, &list)
	if len(list) != 1 || !list[0].ErasedAt.Equal(tombstone.ErasedAt) || list[0].Prompt != "" {
		t.Errorf("history %v", list)
	}
	stream := f.follow(path + "/events")
	if len(stream) != 6 || !strings.Contains(stream[5], `"type":"job.erased"`) || !strings.Contains(stream[5], `"by":"owner"`) || strings.Contains(stream[0], `"prompt"`) {
		t.Errorf("%q", stream)
	}
	if last := f.follow(path + "/events?after=5"); len(last) != 1 {
		t.Errorf("after the end: %q", last)
	}
	f.Do("POST", path+"/cancel", "").Must(t, 200)

	// The same request must not bring the text back.
	a = f.Do("POST", "/jobs", body, key...).Must(t, 202)
	if strings.Contains(string(a.Body), "peacock") || strings.Contains(string(a.Body), "white") {
		t.Errorf("%s", a.Body)
	}
	f.Do("POST", "/jobs", body, append(key, "Prefer", "wait=5")...).Refused(t, 410, "job_erased")

	for name, text := range map[string][]byte{"before": before, "after": f.Do("GET", path+"/receipt", "").Must(t, 200).Body} {
		r, err := receipt.Verify(text, keys, nil)
		if err != nil {
			t.Errorf("receipt from %s the erasure: %v", name, err)
			continue
		}
		if shown, ok := r.Text(); (name == "before") != ok || ok && shown != " is <white>." {
			t.Errorf("receipt from %s the erasure: text %q", name, shown)
		}
		if r.Erased() != (name == "after") {
			t.Errorf("receipt from %s the erasure: erased %v", name, r.Erased())
		}
	}
}

// TestErasureEndsAStream erases a job while a client follows it. The stream must end with
// job.erased, with nothing of a text that was appended since. A request that waits for a text
// must end too.
func TestErasureEndsAStream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	waited := make(chan int, 1)
	go func() { waited <- f.Do("POST", "/jobs", prompt, "Prefer", "wait=30").Status }()
	waiting := f.newest(1)
	id := f.submit("The nature of light")
	job, err := f.store.Job(t.Context(), id)
	if err == nil {
		job, err = f.store.AppendJob(t.Context(), job, events.JobStarted{Attempt: 1, Worker: "w", Weights: "w/f32", Kernel: "k"}, events.JobAdvanced{Tokens: []int{1}, Text: " early"})
	}
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for m, err := range f.Stream(t.Context(), "/jobs/"+id.String()+"/events") {
		if err != nil {
			t.Fatal(err)
		}
		if m.Data == "" {
			continue
		}
		var e struct{ Type string }
		if err := json.Unmarshal([]byte(m.Data), &e); err != nil {
			t.Fatal(err)
		}
		if types = append(types, e.Type); e.Type == "job.advanced" && len(types) == 3 {
			if job, err = f.store.AppendJob(t.Context(), job, events.JobAdvanced{Tokens: []int{2}, Text: " late"}); err != nil {
				t.Fatal(err)
			}
			f.Do("DELETE", "/jobs/"+id.String(), "").Must(t, 204)
		}
	}
	if n := len(types); n != 6 || types[n-1] != "job.erased" || types[n-2] != "job.cancelled" {
		t.Errorf("%q", types)
	}
	f.Do("DELETE", "/jobs/"+waiting.ID.String(), "").Must(t, 204)
	if status := <-waited; status != http.StatusGone {
		t.Errorf("a request that waits: %d, want 410", status)
	}
}

// TestErasedJobOfAnErasedAccountIsGone erases a job and then its account.
func TestErasedJobOfAnErasedAccountIsGone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.submit("The nature of light")
	f.complete(id)
	f.Do("DELETE", "/jobs/"+id.String(), "").Must(t, 204)
	f.Do("DELETE", "/users/me", `{"password":"a long sentence"}`).Must(t, 204)
	f.Do("GET", "/jobs/"+id.String(), "").Must(t, 401)
	if job, err := f.store.Job(t.Context(), id); err != nil || !job.Erased || job.State != events.Completed {
		t.Errorf("%+v, %v", job, err)
	}
	if _, err := f.vault.Reload(t.Context(), f.db.App, f.owner); !errors.Is(err, vault.ErrErased) {
		t.Errorf("key: %v", err)
	}
}
