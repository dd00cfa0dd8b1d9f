package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestSubmitSendsEveryField(t *testing.T) {
	s := newService(t)
	s.HandleFunc("POST /jobs", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if want := `{"prompt":"p","max_new_tokens":8,"temperature":0,"top_k":0,"top_p":0.9,"seed":0,"stop":["x"],"presence_penalty":0.5,"logit_bias":{"7":-100},"min_tokens":3}`; string(body) != want {
			t.Errorf("body %s", body)
		}
		for name, want := range map[string]string{"Idempotency-Key": `"a \"key\" \\"`, "Prefer": "wait=20", "Cancel-After": "91"} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s %q, want %q", name, got, want)
			}
		}
		status(202, `{"id":"j","state":"queued","queue_position":3,"unknown":"member"}`, "Retry-After", "4")(w, r)
	})
	job, err := s.over(Options{}).Submit(t.Context(), JobRequest{
		Prompt: "p", MaxNewTokens: 8, Temperature: new(0.0), TopK: new(0), TopP: 0.9, Seed: new(uint64(0)), Stop: []string{"x"},
		PresencePenalty: 0.5, LogitBias: map[int]float64{7: -100}, MinTokens: 3,
		Key: `a "key" \`, Wait: 20 * time.Second, CancelAfter: 90500 * time.Millisecond,
	})
	if err != nil || job.ID != "j" || job.State != Queued || job.QueuePosition != 3 || job.RetryAfter != 4*time.Second || job.State.Final() {
		t.Errorf("%+v, %v", job, err)
	}
}

func TestInvalidKeysAreNotSent(t *testing.T) {
	s := newService(t)
	for _, key := range []string{"ü", "a\nb", strings.Repeat("x", 256)} {
		if _, err := s.client(Options{}).Submit(t.Context(), JobRequest{Prompt: "p", Key: key}); err == nil || len(s.requests()) != 0 {
			t.Errorf("%q: %v", key, err)
		}
	}
	if _, err := s.client(Options{}).Submit(t.Context(), JobRequest{Prompt: "p", TopP: inf()}); err == nil {
		t.Error("a request that cannot be JSON was sent")
	}
}

func inf() float64 { zero := 0.0; return 1 / zero }

// TestGenerateRepeatsItsKeyUntilCompletion first answers that the text is not ready, and
// then breaks a connection. The client must repeat the request with the same idempotency
// key until the job has completed.
func TestGenerateRepeatsItsKeyUntilCompletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		waits := func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(30 * time.Second)
			status(202, `{"id":"j","state":"running"}`, "Retry-After", "10")(w, r)
		}
		s.answers("POST /generate", waits, abort,
			status(202, `{"id":"j","state":"running"}`, "Retry-After", "2"), // the answer of a service that shuts down
			text(`{"id":"j","state":"completed","generated_text":"light and so on"}`))
		begin := time.Now()
		job, err := s.client(Options{}).Generate(t.Context(), JobRequest{Prompt: "light"})
		if err != nil || job.GeneratedText != "light and so on" {
			t.Fatalf("%+v, %v", job, err)
		}
		if took := time.Since(begin); took < 32*time.Second || took > 33*time.Second {
			t.Errorf("it took %s", took)
		}
		keys := map[string]bool{}
		for _, r := range s.requests() {
			keys[r.Header.Get("Idempotency-Key")] = true
			if got := r.Header.Get("Prefer"); got != "wait=30" {
				t.Errorf("Prefer %q", got)
			}
		}
		if len(keys) != 1 || len(s.requests()) != 4 {
			t.Errorf("%d requests with the keys %v", len(s.requests()), keys)
		}
	})
}

func TestGenerateEndsWithItsContextOrItsJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.answers("POST /generate", status(202, `{"id":"j","state":"running"}`, "Retry-After", "9"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if job, err := s.client(Options{}).Generate(ctx, JobRequest{Prompt: "light"}); job != nil || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%+v, %v", job, err)
		}
	})
	s := newService(t)
	s.answers("POST /generate", problem(409, CodeJobCancelled))
	if _, err := s.client(Options{}).Generate(t.Context(), JobRequest{Prompt: "light"}); code(err) != CodeJobCancelled {
		t.Errorf("%v", err)
	}
}

func TestPollReportsChanges(t *testing.T) {
	s := newService(t)
	s.HandleFunc("GET /jobs/j", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-None-Match") == `"1"` {
			status(304, "", "ETag", `"1"`, "Retry-After", "5")(w, r)
			return
		}
		text(`{"id":"j","state":"running","version":2}`, "ETag", `"1"`, "Retry-After", "3")(w, r)
	})
	c := s.over(Options{})
	job := &Job{ID: "j", ETag: `"0"`}
	changed, err := c.Poll(t.Context(), job)
	if err != nil || !changed || job.Version != 2 || job.ETag != `"1"` || job.RetryAfter != 3*time.Second {
		t.Errorf("%v, %v, %+v", changed, err, job)
	}
	changed, err = c.Poll(t.Context(), job)
	if err != nil || changed || job.Version != 2 || job.RetryAfter != 5*time.Second {
		t.Errorf("%v, %v, %+v", changed, err, job)
	}
	if job, err = c.Job(t.Context(), "j"); err != nil || job.ETag != `"1"` {
		t.Errorf("%+v, %v", job, err)
	}
	if _, err := c.Poll(t.Context(), &Job{ID: "../x"}); code(err) != "" && !errors.Is(err, ErrProtocol) {
		t.Errorf("%v", err)
	}
	if at := s.requests()[3].URL.EscapedPath(); at != "/jobs/..%2Fx" {
		t.Errorf("path %s", at)
	}
}

func TestAnswersWithoutAJobAreErrors(t *testing.T) {
	for _, body := range []string{"", "<html>", "{}", "[]", `{"id":1}`} {
		s := newService(t)
		s.answers("/", text(body))
		c := s.client(Options{})
		_, err := c.Job(t.Context(), "j")
		_, cancelErr := c.Cancel(t.Context(), "j")
		_, pollErr := c.Poll(t.Context(), &Job{ID: "j"})
		for _, err := range []error{err, cancelErr, pollErr} {
			if !errors.Is(err, ErrProtocol) {
				t.Errorf("%q: %v", body, err)
			}
		}
	}
}

func TestCancelReturnsTheCancelledJob(t *testing.T) {
	s := newService(t)
	s.answers("POST /jobs/j/cancel", text(`{"id":"j","state":"cancelled","reason":"r"}`))
	job, err := s.over(Options{}).Cancel(t.Context(), "j")
	if err != nil || job.State != Cancelled || !job.State.Final() {
		t.Errorf("%+v, %v", job, err)
	}
}

func TestLogprobsOfAPastText(t *testing.T) {
	s := newService(t)
	s.answers("POST /jobs/j/logprobs", func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err != nil || string(body) != `{"logprobs":0}` {
			t.Errorf("%s, %v", body, err)
		}
		text(`{"id":"k","state":"completed","logprobs_of":"j","logprobs":[{"token":7,"text":"é","logprob":-0.5,"top":[{"token":8,"text":"\ufffd","bytes":[195],"logprob":-0.25}]}]}`)(w, r)
	})
	job, err := s.over(Options{}).Logprobs(t.Context(), "j", 0)
	want := []TokenLogprobs{{TokenLogprob{Token: 7, Text: "é", Logprob: -0.5}, []TokenLogprob{{8, "\ufffd", []int{195}, -0.25}}}}
	if err != nil || job.LogprobsOf != "j" || !reflect.DeepEqual(job.Logprobs, want) {
		t.Errorf("%+v, %v", job, err)
	}
}

func TestEraseIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.answers("DELETE /jobs/j", problem(503, "unavailable"), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
		if err := s.client(Options{}).Erase(t.Context(), "j"); err != nil {
			t.Error(err)
		}
	})
}

func TestHistoryRequestsOnlyNeededPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.answers("GET /history", problem(503, "unavailable"), func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.RawQuery {
			case "":
				text(`[{"id":"5"},{"id":"4"}]`, "Link", `</users>; rel="up", </history?before=4&limit=2>; rel="next"`)(w, r)
			case "before=4&limit=2":
				text(`[{"id":"3"},{"id":"2"}]`, "Link", `</history?before=2&limit=2>;rel=next`)(w, r)
			case "before=2&limit=2":
				text(`[]`)(w, r)
			}
		})
		c := s.client(Options{})
		var ids []string
		for job, err := range c.History(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, job.ID)
		}
		if !slices.Equal(ids, []string{"5", "4", "3", "2"}) {
			t.Errorf("%q", ids)
		}
		asked := len(s.requests())
		for range c.History(t.Context()) {
			break
		}
		if len(s.requests()) != asked+1 {
			t.Error("History requested more pages than the loop needs")
		}
	})
}

func TestPastJobIsRequestedByVersionOrTime(t *testing.T) {
	s := newService(t)
	s.HandleFunc("GET /jobs/j", func(w http.ResponseWriter, r *http.Request) {
		switch at := r.FormValue("at"); at {
		case "7":
			text(`{"id":"j","state":"running","version":7}`)(w, r)
		case "2026-08-01T10:00:00.000001Z":
			text(`{"id":"j","state":"queued","version":1}`)(w, r)
		default:
			problem(404, map[string]string{"0": CodeNotAcceptedYet, "8": CodeNoSuchVersion}[at])(w, r)
		}
	})
	c := s.client(Options{})
	if job, err := c.JobAtVersion(t.Context(), "j", 7); err != nil || job.Version != 7 {
		t.Errorf("%+v, %v", job, err)
	}
	at := time.Date(2026, 8, 1, 12, 0, 0, 1000, time.FixedZone("", 7200))
	if job, err := c.JobAtTime(t.Context(), "j", at); err != nil || job.Version != 1 {
		t.Errorf("%+v, %v", job, err)
	}
	for version, code := range map[int]string{0: CodeNotAcceptedYet, 8: CodeNoSuchVersion} {
		_, err := c.JobAtVersion(t.Context(), "j", version)
		if p, ok := errors.AsType[*Problem](err); !ok || p.Code != code {
			t.Errorf("version %d: %v", version, err)
		}
	}
}

func TestPastHistoryIsPagedAsOfItsTime(t *testing.T) {
	s := newService(t)
	s.HandleFunc("GET /history", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.RawQuery {
		case "as_of=2026-08-01T10:00:00.5Z":
			text(`[{"id":"2"}]`, "Link", `</history?as_of=2026-08-01T10%3A00%3A00.5Z&before=2&limit=1>; rel="next"`)(w, r)
		case "as_of=2026-08-01T10%3A00%3A00.5Z&before=2&limit=1":
			text(`[{"id":"1"}]`)(w, r)
		}
	})
	var ids []string
	for job, err := range s.client(Options{}).HistoryAsOf(t.Context(), time.Date(2026, 8, 1, 12, 0, 0, 5e8, time.FixedZone("", 7200))) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, job.ID)
	}
	if !slices.Equal(ids, []string{"2", "1"}) {
		t.Errorf("%q", ids)
	}
}

// TestHistoryRefusesForeignLinks answers with links to the next page that the client must
// not follow, because it may send the access token to the service only.
func TestHistoryRefusesForeignLinks(t *testing.T) {
	for _, link := range []string{"https://elsewhere.example/history", "//elsewhere.example/history", "history", "", "/history", "http://a b", "/%zz"} {
		s := newService(t)
		s.answers("/", text(`[{"id":"1"}]`, "Link", fmt.Sprintf(`<%s>; rel="next"`, link)))
		n := 0
		for _, err := range s.client(Options{}).History(t.Context()) {
			if n++; !errors.Is(err, ErrProtocol) {
				t.Errorf("%q: %v", link, err)
			}
		}
		if n != 1 || len(s.requests()) != 1 {
			t.Errorf("%q: %d requests", link, len(s.requests()))
		}
	}
}
