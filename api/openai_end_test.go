package api_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"colophon/api"
	"colophon/events"
	"colophon/internal/policy"
	"colophon/jobs"
	"colophon/test/apitest"
)

const group = `{"model":"fake","prompt":["light","dark"],"n":2,"seed":5,"stream":`

// groupOf waits for n jobs and returns the group of the latest one.
func (f *fixture) groupOf(n int) []events.Job {
	f.T.Helper()
	jobs, err := f.queue.Group(f.T.Context(), f.newest(n))
	if err != nil {
		f.T.Fatal(err)
	}
	return jobs
}

// leaving posts a request that ctx ends while it is served. It returns the error that the
// client sees, after the handler has returned.
func (f *fixture) leaving(ctx context.Context, path, body string, headers ...string) error {
	resp, err := f.Open(ctx, "POST", path, body, headers...)
	if err != nil { // the client left before the headers of the answer
		<-f.served
		return err
	}
	defer resp.Body.Close()
	_, err = io.ReadAll(resp.Body)
	return err
}

// TestLeavingClientCancelsItsGroup disconnects clients before the answer and during the
// stream. All jobs of the request must be cancelled, unless it has an Idempotency-Key.
func TestLeavingClientCancelsItsGroup(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i, k := range []struct {
		stream, key string
		want        events.State
	}{
		{"false}", "", events.Cancelled},
		{"true}", "", events.Cancelled},
		{"false}", "a-key", events.Queued},
		{"true}", "another-key", events.Queued},
	} {
		ctx, leave := context.WithCancel(t.Context())
		gone := make(chan error)
		var headers []string
		if k.key != "" {
			headers = []string{"Idempotency-Key", k.key}
		}
		go func() { gone <- f.leaving(ctx, "/v1/completions", group+k.stream, headers...) }()
		all := f.groupOf(4 * (i + 1))
		leave()
		if err := <-gone; err == nil {
			t.Errorf("%+v: answered", k)
		}
		if len(all) != 4 || len(all[0].Group) != 4 {
			t.Fatalf("%+v: %d jobs", k, len(all))
		}
		for n, job := range all {
			job, err := f.store.Job(t.Context(), job.ID)
			if err != nil {
				t.Fatal(err)
			}
			if job.State != k.want || job.Params.Seed != uint64(5+n%2) || job.Prompt != []string{"light", "dark"}[n/2] {
				t.Errorf("%+v: job %d is %s, with the seed %d and the prompt %q", k, n, job.State, job.Params.Seed, job.Prompt)
			}
		}
	}
}

// TestFailedTextEndsItsGroup ends one job of a streamed group. The stream must end with the
// error, and the other jobs must be cancelled, because nobody reads their texts.
func TestFailedTextEndsItsGroup(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	answered := make(chan apitest.Answer, 1)
	go func() {
		a, err := f.Send(t.Context(), "POST", "/v1/completions", group+"true}")
		if err != nil {
			t.Error(err)
		}
		answered <- a
	}()
	all := f.groupOf(4)
	if _, err := f.queue.Cancel(t.Context(), all[2], events.JobCancelled{By: "command"}); err != nil {
		t.Fatal(err)
	}
	if a := <-answered; !strings.Contains(string(a.Body), `"error"`) || strings.Contains(string(a.Body), "[DONE]") {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	for _, j := range all {
		if now, err := f.store.Job(t.Context(), j.ID); err != nil || now.State != events.Cancelled {
			t.Errorf("%s: %s, %v", j.ID, now.State, err)
		}
	}
}

// TestCancelCoversTheGroup cancels one job of a group while a stream of the group is open.
// The stream must end with the error, and all jobs must be cancelled.
func TestCancelCoversTheGroup(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ended := make(chan []string)
	go func() { ended <- f.stream("/v1/completions", group+"true}") }()
	all := f.groupOf(4)
	f.Do("POST", "/jobs/"+all[2].ID.String()+"/cancel", "").Must(t, 200)
	chunks := <-ended
	var last struct {
		Error struct{ Message, Type, Code string }
	}
	if err := json.Unmarshal([]byte(chunks[len(chunks)-1]), &last); err != nil || last.Error.Code != "job_cancelled" || last.Error.Type != "invalid_request_error" || last.Error.Message == "" {
		t.Errorf("the stream ends with %q", chunks)
	}
	for _, job := range all {
		if job, err := f.store.Job(t.Context(), job.ID); err != nil || job.State != events.Cancelled {
			t.Errorf("%s, %v", job.State, err)
		}
	}
	answered := make(chan apitest.Answer)
	go func() {
		a, err := f.Send(t.Context(), "POST", "/v1/completions", group+"false}")
		if err != nil {
			t.Errorf("not answered: %v", err)
		}
		answered <- a
	}()
	all = f.groupOf(8)
	f.Do("POST", "/jobs/"+all[0].ID.String()+"/cancel", "").Must(t, 200)
	a := <-answered
	a.Refused(t, 409, "job_cancelled")
	if a.Header.Get("X-Should-Retry") != "false" {
		t.Errorf("headers %v: a client would try again", a.Header)
	}
}

// TestRepeatedGroupIsTheSame sends a request twice under a key. Both answers must be about
// the same jobs.
func TestRepeatedGroupIsTheSame(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	request := strings.Replace(group, "fake", "opticks", 1)
	first := f.Do("POST", "/v1/completions", request+"false}", "Idempotency-Key", "k").Must(t, 200)
	again := f.Do("POST", "/v1/completions", request+"false}", "Idempotency-Key", "k").Must(t, 200)
	if string(first.Body) != string(again.Body) {
		t.Errorf("%s\n%s", first.Body, again.Body)
	}
	f.newest(4)
	f.Do("POST", "/v1/completions", request+"true}", "Idempotency-Key", "k").Refused(t, 400, "idempotency_key_reused")
	var c completion
	first.Into(t, &c)
	streamed := f.stream("/v1/completions", request+"true}", "Idempotency-Key", "s")
	if repeated := f.stream("/v1/completions", request+"true}", "Idempotency-Key", "s"); text(t, repeated) != text(t, streamed) || text(t, streamed) != strings.Join(c.texts(), "|") {
		t.Errorf("%q\n%q", streamed, repeated)
	}
	f.newest(8)
}

// text returns the texts in the chunks of a stream, by index.
func text(t *testing.T, chunks []string) string {
	t.Helper()
	var texts []string
	for _, data := range chunks[:len(chunks)-1] {
		var c completion
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			t.Fatal(err)
		}
		for _, choice := range c.Choices {
			for len(texts) <= choice.Index {
				texts = append(texts, "")
			}
			texts[choice.Index] += choice.Text
		}
	}
	return strings.Join(texts, "|")
}

// TestStoppingServiceEndsRequests stops the service while clients wait. They get an error
// that lets them try again. The jobs of a stream go on, because its chunks have named them.
func TestStoppingServiceEndsRequests(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	answered := make(chan apitest.Answer)
	go func() {
		a, err := f.Send(t.Context(), "POST", "/v1/completions", `{"model":"fake","prompt":"light"}`)
		if err != nil {
			t.Errorf("not answered: %v", err)
		}
		answered <- a
	}()
	waiting := f.newest(1)
	ended := make(chan []string)
	go func() {
		ended <- f.stream("/v1/completions", `{"model":"fake","prompt":"light","echo":true,"stream":true}`)
	}()
	streamed := f.newest(2)
	f.stop()
	a := <-answered
	a.Refused(t, 503, "interrupted")
	if retry := a.Header.Get("X-Should-Retry"); retry != "" {
		t.Errorf("X-Should-Retry %q", retry)
	}
	if chunks := <-ended; !strings.Contains(chunks[len(chunks)-1], `"code":"interrupted"`) {
		t.Errorf("the stream ends with %q", chunks)
	}
	for job, want := range map[*events.Job]events.State{&waiting: events.Cancelled, &streamed: events.Queued} {
		if now, err := f.store.Job(t.Context(), job.ID); err != nil || now.State != want {
			t.Errorf("%s, want %s, %v", now.State, want, err)
		}
	}
}

// TestErrorsAreThoseOfOpenAI reads the members and headers that OpenAI's clients decide by.
func TestErrorsAreThoseOfOpenAI(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	limited := func(l jobs.Limits) apitest.Client {
		q, err := jobs.NewQueue(f.db.App, f.store, f.api.Model, policy.Default, l, f.api.Log)
		if err != nil {
			t.Fatal(err)
		}
		return f.another(t, func(o *api.Options) { o.Queue = q })
	}
	for name, k := range map[string]struct {
		client      apitest.Client
		path, body  string
		status      int
		code, param string
		retry       string
	}{
		"a wrong model":     {f.Client, "completions", `{"model":"gpt-4","prompt":"light"}`, 404, "model_not_found", `"model"`, ""},
		"a long prompt":     {f.Client, "completions", `{"model":"fake","prompt":"` + strings.Repeat("light ", 200) + `"}`, 400, "context_length_exceeded", `"prompt"`, ""},
		"a long talk":       {f.Client, "chat/completions", `{"model":"fake","messages":[{"role":"user","content":"` + strings.Repeat("light ", 200) + `"}]}`, 400, "context_length_exceeded", `"messages"`, ""},
		"a blank prompt":    {f.Client, "completions", `{"model":"fake","prompt":" "}`, 400, "prompt_blank", `"prompt"`, ""},
		"a spent budget":    {limited(jobs.Limits{Tokens: 30}), "completions", `{"model":"fake","prompt":["light","light"],"max_tokens":20}`, 400, "over_token_budget", "null", ""},
		"too many jobs":     {limited(jobs.Limits{Outstanding: 1}), "completions", `{"model":"fake","prompt":["light","dark"]}`, 429, "too_many_jobs", "null", ""},
		"no bearer":         {f.As(""), "completions", `{"model":"fake","prompt":"light"}`, 401, "missing_access_token", "null", ""},
		"a malformed body":  {f.Client, "completions", `{`, 400, "invalid_request", "null", ""},
		"an unknown member": {f.Client, "completions", `{"model":"fake","prompt":"light","colour":1}`, 400, "unknown_parameter", "null", ""},
	} {
		a := k.client.Do("POST", "/v1/"+k.path, k.body)
		a.Refused(t, k.status, k.code)
		var body struct {
			Error map[string]json.RawMessage
		}
		a.Into(t, &body)
		if got := string(body.Error["param"]); got != k.param {
			t.Errorf("%s: param %s, want %s", name, got, k.param)
		}
		if a.Header.Get("X-Should-Retry") != k.retry || a.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: headers %v", name, a.Header)
		}
	}
	budget := limited(jobs.Limits{Tokens: 30})
	gone := make(chan error)
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		_, err := budget.Send(ctx, "POST", "/v1/completions", `{"model":"fake","prompt":"light","max_tokens":20}`, "Idempotency-Key", "k")
		gone <- err
	}()
	f.newest(1)
	if a := budget.Do("POST", "/v1/completions", `{"model":"fake","prompt":"light","max_tokens":20}`); a.Code() != "token_budget_spent" || a.Header.Get("X-Should-Retry") != "false" && len(a.Header.Get("Retry-After")) > 2 {
		t.Errorf("%d %s %v", a.Status, a.Code(), a.Header)
	}
	leave()
	<-gone
}

// TestFullStreamsMakeNoJobs opens more streams than allowed. A refused stream must not leave
// a job.
func TestFullStreamsMakeNoJobs(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) { f.api.MaxStreams = 1 })
	resp, err := f.Open(t.Context(), "POST", "/v1/completions", `{"model":"fake","prompt":"light","stream":true}`)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	f.newest(1)
	f.Do("POST", "/v1/completions", `{"model":"fake","prompt":"light","stream":true}`).Refused(t, 429, "too_many_streams")
	f.newest(1)
	resp.Body.Close()
}

// TestWrongValuesAre400 sends a wrong value to each operation of OpenAI's API. Clients of this API
// may send a request again after any other status.
func TestWrongValuesAre400(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var described struct {
		Paths map[string]map[string]struct{ Responses map[string]json.RawMessage }
	}
	f.Do("GET", "/openapi.json", "").Must(t, 200).Into(t, &described)
	operations := 0
	for path, methods := range described.Paths {
		if !strings.HasPrefix(path, "/v1/") {
			continue
		}
		for method, op := range methods {
			operations++
			if op.Responses["422"] != nil || op.Responses["400"] == nil {
				t.Errorf("%s %s: the description has not 400, or has 422", method, path)
			}
			headers := []string{"Content-Type", "application/json"}
			if method == "post" && path == "/v1/files" {
				headers[1] = "multipart/form-data; boundary=b"
			}
			f.Do(strings.ToUpper(method), path+"?colour=1", `{}`, headers...).Refused(t, 400, "invalid_request")
		}
	}
	if operations < 18 {
		t.Errorf("only %d operations", operations)
	}
}
