package api_test

import (
	"strings"
	"testing"
	"time"
)

func TestUnchangedJobIsAnsweredWith304(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first := f.Submit(prompt)
	var second job
	f.Do("POST", "/jobs", prompt).Must(t, 202).Into(t, &second)
	path := "/jobs/" + second.ID
	a := f.Do("GET", path, "").Must(t, 200)
	a.Into(t, &second)
	etag := a.Header.Get("ETag")
	if second.QueuePosition != 2 || etag == "" || a.Header.Get("Retry-After") != "1" || a.Header.Get("Cache-Control") != "private, no-cache" || a.Header.Get("Vary") != "Authorization" {
		t.Fatalf("%+v, %v", second, a.Header)
	}
	a = f.Do("GET", path, "", "If-None-Match", `"other", W/`+etag).Must(t, 304)
	if len(a.Body) != 0 || a.Header.Get("ETag") != etag || a.Header.Get("Retry-After") == "" || a.Header.Get("Cache-Control") != "private, no-cache" || a.Header.Get("Vary") != "Authorization" {
		t.Errorf("%q, %v", a.Body, a.Header)
	}
	f.Do("POST", "/jobs/"+first+"/cancel", "").Must(t, 200) // the polled job has no new event, but it moves up in the queue
	a = f.Do("GET", path, "", "If-None-Match", etag).Must(t, 200)
	if a.Into(t, &second); second.QueuePosition != 1 {
		t.Errorf("queue position %d", second.QueuePosition)
	}
	a = f.Do("POST", path+"/cancel", "").Must(t, 200)
	a = f.Do("GET", path, "", "If-None-Match", a.Header.Get("ETag")).Must(t, 200)
	if a.Header.Get("Retry-After") != "" {
		t.Errorf("an ended job has Retry-After %s", a.Header.Get("Retry-After"))
	}
	f.Do("GET", path, "", "If-None-Match", a.Header.Get("ETag")).Must(t, 304)
}

func TestCancelAfterSetsTheDeadline(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for header, want := range map[string]time.Duration{"1": time.Second, "60": time.Minute, "86400": 10 * time.Minute} {
		var j job
		f.Do("POST", "/jobs", prompt, "Cancel-After", header).Must(t, 202).Into(t, &j)
		if got := j.Deadline.Sub(j.CreatedAt); got > want || got < want-time.Minute {
			t.Errorf("Cancel-After %s: %v, want %v", header, got, want)
		}
	}
	var j job
	f.Do("POST", "/jobs", prompt).Must(t, 202).Into(t, &j)
	if got := j.Deadline.Sub(j.CreatedAt); got > 10*time.Minute || got < 9*time.Minute {
		t.Errorf("without a header: %v", got)
	}
	for _, bad := range []string{"0", "-1", "86401", "soon", "1.5", "99999999999999999999"} {
		f.Do("POST", "/jobs", prompt, "Cancel-After", bad).Must(t, 422)
	}
	// Without a worker, the deadline cancels the job while the client waits. The answer
	// must name the deadline.
	a := f.Do("POST", "/generate", prompt, "Cancel-After", "1")
	a.Refused(t, 409, "job_cancelled")
	if !strings.Contains(string(a.Body), "deadline") {
		t.Errorf("%s", a.Body)
	}
}

// TestDefaultLengthCountsNewTokens submits short prompts and a prompt of 400 tokens, with
// and without a length. The default length counts only new tokens, so the long prompt
// must be accepted without a length.
func TestDefaultLengthCountsNewTokens(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	long := strings.Repeat("ray ", 100)
	for body, want := range map[string]int{
		`{"prompt":"light"}`:                                               50,
		`{"prompt":"` + long + `"}`:                                        50,
		`{"prompt":"` + long + `","max_length":null}`:                      50,
		`{"prompt":"light","max_length":50}`:                               45,
		`{"prompt":"light","max_new_tokens":7}`:                            7,
		`{"prompt":"light","max_new_tokens":60,"max_length":10}`:           60,
		`{"prompt":"` + long + `","max_new_tokens":1024,"max_length":200}`: 600, // the context of the model leaves room for 600 new tokens
	} {
		var j struct {
			Params struct {
				MaxTokens int `json:"max_tokens"`
			}
		}
		f.Do("POST", "/jobs", body).Must(t, 202).Into(t, &j)
		if got := j.Params.MaxTokens; got != want {
			t.Errorf("%.60s: %d new tokens, want %d", body, got, want)
		}
	}
	f.Do("POST", "/jobs", `{"prompt":"`+long+`","max_length":200}`).Refused(t, 422, "no_room")
}
