package api_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/jobs"
	"colophon/model"
	"colophon/model/gpt2"
	"colophon/model/opticks"
	"colophon/test/apitest"
)

// withOpticks gives the fixture the small model. A test that needs texts starts a worker.
func withOpticks(f *fixture) {
	f.T.Helper()
	e, err := gpt2.Load(opticks.Files(), gpt2.Options{Name: opticks.Name})
	if err != nil {
		f.T.Fatal(err)
	}
	f.T.Cleanup(e.Close)
	f.engine = e
	m := jobs.Model{Name: opticks.Name, Weights: e.Info().Digest(), Context: e.Info().Context, Vocab: e.Info().Vocab, Encode: e.Encode, Decode: e.Decode}
	if f.queue, err = jobs.NewQueue(f.db.App, f.store, m, policy.Default, jobs.Limits{}, slog.New(slog.DiscardHandler)); err != nil {
		f.T.Fatal(err)
	}
	f.api.Queue, f.api.Model = f.queue, m
}

// work starts a worker of the fixture's model. The worker stops at the end of the test.
func (f *fixture) work() { f.workWith(f.engine) }

// workWith starts a worker with an engine, and returns a function that stops the worker.
func (f *fixture) workWith(e model.Engine) (stop func()) {
	f.T.Helper()
	w, err := jobs.NewWorker(f.db.App, f.store, e, policy.Default, 8, slog.New(slog.DiscardHandler))
	if err != nil {
		f.T.Fatal(err)
	}
	if err := w.Start(f.T.Context()); err != nil {
		f.T.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.Stop(ctx); err != nil {
			f.T.Errorf("stop the worker: %v", err)
		}
	})
	f.T.Cleanup(stop)
	return stop
}

type completion struct {
	ID, Object, Model string
	Created           int64
	SystemFingerprint string `json:"system_fingerprint"`
	Choices           []struct {
		Text         string
		Index        int
		Logprobs     json.RawMessage
		FinishReason *string `json:"finish_reason"`
	}
	Usage *struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
		TotalTokens      int `json:"total_tokens"`
	}
}

// texts returns the texts of the choices by index.
func (c completion) texts() []string {
	texts := make([]string, len(c.Choices))
	for _, choice := range c.Choices {
		texts[choice.Index] += choice.Text
	}
	return texts
}

// job returns the job that a completion is named after.
func (f *fixture) jobOf(id, prefix string) events.Job {
	f.T.Helper()
	job, err := f.store.Job(f.T.Context(), events.Stream("job/"+strings.TrimPrefix(id, prefix)).ID())
	if err != nil {
		f.T.Fatalf("%s: %v", id, err)
	}
	return job
}

// TestCompletionIsAJob completes a text through OpenAI's API. The job of the text must be
// like any other job, and the text must be that of POST /generate with the same parameters.
func TestCompletionIsAJob(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	var c completion
	f.Do("POST", "/v1/completions", `{"model":"opticks","prompt":"The nature of light","max_tokens":20,"seed":7,"temperature":0.8,"top_k":40}`).Must(t, 200).Into(t, &c)
	job := f.jobOf(c.ID, "cmpl-")
	if c.Object != "text_completion" || c.Model != "opticks" || c.Created != job.AcceptedAt.Unix() || !strings.HasPrefix(c.ID, "cmpl-") || c.SystemFingerprint == "" {
		t.Errorf("%+v", c)
	}
	if len(c.Choices) != 1 || c.Choices[0].Text != job.Text || *c.Choices[0].FinishReason != job.FinishReason || string(c.Choices[0].Logprobs) != "null" {
		t.Errorf("choices %+v of a job with the text %q", c.Choices, job.Text)
	}
	if u := c.Usage; u == nil || u.PromptTokens != job.PromptTokens || u.CompletionTokens != 20 || u.TotalTokens != u.PromptTokens+20 {
		t.Errorf("usage %+v", c.Usage)
	}
	var same struct{ Completion string }
	f.Do("POST", "/generate", `{"prompt":"The nature of light","max_new_tokens":20,"seed":7}`).Must(t, 200).Into(t, &same)
	if same.Completion != job.Text {
		t.Errorf("POST /generate gives %q, OpenAI's API %q", same.Completion, job.Text)
	}
	var history []struct{ Completion string }
	f.Do("GET", "/history", "").Must(t, 200).Into(t, &history)
	if len(history) != 2 || history[1].Completion != job.Text {
		t.Errorf("history: %+v", history)
	}
}

// stream reads a stream of OpenAI's API up to [DONE]. It returns the data of all messages.
func (f *fixture) stream(path, body string, headers ...string) (chunks []string) {
	f.T.Helper()
	resp, err := f.Open(f.T.Context(), "POST", path, body, headers...)
	if err != nil {
		f.T.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		f.T.Fatalf("%d %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	for m, err := range apitest.Messages(resp.Body) {
		if err != nil {
			f.T.Fatal(err)
		}
		if m.ID != "" || m.Event != "" {
			f.T.Errorf("a message with id %q and event %q", m.ID, m.Event)
		}
		if m.Data != "" {
			chunks = append(chunks, m.Data)
		}
	}
	return chunks
}

// TestStreamedCompletionIsTheSameText streams texts, with and without usage. The chunks must
// add up to the answer without a stream.
func TestStreamedCompletionIsTheSameText(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	const request = `"model":"opticks","prompt":["Light","The Colours of the Rays"],"n":2,"max_tokens":24,"seed":9,"echo":true,"stop":["zzzz"]`
	var whole completion
	f.Do("POST", "/v1/completions", "{"+request+"}").Must(t, 200).Into(t, &whole)
	if texts := whole.texts(); len(texts) != 4 || !strings.HasPrefix(texts[1], "Light") || !strings.HasPrefix(texts[2], "The Colours of the Rays") || texts[0] == texts[1] {
		t.Errorf("texts %q", whole.texts())
	}
	for _, usage := range []bool{false, true} {
		options := ""
		if usage {
			options = `,"stream_options":{"include_usage":true,"include_obfuscation":false}`
		}
		chunks := f.stream("/v1/completions", "{"+request+`,"stream":true`+options+"}")
		if chunks[len(chunks)-1] != "[DONE]" {
			t.Fatalf("the stream ends with %s", chunks[len(chunks)-1])
		}
		chunks = chunks[:len(chunks)-1]
		texts, ended := make([]string, 4), make([]string, 4)
		id := ""
		for i, data := range chunks {
			var c completion
			var members map[string]json.RawMessage
			if err := json.Unmarshal([]byte(data), &c); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(data), &members); err != nil {
				t.Fatal(err)
			}
			if id == "" {
				id = c.ID
			}
			if c.ID != id || c.Object != "text_completion" || c.Model != "opticks" || members["error"] != nil {
				t.Errorf("chunk %s", data)
			}
			if last := i == len(chunks)-1; usage && last {
				if c.Usage == nil || *c.Usage != *whole.Usage || len(c.Choices) != 0 || string(members["choices"]) != "[]" {
					t.Errorf("last chunk %s", data)
				}
				continue
			}
			if got := string(members["usage"]); usage != (got == "null") || !usage && got != "" {
				t.Errorf("usage is %s in %s", got, data)
			}
			choice := c.Choices[0]
			if ended[choice.Index] != "" {
				t.Errorf("a chunk after the end of its text: %s", data)
			}
			texts[choice.Index] += choice.Text
			if choice.FinishReason != nil {
				ended[choice.Index] = *choice.FinishReason
			}
		}
		if !slices.Equal(texts, whole.texts()) {
			t.Errorf("chunks %q, want %q", texts, whole.texts())
		}
		for i, choice := range whole.Choices {
			if ended[i] != *choice.FinishReason {
				t.Errorf("text %d ended with %q, want %q", i, ended[i], *choice.FinishReason)
			}
		}
	}
}

// TestModelsAreListed reads the list of models and single models.
func TestModelsAreListed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var list struct {
		Object string
		Data   []struct {
			ID, Object    string
			OwnedBy       string `json:"owned_by"`
			Created       *int64
			ContextLength int `json:"context_length"`
		}
	}
	f.Do("GET", "/v1/models", "").Must(t, 200).Into(t, &list)
	if list.Object != "list" || len(list.Data) != 1 || list.Data[0].ID != "fake" || list.Data[0].Object != "model" || list.Data[0].Created == nil || list.Data[0].OwnedBy == "" || list.Data[0].ContextLength != 1000 {
		t.Errorf("%+v", list)
	}
	f.Do("GET", "/v1/models/fake", "").Must(t, 200)
	f.Do("GET", "/v1/models/gpt-4", "").Refused(t, 404, "model_not_found")
	f.Do("POST", "/v1/completions", `{"model":"gpt-4","prompt":"light"}`).Refused(t, 404, "model_not_found")
}
