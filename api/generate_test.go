package api_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/model"
)

// TestSamplingParametersAreRecorded submits parameters, neutral ones too. They must be in the
// record and in the job resource, and neutral ones must be in neither.
func TestSamplingParametersAreRecorded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for request, want := range map[string]string{
		`"presence_penalty":-2,"frequency_penalty":0.5,"repetition_penalty":1.2,"min_p":0.05,"logit_bias":{"299":-100,"0":1.5,"7":0},"min_tokens":7`: `,"presence_penalty":-2,"frequency_penalty":0.5,"repetition_penalty":1.2,"min_p":0.05,"logit_bias":{"0":1.5,"299":-100},"min_tokens":7`,
		`"presence_penalty":0,"frequency_penalty":-0.0,"repetition_penalty":1,"min_p":0,"logit_bias":{"7":0},"min_tokens":0`:                         ``,
		`"presence_penalty":null,"frequency_penalty":null,"repetition_penalty":null,"min_p":null,"logit_bias":null,"min_tokens":null`:                ``,
		`"logit_bias":{}`: ``,
	} {
		want := `{"max_tokens":9,"temperature":0.8,"top_k":40,"top_p":1,"seed":5` + want + `}`
		id := f.Submit(`{"prompt":"light","max_new_tokens":9,"seed":5,` + request + `}`)
		var shown struct{ Params json.RawMessage }
		f.Do("GET", "/jobs/"+id, "").Must(t, 200).Into(t, &shown)
		job, err := f.store.Job(t.Context(), uuid.MustParse(id))
		if err != nil {
			t.Fatal(err)
		}
		stored, err := json.Marshal(job.Params)
		if err != nil || string(stored) != want || string(shown.Params) != want {
			t.Errorf("%s: stored %s and shown %s, %v, want %s", request, stored, shown.Params, err, want)
		}
	}
}

// TestParametersOutOfBoundsAreRefused submits parameters at and beyond each bound.
func TestParametersOutOfBoundsAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	bias := func(n int) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf(`"%d":1`, i))
		}
		return `"logit_bias":{` + strings.Join(all, ",") + `}`
	}
	for members, where := range map[string]string{
		`"presence_penalty":-2.01`:                "body.presence_penalty",
		`"presence_penalty":2.01`:                 "body.presence_penalty",
		`"frequency_penalty":-3`:                  "body.frequency_penalty",
		`"frequency_penalty":"1"`:                 "body.frequency_penalty",
		`"repetition_penalty":0`:                  "body.repetition_penalty",
		`"repetition_penalty":2.1`:                "body.repetition_penalty",
		`"min_p":1.1`:                             "body.min_p",
		`"min_p":-0.1`:                            "body.min_p",
		`"min_tokens":-1`:                         "body.min_tokens",
		`"min_tokens":1025`:                       "body.min_tokens",
		`"min_tokens":51`:                         "body.min_tokens",
		`"min_tokens":10,"max_new_tokens":9`:      "body.min_tokens",
		`"logit_bias":{"7":100.1}`:                "body.logit_bias",
		`"logit_bias":{"7":null}`:                 "body.logit_bias",
		`"logit_bias":{"300":1}`:                  "body.logit_bias",
		`"logit_bias":{"-1":1}`:                   "body.logit_bias",
		`"logit_bias":{"07":1}`:                   "body.logit_bias",
		`"logit_bias":{"7.0":1}`:                  "body.logit_bias",
		`"logit_bias":{"hunter2":1}`:              "body.logit_bias",
		`"logit_bias":{"99999999999999999999":0}`: "body.logit_bias",
		`"logit_bias":[1]`:                        "body.logit_bias",
		bias(model.MaxLogitBias + 1):              "body.logit_bias",
	} {
		a := f.Do("POST", "/jobs", `{"prompt":"light",`+members+`}`).Must(t, 422)
		var p struct {
			Errors []struct{ Message, Location string }
		}
		if a.Into(t, &p); len(p.Errors) != 1 || p.Errors[0].Location != where || p.Errors[0].Message == "" || strings.Contains(string(a.Body), "hunter2") {
			t.Errorf("%.60s: %s, want one fault at %s", members, a.Body, where)
		}
	}
	// A length that counts the prompt, and the context, lower min_tokens.
	for members, want := range map[string]model.Params{
		`"min_tokens":50`:                         {MaxTokens: 50, MinTokens: 50},
		`"min_tokens":9,"max_length":10`:          {MaxTokens: 5, MinTokens: 5},
		`"min_tokens":1024,"max_new_tokens":1024`: {MaxTokens: 995, MinTokens: 995},
		bias(300): {MaxTokens: 50},
	} {
		job, err := f.store.Job(t.Context(), uuid.MustParse(f.Submit(`{"prompt":"light",`+members+`}`)))
		if err != nil {
			t.Fatal(err)
		}
		if got := (model.Params{MaxTokens: job.Params.MaxTokens, MinTokens: job.Params.MinTokens}); !cmp.Equal(got, want) {
			t.Errorf("%.60s: %+v, want %+v", members, got, want)
		}
	}
}

// TestLogprobsAreShownWithTheirTexts stores two events with log probabilities. The
// job must show the log probabilities with the texts of the tokens. The events must show them as
// they are stored. A receipt must show them only if the request discloses them.
func TestLogprobsAreShownWithTheirTexts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.Do("POST", "/jobs", `{"prompt":"light","logprobs":21}`).Refused(t, 422, "invalid_request")
	id := uuid.MustParse(f.Submit(`{"prompt":"light","logprobs":2}`))
	job, err := f.store.Job(t.Context(), id)
	if err == nil {
		job, err = f.store.AppendJob(t.Context(), job, events.JobStarted{Attempt: 1, Worker: "w", Weights: "w/f32", Kernel: "k"},
			events.JobAdvanced{Tokens: []int{'a'}, Text: "a", Logprobs: []model.TokenLogprobs{{Logprob: -0.1, Top: []model.Logprob{{Token: 'a', Logprob: -0.1}, {Token: 0xc3, Logprob: -2.5}}}}},
			events.JobAdvanced{Tokens: []int{'<'}, Text: "<", Logprobs: []model.TokenLogprobs{{Logprob: -1e-9}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	const want = `[{"token":97,"text":"a","logprob":-0.1,"top":[{"token":97,"text":"a","logprob":-0.1},{"token":195,"text":"\ufffd","bytes":[195],"logprob":-2.5}]},` +
		`{"token":60,"text":"<","logprob":-1e-9}]`
	equal := func(what string, got json.RawMessage, want string) {
		t.Helper()
		var a, b any
		if json.Unmarshal(got, &a) != nil || json.Unmarshal([]byte(want), &b) != nil || !cmp.Equal(a, b) {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	var shown struct {
		Params   struct{ Logprobs *int }
		Logprobs json.RawMessage
	}
	f.Do("GET", "/jobs/"+id.String(), "").Must(t, 200).Into(t, &shown)
	equal("the job", shown.Logprobs, want)
	if shown.Params.Logprobs == nil || *shown.Params.Logprobs != 2 {
		t.Errorf("params %+v, want 2 alternatives", shown.Params)
	}
	f.Do("GET", "/jobs/"+id.String()+"?at=3", "").Must(t, 200).Into(t, &shown)
	if !strings.HasPrefix(string(shown.Logprobs), `[{"token":97`) || strings.Contains(string(shown.Logprobs), `"token":60`) {
		t.Errorf("at version 3: %s, want those of the first token", shown.Logprobs)
	}
	var list []struct{ Logprobs json.RawMessage }
	f.Do("GET", "/jobs/"+id.String()+"/events", "").Must(t, 200).Into(t, &list)
	equal("the event", list[2].Logprobs, `[{"logprob":-0.1,"top":[{"token":97,"logprob":-0.1},{"token":195,"logprob":-2.5}]}]`)

	// An erased job has none.
	if job, err = f.queue.Cancel(t.Context(), job, events.JobCancelled{By: "owner"}); err == nil {
		_, err = f.queue.EraseJob(t.Context(), job)
	}
	if err != nil {
		t.Fatal(err)
	}
	if a := f.Do("GET", "/jobs/"+id.String(), "").Must(t, 200); strings.Contains(string(a.Body), "logprob") {
		t.Errorf("erased: %s", a.Body)
	}
	if a := f.Do("GET", "/jobs/"+id.String()+"/events", "").Must(t, 200); strings.Contains(string(a.Body), "logprob") {
		t.Errorf("events of the erased job: %s", a.Body)
	}
}

// TestLogprobsOfAPastText submits jobs for the log probabilities of texts in every state, of
// other users, and with a key that may not read.
func TestLogprobsOfAPastText(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.submit("light")
	path := "/jobs/" + id.String()
	const body = `{"logprobs":3}`
	f.Do("POST", path+"/logprobs", body).Refused(t, 409, "no_repeatable_text")
	f.complete(id)
	a := f.Do("POST", path+"/logprobs", body, "Idempotency-Key", "k").Must(t, 202)
	var made struct {
		ID, State, Prompt string
		LogprobsOf        string `json:"logprobs_of"`
		Params            model.Params
	}
	if a.Into(t, &made); made.State != "queued" || made.Prompt != "light" || made.LogprobsOf != id.String() || made.Params.Logprobs == nil || *made.Params.Logprobs != 3 || a.Header.Get("Location") != "/jobs/"+made.ID {
		t.Errorf("%s, at %q", a.Body, a.Header.Get("Location"))
	}
	var again struct{ ID string }
	if f.Do("POST", path+"/logprobs", body, "Idempotency-Key", "k").Must(t, 202).Into(t, &again); again.ID != made.ID {
		t.Errorf("repeated: job %s, want %s", again.ID, made.ID)
	}
	f.Do("POST", path+"/logprobs", `{"logprobs":4}`, "Idempotency-Key", "k").Refused(t, 422, "idempotency_key_reused")
	for _, bad := range []string{`{}`, `{"logprobs":21}`, `{"logprobs":-1}`, `{"logprobs":null}`, `{"logprobs":1,"top":1}`} {
		f.Do("POST", path+"/logprobs", bad).Refused(t, 422, "invalid_request")
	}
	_, other := f.user("somebody-else")
	f.As(other).Do("POST", path+"/logprobs", body).Refused(t, 404, "not_found")
	key := f.As(createKey(f.Client, `{"name":"a","scopes":["generate"]}`).Key)
	if a := key.Do("POST", path+"/logprobs", body).Must(t, 202); strings.Contains(string(a.Body), "light") || strings.Contains(string(a.Body), "params") {
		t.Errorf("a key that may not read gets %s", a.Body)
	}
	// After the erasure, new requests must be refused. A repeated request must get its job, which
	// has a copy of the text.
	f.Do("DELETE", path, "").Must(t, 204)
	f.Do("POST", path+"/logprobs", body).Refused(t, 410, "job_erased")
	f.Do("POST", path+"/logprobs", body, "Idempotency-Key", "another").Refused(t, 410, "job_erased")
	f.Do("POST", path+"/logprobs", `{"logprobs":4}`, "Idempotency-Key", "k").Refused(t, 422, "idempotency_key_reused")
	if f.Do("POST", path+"/logprobs", body, "Idempotency-Key", "k").Must(t, 202).Into(t, &again); again.ID != made.ID {
		t.Errorf("repeated after the erasure: job %s, want %s", again.ID, made.ID)
	}
	f.Do("DELETE", "/jobs/"+made.ID, "").Must(t, 204)
	if a := f.Do("POST", path+"/logprobs", body, "Idempotency-Key", "k").Must(t, 202); !strings.Contains(string(a.Body), made.ID) || !strings.Contains(string(a.Body), "erased_at") || strings.Contains(string(a.Body), "light") {
		t.Errorf("repeated after both erasures: %s", a.Body)
	}
}
