// Package apitest calls the service over HTTP as tests do, and reads what it
// answers.
//
// A Client sends what it is told and nothing that nobody asked for: it follows
// no redirect and keeps no cookie. It is a value; a copy with another field is
// another caller. Like all that is handed a testing.TB here, its methods end the
// test where something fails, at the line of who called them. They are therefore
// for the test's own goroutine, and for others with Beside; Open and Send, which
// return their errors, may be called from anywhere, and a Client is safe for
// concurrent use.
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

// A Client calls one service as one user, or as nobody.
type Client struct {
	T         testing.TB
	URL       string            // of the service, without a slash at the end
	Access    string            // access token, "" to send none
	Transport http.RoundTripper // nil for the default one
}

// As returns the client with another access token, or none.
func (c Client) As(access string) Client {
	c.Access = access
	return c
}

// Open sends a request and leaves the answer's body to be read and closed. A body
// is JSON unless the headers, each a name and a value, say otherwise.
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
	req.Host = cmp.Or(req.Header.Get("Host"), req.Host) // where net/http looks for it
	return cmp.Or(c.Transport, http.DefaultTransport).RoundTrip(req)
}

// Send sends a request, as Open does, and reads the answer.
func (c Client) Send(ctx context.Context, method, path, body string, headers ...string) (Answer, error) {
	resp, err := c.Open(ctx, method, path, body, headers...)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return Answer{resp.StatusCode, resp.Header, got}, err
}

// Do is Send during the test.
func (c Client) Do(method, path, body string, headers ...string) Answer {
	c.T.Helper()
	a, err := c.Send(c.T.Context(), method, path, body, headers...)
	if err != nil {
		c.T.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// Form posts a form of names and values.
func (c Client) Form(path string, fields ...string) Answer {
	c.T.Helper()
	values := url.Values{}
	for field := range slices.Chunk(fields, 2) {
		values.Add(field[0], field[1])
	}
	return c.Do("POST", path, values.Encode(), "Content-Type", FormType)
}

// Register makes an account and returns its id.
func (c Client) Register(name, password string) uuid.UUID {
	c.T.Helper()
	var account struct{ ID uuid.UUID }
	c.Do("POST", "/users", fmt.Sprintf(`{"username":%q,"password":%q}`, name, password)).Must(c.T, 200).Into(c.T, &account)
	return account.ID
}

// Password is the password of the accounts that NewUser registers.
const Password = "securepassword"

// NewUser registers an account and returns a client that is signed in to it.
func NewUser(t testing.TB, url, name string) Client {
	t.Helper()
	c := Client{T: t, URL: url}
	c.Register(name, Password)
	return c.As(c.SignIn(name, Password).Access)
}

// Tokens are what a sign-in gives.
type Tokens struct {
	Access    string `json:"access_token"`
	Refresh   string `json:"refresh_token"`
	Type      string `json:"token_type"`
	ExpiresIn int    `json:"expires_in"` // seconds
}

// SignIn signs in to an account.
func (c Client) SignIn(name, password string) (tokens Tokens) {
	c.T.Helper()
	c.Form("/token", "username", name, "password", password).Must(c.T, 200).Into(c.T, &tokens)
	if tokens.Type != "bearer" || tokens.Access == "" || tokens.Refresh == "" {
		c.T.Fatalf("tokens %+v", tokens)
	}
	return tokens
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

// Stream asks for a path as server-sent events, which it returns as Messages
// does. The connection ends with ctx, or with the test.
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

// A Message is one server-sent event. One that is empty is a heartbeat.
type Message = client.Message

// Messages reads server-sent events as they come, with the client's reader. To
// range over them again goes on behind the last one. The last one comes with an
// error if the stream breaks off, or if the service wrote it in another form
// than its own: id, event, data and retry, each at most once, or a comment.
func Messages(r io.Reader) iter.Seq2[Message, error] {
	var sent bytes.Buffer // and not yet read as messages
	messages := client.Messages(io.TeeReader(r, &sent))
	return func(yield func(Message, error) bool) {
		for m, err := range messages {
			if err == nil {
				err = written(m, &sent)
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// written takes one message out of what was sent, and returns an error unless it
// is as the service writes it. The client's reader, like a browser, ignores what
// it does not know.
func written(m Message, sent *bytes.Buffer) error {
	text, _, _ := strings.Cut(sent.String(), "\n\n")
	sent.Next(len(text) + len("\n\n"))
	var want []string
	for _, field := range [][2]string{{"id", m.ID}, {"event", m.Event}, {"data", m.Data}, {"retry", m.Retry}} {
		if field[1] != "" {
			want = append(want, field[0]+": "+field[1])
		}
	}
	if comment := m == (Message{}) && strings.HasPrefix(text, ":") && !strings.Contains(text, "\n"); comment || text == strings.Join(want, "\n") {
		return nil
	}
	return fmt.Errorf("the message %q", text)
}

// An Answer is a response that has been read.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Must ends the test unless the answer has the status.
func (a Answer) Must(t testing.TB, status int) Answer {
	t.Helper()
	if a.Status != status {
		t.Fatalf("status %d, want %d: %.1000s", a.Status, status, a.Body)
	}
	return a
}

// Into decodes the answer.
func (a Answer) Into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(a.Body, v); err != nil {
		t.Fatalf("%v in %.1000s", err, a.Body)
	}
}

// A Problem is what errors look like.
type Problem struct {
	Title, Detail, Instance string
	Status                  int
	Errors                  []struct{ Message, Location string }
	Error                   struct{ Message, Type, Code string }
}

// Problem reads the answer as a problem, and says what is wrong with it as one.
func (a Answer) Problem() (p Problem, err error) {
	if err := json.Unmarshal(a.Body, &p); err != nil {
		return p, err
	}
	if media := a.Header.Get("Content-Type"); media != "application/problem+json" {
		return p, fmt.Errorf("an error comes as %q", media)
	}
	if p.Status != a.Status || p.Title == "" || p.Detail == "" || p.Error.Message != p.Detail || p.Error.Type == "" {
		return p, fmt.Errorf("half a problem")
	}
	if id := a.Header.Get("X-Request-Id"); p.Instance != "urn:uuid:"+id {
		return p, fmt.Errorf("instance %q of request %q", p.Instance, id)
	}
	if name := map[int]string{401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After", 503: "Retry-After"}[a.Status]; name != "" && a.Header.Get(name) == "" {
		return p, fmt.Errorf("%d without %s", a.Status, name)
	}
	return p, nil
}

// Code is what a problem says to programs, "" of everything else.
func (a Answer) Code() string {
	p, _ := a.Problem()
	return p.Error.Code
}

// Refused checks that the answer is a problem of the status with the code, where
// "" stands for any, and returns it.
func (a Answer) Refused(t testing.TB, status int, code string) Problem {
	t.Helper()
	p, err := a.Must(t, status).Problem()
	if err != nil || code != "" && p.Error.Code != code {
		t.Errorf("want a problem %s: %v in %.1000s", code, err, a.Body)
	}
	return p
}

// Beside returns t for another goroutine, which it ends instead of the test; the
// test has failed all the same.
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

// A Log keeps what is written to it, from many sides.
type Log struct {
	mu  sync.Mutex
	all bytes.Buffer
}

// Write takes a line.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

// String returns all lines.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}
