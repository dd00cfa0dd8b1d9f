package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"colophon/internal/pg/pgtest"
)

// service is a running `colophon up`.
type service struct {
	url  string
	data string
	stop func() error // as SIGTERM would
}

// up runs the command in this process until the test ends or stop is called.
func up(t *testing.T, data string, flags ...string) *service {
	t.Helper()
	return serving(t, "up", data, flags...)
}

// serving does the same with another command that serves.
func serving(t *testing.T, command, data string, flags ...string) *service {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	var log bytes.Buffer
	ended := make(chan error, 1)
	go func() {
		args := append([]string{command, "--listen", "127.0.0.1:0", "--data", data}, flags...)
		err := run(ctx, args, noEnvironment, strings.NewReader(""), w, &log)
		w.CloseWithError(io.EOF)
		ended <- err
	}()
	stop := sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", log.String())
		}
	})
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if at, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			go io.Copy(io.Discard, r)
			return &service{url: at, data: data, stop: stop}
		}
	}
	t.Fatalf("the service did not start: %v", stop())
	return nil
}

// noEnvironment hides the test's own environment, but for a database to use
// where there is no Postgres to start.
func noEnvironment(name string) (string, bool) {
	if name == "DATABASE_URL" || name == "PGBIN" {
		return os.LookupEnv(name)
	}
	return "", false
}

// client is one user's view of a service.
type client struct {
	t      *testing.T
	url    string
	access string // access token, if signed in
}

// answer is a response that has been read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request with a JSON body, or none.
func (c *client) do(method, path, body string, headers ...string) answer {
	c.t.Helper()
	if body != "" {
		headers = append([]string{"Content-Type", "application/json"}, headers...)
	}
	resp := c.open(c.t.Context(), method, path, body, headers...)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, got}
}

// open sends a request and leaves the body to be read.
func (c *client) open(ctx context.Context, method, path, body string, headers ...string) *http.Response {
	c.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if c.access != "" {
		req.Header.Set("Authorization", "Bearer "+c.access)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp
}

// must fails the test unless the answer has the status.
func (a answer) must(t *testing.T, status int) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	return a
}

// into decodes the answer.
func (a answer) into(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
}

// problem is what errors look like.
type problem struct {
	Title, Detail, Instance string
	Status                  int
	Errors                  []struct{ Message, Location string }
	Error                   struct {
		Message, Type string
		Param, Code   *string
	}
}

// refused checks that the answer is a problem of the status and returns it.
func (a answer) refused(t *testing.T, status int) problem {
	t.Helper()
	a.must(t, status)
	if media := a.header.Get("Content-Type"); media != "application/problem+json" {
		t.Errorf("a problem comes as %q", media)
	}
	var p problem
	a.into(t, &p)
	if p.Status != status || p.Title == "" || p.Detail == "" || p.Error.Message != p.Detail || p.Error.Type == "" {
		t.Errorf("half a problem: %s", a.body)
	}
	if p.Instance != "urn:uuid:"+a.header.Get("X-Request-Id") {
		t.Errorf("instance %q of request %q", p.Instance, a.header.Get("X-Request-Id"))
	}
	return p
}

// job is the job resource, as far as the tests look at it.
type job struct {
	ID, State, Prompt, Completion, Reason string
	GeneratedText                         string `json:"generated_text"`
	ModelName                             string `json:"model_name"`
	FinishReason                          string `json:"finish_reason"`
	CreatedAt                             string `json:"created_at"`
	Version                               int
	Usage                                 struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
		TotalTokens      int `json:"total_tokens"`
	}
	Params struct{ Seed uint64 }
}

const password = "securepassword"

// newUser registers a user and signs in.
func newUser(t *testing.T, s *service, name string) *client {
	t.Helper()
	c := &client{t: t, url: s.url}
	c.do("POST", "/users", fmt.Sprintf(`{"username":%q,"password":%q}`, name, password)).must(t, 200)
	return signIn(t, s, name)
}

func signIn(t *testing.T, s *service, name string) *client {
	t.Helper()
	c := &client{t: t, url: s.url}
	var tokens struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
	}
	c.form("/token", "username", name, "password", password).must(t, 200).into(t, &tokens)
	if tokens.TokenType != "bearer" || tokens.AccessToken == "" {
		t.Fatalf("tokens %+v", tokens)
	}
	c.access = tokens.AccessToken
	return c
}

// form posts a form.
func (c *client) form(path string, fields ...string) answer {
	c.t.Helper()
	values := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		values.Set(fields[i], fields[i+1])
	}
	return c.do("POST", path, values.Encode(), "Content-Type", "application/x-www-form-urlencoded")
}

// message is one server-sent event.
type message struct {
	id, event, data string
}

// follow reads up to limit messages of a job's stream after a version, all of
// them if limit is 0.
func (c *client) follow(id, last string, limit int) []message {
	c.t.Helper()
	ctx, cut := context.WithTimeout(c.t.Context(), time.Minute)
	defer cut()
	headers := []string{"Accept", "text/event-stream"}
	if last != "" {
		headers = append(headers, "Last-Event-ID", last)
	}
	resp := c.open(ctx, "GET", "/jobs/"+id+"/events", "", headers...)
	defer resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		c.t.Fatalf("stream: %d %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	var messages []message
	var m message
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "id":
			m.id = value
		case "event":
			m.event = value
		case "data":
			m.data = value
		case "":
			if m == (message{}) {
				continue // the end of a comment
			}
			messages, m = append(messages, m), message{}
			if len(messages) == limit {
				return messages
			}
		}
	}
	if err := lines.Err(); err != nil {
		c.t.Fatalf("stream: %v", err)
	}
	return messages
}

// submit queues a job and returns it.
func (c *client) submit(body string) job {
	c.t.Helper()
	a := c.do("POST", "/jobs", body).must(c.t, 202)
	var j job
	a.into(c.t, &j)
	if at := a.header.Get("Location"); at != "/jobs/"+j.ID {
		c.t.Fatalf("Location %q of job %s", at, j.ID)
	}
	return j
}

// dataDir returns a data directory that a test may run the service over.
func dataDir(t *testing.T) string {
	t.Helper()
	return pgtest.Dir(t)
}
