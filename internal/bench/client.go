package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// A benchClient is a user of a service under load. It is safe for concurrent use.
type benchClient struct {
	http *http.Client
	url  string

	name, password, access string
}

// newBenchClient registers a user and signs in. Connections are kept alive.
func newBenchClient(ctx context.Context, url string, connections int) (*benchClient, error) {
	c := &benchClient{url: url, name: "bench", password: "measured-and-weighed",
		http: &http.Client{Transport: &http.Transport{MaxIdleConns: connections, MaxIdleConnsPerHost: connections}}}
	if _, err := c.do(ctx, "POST", "/users", map[string]any{"username": c.name, "password": c.password}); err != nil {
		return nil, err
	}
	answer, err := c.token(ctx)
	if err != nil {
		return nil, err
	}
	var body struct {
		Access string `json:"access_token"`
	}
	if err := json.Unmarshal(answer, &body); err != nil {
		return nil, fmt.Errorf("sign in: %w", err)
	}
	c.access = body.Access
	return c, nil
}

// token signs in.
func (c *benchClient) token(ctx context.Context) ([]byte, error) {
	return c.do(ctx, "POST", "/token", url.Values{"username": {c.name}, "password": {c.password}})
}

// do sends a request, whose body is a form or something for JSON, and returns
// the body of the answer, or an error for a status of 300 and above.
func (c *benchClient) do(ctx context.Context, method, path string, body any) ([]byte, error) {
	resp, err := c.send(ctx, method, path, "", body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

func (c *benchClient) send(ctx context.Context, method, path, accept string, body any) (*http.Response, error) {
	var content io.Reader
	kind := "application/json"
	switch body := body.(type) {
	case nil:
	case url.Values:
		content, kind = strings.NewReader(body.Encode()), "application/x-www-form-urlencoded"
	default:
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, content)
	if err != nil {
		return nil, err
	}
	if content != nil {
		req.Header.Set("Content-Type", kind)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	if c.access != "" {
		req.Header.Set("Authorization", "Bearer "+c.access)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		problem, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return nil, fmt.Errorf("%s %s: %s %s", method, path, resp.Status, problem)
	}
	return resp, nil
}

// A benchJob is what a client asks for.
type benchJob struct {
	Prompt       string `json:"prompt"`
	MaxNewTokens int    `json:"max_new_tokens"`
	Seed         uint64 `json:"seed"`
}

// submit asks for a job and returns its id.
func (c *benchClient) submit(ctx context.Context, job benchJob) (id string, err error) {
	answer, err := c.do(ctx, "POST", "/jobs", job)
	if err != nil {
		return "", err
	}
	var body struct{ ID string }
	err = json.Unmarshal(answer, &body)
	return body.ID, err
}

// A benchEvent is an event of a job as it arrives.
type benchEvent struct {
	Version int
	Type    string
	At      time.Time
	Tokens  []int
	Reason  string
}

// follow calls f for each event of a job until it has ended, and returns an
// error unless it completed.
func (c *benchClient) follow(ctx context.Context, id string, f func(benchEvent)) error {
	resp, err := c.send(ctx, "GET", "/jobs/"+id+"/events", "text/event-stream", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var last benchEvent
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 4<<10), 1<<20)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue
		}
		e := benchEvent{}
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("read an event of job %s: %w", id, err)
		}
		if e.Version != last.Version+1 {
			return fmt.Errorf("job %s: event %d comes after event %d", id, e.Version, last.Version)
		}
		last = e
		f(e)
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if last.Type != "job.completed" {
		return fmt.Errorf("job %s ended with %s %s", id, last.Type, last.Reason)
	}
	return nil
}
