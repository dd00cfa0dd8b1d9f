// Package apitest is for tests. It sends raw HTTP requests to the service and checks the
// answers.
//
// A Client sends only the requests that a test gives it. It follows no redirect and keeps
// no cookie. A Client is a value, and a copy with other fields acts as another caller. It
// is safe for concurrent use.
//
// Functions with a testing.TB, and the methods of a Client with one, report a failure at
// the line of their caller and may end the test. Call them only in the test's own
// goroutine. In another goroutine, use the testing.TB that Beside returns. Open and Send
// return their errors, so any goroutine may call them.
package apitest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"colophon/client"
)

// FormType is the media type of forms.
const FormType = "application/x-www-form-urlencoded"

// A Client calls one service as one user, or without an account.
type Client struct {
	T         testing.TB
	URL       string            // URL of the service, without a trailing slash
	Access    string            // access token, "" to send none
	Transport http.RoundTripper // nil for http.DefaultTransport
}

// As returns a copy of the client with another access token. "" means no token.
func (c Client) As(access string) Client {
	c.Access = access
	return c
}

// Open sends a request. The caller reads and closes the body of the answer. The headers
// are names and values in turn. The request body is JSON unless the headers say
// otherwise.
func (c Client) Open(ctx context.Context, method, path, body string, headers ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Access != "" {
		req.Header.Set("Authorization", "Bearer "+c.Access)
	}
	for header := range slices.Chunk(headers, 2) {
		req.Header.Set(header[0], header[1])
	}
	req.Host = cmp.Or(req.Header.Get("Host"), req.Host) // net/http ignores the Host in Header
	return cmp.Or(c.Transport, http.DefaultTransport).RoundTrip(req)
}

// Send sends a request in the same way as Open, and reads the whole answer.
func (c Client) Send(ctx context.Context, method, path, body string, headers ...string) (Answer, error) {
	resp, err := c.Open(ctx, method, path, body, headers...)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return Answer{resp.StatusCode, resp.Header, got}, err
}

// Do calls Send with the context of the test.
func (c Client) Do(method, path, body string, headers ...string) Answer {
	c.T.Helper()
	a, err := c.Send(c.T.Context(), method, path, body, headers...)
	if err != nil {
		c.T.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// Form posts a form with fields, which are names and values in turn.
func (c Client) Form(path string, fields ...string) Answer {
	c.T.Helper()
	values := url.Values{}
	for field := range slices.Chunk(fields, 2) {
		values.Add(field[0], field[1])
	}
	return c.Do("POST", path, values.Encode(), "Content-Type", FormType)
}

// Register creates an account and returns its id.
func (c Client) Register(name, password string) uuid.UUID {
	c.T.Helper()
	var account struct{ ID uuid.UUID }
	c.Do("POST", "/users", fmt.Sprintf(`{"username":%q,"password":%q}`, name, password)).Must(c.T, 200).Into(c.T, &account)
	return account.ID
}

// Tokens is the answer to a sign-in.
type Tokens struct {
	Access    string `json:"access_token"`
	Refresh   string `json:"refresh_token"`
	Type      string `json:"token_type"`
	ExpiresIn int    `json:"expires_in"` // seconds
}

// SignIn signs in to an account and returns the tokens. It does not change the client, so
// use As to send the access token.
func (c Client) SignIn(name, password string) (tokens Tokens) {
	c.T.Helper()
	c.Form("/token", "username", name, "password", password).Must(c.T, 200).Into(c.T, &tokens)
	if tokens.Type != "bearer" || tokens.Access == "" || tokens.Refresh == "" {
		c.T.Fatalf("tokens %+v", tokens)
	}
	return tokens
}

// Password is the password of the accounts that NewUser registers.
const Password = "securepassword"

// NewUser registers an account and returns a client that is signed in to this account.
func NewUser(t testing.TB, url, name string) Client {
	t.Helper()
	c := Client{T: t, URL: url}
	c.Register(name, Password)
	return c.As(c.SignIn(name, Password).Access)
}

// Submit queues a job and returns its id.
func (c Client) Submit(body string) string {
	c.T.Helper()
	a := c.Do("POST", "/jobs", body).Must(c.T, 202)
	var job struct{ ID uuid.UUID }
	a.Into(c.T, &job)
	if at := a.Header.Get("Location"); at != "/jobs/"+job.ID.String() {
		c.T.Fatalf("Location %q of job %s", at, job.ID)
	}
	return job.ID.String()
}

// Stream requests a path as server-sent events and returns the events in the same way as
// Messages. The connection closes when ctx ends or when the test ends.
func (c Client) Stream(ctx context.Context, path string, headers ...string) iter.Seq2[Message, error] {
	c.T.Helper()
	resp, err := c.Open(ctx, "GET", path, "", append([]string{"Accept", "text/event-stream"}, headers...)...)
	if err != nil {
		c.T.Fatalf("GET %s: %v", path, err)
	}
	c.T.Cleanup(func() { resp.Body.Close() })
	if media := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || media != "text/event-stream" {
		c.T.Fatalf("GET %s: %s as %q, want a stream", path, resp.Status, media)
	}
	return Messages(resp.Body)
}

// A Message is one server-sent event. An empty message is a heartbeat.
type Message = client.Message

// Messages yields server-sent events as they arrive. A second range continues after the
// last event of the first range. The sequence ends with an error if the stream breaks
// off, or if an event does not have the service's form. This form is id, event, data and
// retry in this order, each at most once, or one comment line.
func Messages(r io.Reader) iter.Seq2[Message, error] {
	var received bytes.Buffer // received, but not yet checked
	messages := client.Messages(io.TeeReader(r, &received))
	return func(yield func(Message, error) bool) {
		for m, err := range messages {
			if err == nil {
				err = checkForm(m, &received)
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// checkForm removes one message from received. It returns an error unless the message has
// the service's form. The client's reader cannot check this form, because it ignores
// unknown fields, as a browser does.
func checkForm(m Message, received *bytes.Buffer) error {
	text, _, _ := strings.Cut(received.String(), "\n\n")
	received.Next(len(text) + len("\n\n"))
	var want []string
	for _, field := range [][2]string{{"id", m.ID}, {"event", m.Event}, {"data", m.Data}, {"retry", m.Retry}} {
		if field[1] != "" {
			want = append(want, field[0]+": "+field[1])
		}
	}
	if comment := m == (Message{}) && strings.HasPrefix(text, ":") && !strings.Contains(text, "\n"); comment || text == strings.Join(want, "\n") {
		return nil
	}
	return fmt.Errorf("malformed message %q", text)
}

// An Answer is a response with its whole body.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Must returns the answer. If the answer has another status, Must ends the test.
func (a Answer) Must(t testing.TB, status int) Answer {
	t.Helper()
	if a.Status != status {
		t.Fatalf("status %d, want %d: %.1000s", a.Status, status, a.Body)
	}
	return a
}

// Into decodes the JSON body into v.
func (a Answer) Into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(a.Body, v); err != nil {
		t.Fatalf("%v in %.1000s", err, a.Body)
	}
}

// A Problem is the body of an error response.
type Problem struct {
	Title, Detail, Instance string
	Status                  int
	Errors                  []struct{ Message, Location string }
	Error                   ProblemError
}

// ProblemError is the member error of a problem. At the OAuth2 endpoints, Message is the
// member error_description, Type is the member error, and Code is the member code.
type ProblemError struct{ Message, Type, Code string }

// Problem decodes the answer as a problem. It returns an error if a member or a header
// of a problem is missing or wrong.
func (a Answer) Problem() (p Problem, err error) {
	var read struct {
		Problem
		Error       json.RawMessage
		Code        string
		Description string `json:"error_description"`
	}
	if err := json.Unmarshal(a.Body, &read); err != nil {
		return p, err
	}
	p = read.Problem
	said := p.Detail
	if err := json.Unmarshal(read.Error, &p.Error.Type); err == nil {
		p.Error.Code, p.Error.Message = read.Code, read.Description
		said = strings.ReplaceAll(p.Detail, `"`, "'") // the service replaces quotation marks, because OAuth2 does not allow them
	} else if err := json.Unmarshal(read.Error, &p.Error); err != nil {
		return p, err
	}
	if media := a.Header.Get("Content-Type"); media != "application/problem+json" {
		return p, fmt.Errorf("problem with media type %q", media)
	}
	if p.Status != a.Status || p.Title == "" || p.Detail == "" || p.Error.Message != said || p.Error.Type == "" {
		return p, fmt.Errorf("incomplete problem")
	}
	if id := a.Header.Get("X-Request-Id"); p.Instance != "urn:uuid:"+id {
		return p, fmt.Errorf("problem with instance %q of request %q", p.Instance, id)
	}
	if name := map[int]string{401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After", 503: "Retry-After"}[a.Status]; name != "" && a.Header.Get(name) == "" {
		return p, fmt.Errorf("problem %d without %s", a.Status, name)
	}
	return p, nil
}

// Code returns the error code in the body, or "" if the body has no error code.
func (a Answer) Code() string {
	p, _ := a.Problem()
	return p.Error.Code
}

// Refused returns the problem in the answer. The test fails unless the answer is a
// problem with this status and code. The code "" means any code.
func (a Answer) Refused(t testing.TB, status int, code string) Problem {
	t.Helper()
	p, err := a.Must(t, status).Problem()
	if err != nil || code != "" && p.Error.Code != code {
		t.Errorf("want a problem with code %q: %v in %.1000s", code, err, a.Body)
	}
	return p
}

// Beside returns a testing.TB for another goroutine than that of t. A fatal failure then
// ends only that other goroutine and marks the test as failed.
func Beside(t testing.TB) testing.TB { return beside{t} }

type beside struct{ testing.TB }

func (b beside) FailNow() {
	b.Fail()
	runtime.Goexit()
}

func (b beside) Fatal(args ...any) {
	b.Helper()
	b.Error(args...)
	runtime.Goexit()
}

func (b beside) Fatalf(format string, args ...any) {
	b.Helper()
	b.Errorf(format, args...)
	runtime.Goexit()
}

// A Log keeps all writes in memory. It is safe for concurrent use.
type Log struct {
	mu  sync.Mutex
	all bytes.Buffer
}

// Write appends to the log.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

// String returns the whole log.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}
