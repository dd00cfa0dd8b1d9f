package api_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/events/receipt"
	"colophon/model"
)

// complete generates the text of a queued job, as a worker would.
func (f *fixture) complete(id uuid.UUID) {
	f.T.Helper()
	job, err := f.store.Job(f.T.Context(), id)
	if err == nil {
		_, err = f.store.AppendJob(f.T.Context(), job,
			events.JobStarted{Attempt: 1, Worker: "w", Weights: "w/f32", Kernel: "k"},
			events.JobAdvanced{Tokens: []int{1, 2}, Text: " is <white>", Logprobs: []model.TokenLogprobs{{Logprob: -1e-9, Top: []model.Logprob{{Token: 7, Logprob: -1e-9}}}, {Logprob: -0.5}}}, events.JobAdvanced{Tokens: []int{3}, Text: "."},
			events.JobCompleted{FinishReason: "stop", Usage: events.Usage{CompletionTokens: 3}})
	}
	if err != nil {
		f.T.Fatal(err)
	}
}

// submit submits a job and returns its id.
func (f *fixture) submit(prompt string) uuid.UUID {
	f.T.Helper()
	var job struct{ ID uuid.UUID }
	f.Do("POST", "/jobs", `{"prompt":"`+prompt+`"}`).Must(f.T, 202).Into(f.T, &job)
	return job.ID
}

// keys returns the log's keys.
func (f *fixture) keys() receipt.Keys {
	f.T.Helper()
	keys, err := receipt.ParseKeys(string(f.Do("GET", "/log/key", "").Must(f.T, 200).Body))
	if err != nil {
		f.T.Fatal(err)
	}
	return keys
}

// TestReceiptProvesWhatIsDisclosed gets receipts of a job with several disclosures.
func TestReceiptProvesWhatIsDisclosed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const prompt = "The nature of light"
	id := f.submit(prompt)
	f.complete(id)
	f.sequence()
	keys := f.keys()
	for query, want := range map[string][]string{
		"":                                  {"1 prompt", "3 text", "4 text"},
		"?disclose=text,prompt":             {"1 prompt", "3 text", "4 text"},
		"?disclose=none":                    nil,
		"?disclose=text":                    {"3 text", "4 text"},
		"?disclose=owner,params":            {"1 owner", "1 params"},
		"?disclose=tokens&format=json":      {"3 tokens", "4 tokens"},
		"?disclose=logprobs,tokens":         {"3 logprobs", "3 tokens", "4 tokens"},
		"?disclose=text&disclose=prompt":    nil, // refused below
		"?disclose=stop,params,text,prompt": {"1 params", "1 prompt", "3 text", "4 text"},
	} {
		a := f.Do("GET", "/jobs/"+id.String()+"/receipt"+query, "")
		if strings.Count(query, "disclose") > 1 {
			a.Must(t, http.StatusUnprocessableEntity)
			continue
		}
		a.Must(t, 200)
		if a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Cache-Control") != "private, no-cache" {
			t.Errorf("%s: headers %v", query, a.Header)
		}
		r, err := receipt.Verify(a.Body, keys, nil)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		var opened []string
		for _, version := range slices.Sorted(maps.Keys(r.Opened)) {
			for _, name := range slices.Sorted(maps.Keys(r.Opened[version])) {
				opened = append(opened, string(rune('0'+version))+" "+name)
			}
		}
		if !slices.Equal(opened, want) {
			t.Errorf("%s: opened %q, want %q", query, opened, want)
		}
		if text, ok := r.Text(); ok && text != " is <white>." {
			t.Errorf("%s: text %q", query, text)
		}
		if got, ok := r.Prompt(); ok && got != prompt {
			t.Errorf("%s: prompt %q", query, got)
		}
		for _, secret := range []string{prompt, "is \\u003cwhite"} {
			hidden := !strings.Contains(query, "prompt") && query != ""
			if strings.HasPrefix(secret, "is") {
				hidden = !strings.Contains(query, "text") && query != ""
			}
			if hidden && strings.Contains(plain(t, a.Body), secret) {
				t.Errorf("%s: the receipt has %q", query, secret)
			}
		}
		if _, err := receipt.Verify(a.Body, nil, nil); err == nil {
			t.Errorf("%s: proven without a key", query)
		}
	}
	proof := string(f.Do("GET", "/jobs/"+id.String()+"/receipt?format=tlog-proof", "").Must(t, 200).Body)
	if !strings.HasPrefix(proof, "c2sp.org/tlog-proof@v1\nindex ") {
		t.Errorf("%q", proof)
	}
	for _, bad := range []string{"?disclose=none,text", "?disclose=password", "?disclose=", "?format=pdf", "?at=1"} {
		f.Do("GET", "/jobs/"+id.String()+"/receipt"+bad, "").Must(t, http.StatusUnprocessableEntity)
	}
}

// plain returns a receipt with all of its base64 decoded.
func plain(t *testing.T, text []byte) string {
	t.Helper()
	var r receipt.Receipt
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	all := string(text)
	for _, payload := range r.Events {
		all += string(payload)
	}
	for _, members := range r.Openings {
		for _, o := range members {
			all += string(o.Value)
		}
	}
	return all + base64.StdEncoding.EncodeToString([]byte(all))
}

// TestReceiptsArePrivate asks for receipts of other people's jobs and of unknown ones.
func TestReceiptsArePrivate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.submit("The nature of light")
	f.complete(id)
	f.sequence()
	path := "/jobs/" + id.String() + "/receipt"
	owner := f.Access
	_, f.Access = f.user("stranger")
	f.Do("GET", path, "").Refused(t, http.StatusNotFound, "not_found")
	f.Do("GET", "/jobs/"+uuid.NewString()+"/receipt", "").Refused(t, http.StatusNotFound, "not_found")
	f.Access = ""
	f.Do("GET", path, "").Refused(t, http.StatusUnauthorized, "missing_access_token")
	f.Access = owner
	f.Do("GET", path, "").Must(t, 200)
}

// TestReceiptWaitsForItsCheckpoint asks for a receipt before the log is signed. The request
// must wait for the checkpoint. Without a signer, the answer must be 503.
func TestReceiptWaitsForItsCheckpoint(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.submit("The nature of light")
	f.complete(id)
	path := "/jobs/" + id.String() + "/receipt"
	begin := time.Now()
	if p := f.Do("GET", path, "").Refused(t, http.StatusServiceUnavailable, "not_in_checkpoint"); time.Since(begin) < 4*time.Second {
		t.Errorf("refused after %v: %+v", time.Since(begin), p)
	}
	answered := make(chan int, 1)
	go func() { answered <- f.Do("GET", path, "").Status }()
	f.sequence()
	if status := <-answered; status != 200 {
		t.Errorf("status %d, want 200 as soon as there is a checkpoint", status)
	}
	// A service that stops must end the wait.
	second := f.submit("Rays of light")
	go func() { answered <- f.Do("GET", "/jobs/"+second.String()+"/receipt", "").Status }()
	f.stop()
	if status := <-answered; status != http.StatusServiceUnavailable {
		t.Errorf("status %d of a stopping service", status)
	}
}

// TestReceiptOfARunningJobSaysSo gets a receipt before the job has ended, and one of a job
// that was cancelled.
func TestReceiptOfARunningJobSaysSo(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.submit("The nature of light")
	f.sequence()
	keys := f.keys()
	path := "/jobs/" + id.String() + "/receipt"
	r, err := receipt.Verify(f.Do("GET", path, "").Must(t, 200).Body, keys, nil)
	if err == nil || !strings.Contains(err.Error(), "had not ended") || len(r.Events) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	f.Do("POST", "/jobs/"+id.String()+"/cancel", "").Must(t, 200)
	f.sequence()
	if r, err := receipt.Verify(f.Do("GET", path, "").Must(t, 200).Body, keys, nil); err != nil || r.Events[1].Type != "job.cancelled" {
		t.Errorf("%+v, %v", r, err)
	}
}
