package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// A JobRequest asks for a text. The service has defaults for zero and nil fields.
type JobRequest struct {
	Prompt       string   `json:"prompt"`
	MaxLength    int      `json:"max_length,omitempty"`     // largest number of tokens of prompt and completion together; 0 means no such limit
	MaxNewTokens int      `json:"max_new_tokens,omitempty"` // largest number of tokens of the completion, used instead of MaxLength; if both are 0, it is 50
	Temperature  *float64 `json:"temperature,omitempty"`    // 0 always takes the likeliest token; nil means 0.8
	TopK         *int     `json:"top_k,omitempty"`          // number of likeliest tokens to choose from; 0 means all tokens, nil means 40
	TopP         float64  `json:"top_p,omitempty"`          // tokens are chosen from the likeliest ones whose probabilities add up to this value; 0 means 1
	Seed         *uint64  `json:"seed,omitempty"`           // the same request with the same seed gives the same text; nil means a random seed
	Stop         []string `json:"stop,omitempty"`           // the text ends before the first occurrence of one of these strings

	// Key is the Idempotency-Key. For a day, all requests with the same key create only
	// one job, also if they come from different processes. If Key is "", the client
	// generates a key for each call that retries or waits.
	Key string `json:"-"`

	// Wait is the longest time for which the service waits for the text before it
	// answers, in whole seconds. It is at most 60 s.
	Wait time.Duration `json:"-"`

	// CancelAfter is the longest time that the job may take, in whole seconds. After this
	// time the service cancels the job. The service also has a limit of its own.
	CancelAfter time.Duration `json:"-"`
}

// generateWait is the default of JobRequest.Wait in the requests of Generate.
const generateWait = 30 * time.Second

// Generate asks for a text, waits as long as the job takes, and returns the completed
// job. If the job fails or is cancelled, the error is a [*Problem] with the code
// [CodeJobFailed] or [CodeJobCancelled]. When ctx ends, the job continues. A later call
// of Generate with the same Key returns that job.
func (c *Client) Generate(ctx context.Context, r JobRequest) (*Job, error) {
	r.Key = cmp.Or(r.Key, rand.Text())
	r.Wait = cmp.Or(r.Wait, generateWait)
	for {
		begin := time.Now()
		job, err := c.post(ctx, "/generate", &r)
		if err != nil || job.State.Final() {
			return job, err
		}
		// A service that shuts down answers before r.Wait is over. The pause then lasts
		// at most until the end of r.Wait.
		if err := sleep(ctx, min(job.RetryAfter, r.Wait-time.Since(begin))); err != nil {
			return nil, fmt.Errorf("wait for job %s: %w", job.ID, err)
		}
	}
}

// Submit asks for a text and returns the job as soon as the service has stored the job.
// With Wait it returns when the job has completed, or when the time is over. If the job
// fails or is cancelled during the wait, the error is a [*Problem] with the code
// [CodeJobFailed] or [CodeJobCancelled].
func (c *Client) Submit(ctx context.Context, r JobRequest) (*Job, error) {
	return c.post(ctx, "/jobs", &r)
}

func (c *Client) post(ctx context.Context, path string, r *JobRequest) (*Job, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	request := &Request{Method: http.MethodPost, Path: path, Body: body, Wait: r.Wait}
	if r.Key != "" {
		key, err := quoteKey(r.Key)
		if err != nil {
			return nil, err
		}
		request.setHeader("Idempotency-Key", key)
	}
	if r.CancelAfter > 0 {
		request.setHeader("Cancel-After", seconds(r.CancelAfter))
	}
	return c.job(ctx, request)
}

// quoteKey returns an idempotency key as an RFC 8941 string, which is the form of the
// header.
func quoteKey(key string) (string, error) {
	if len(key) > 255 || strings.ContainsFunc(key, func(c rune) bool { return c < ' ' || c > '~' }) {
		return "", fmt.Errorf("the idempotency key %q is not 1 to 255 visible ASCII characters", key)
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`, nil
}

// job calls the API and returns the job in the answer.
func (c *Client) job(ctx context.Context, r *Request) (*Job, error) {
	job := &Job{}
	if _, err := c.update(ctx, r, job); err != nil {
		return nil, err
	}
	return job, nil
}

// update calls the API and sets job to the job in the answer. It reports whether the job
// has changed.
func (c *Client) update(ctx context.Context, r *Request, job *Job) (changed bool, err error) {
	latest := &Job{}
	resp, err := c.call(ctx, r, latest)
	switch {
	case err != nil:
		return false, err
	case resp.Status == http.StatusNotModified:
		job.note(resp)
		return false, nil
	case latest.ID == "":
		return false, failed(r, fmt.Errorf("%w: a job without an id", ErrProtocol))
	}
	latest.note(resp)
	*job = *latest
	return true, nil
}

// note copies ETag and Retry-After from an answer to the job.
func (j *Job) note(resp *Response) {
	j.ETag = resp.Header.Get("ETag")
	j.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), time.Now())
}

func jobPath(id string) string { return "/jobs/" + url.PathEscape(id) }

// Job returns the current state of a job.
func (c *Client) Job(ctx context.Context, id string) (*Job, error) {
	return c.job(ctx, &Request{Path: jobPath(id)})
}

// Poll updates a job that Job or Poll has returned, and reports whether the job has
// changed since then. It makes one request. A Job that has only an ID counts as changed.
// RetryAfter of the job is the suggested wait before the next Poll.
func (c *Client) Poll(ctx context.Context, job *Job) (changed bool, err error) {
	r := &Request{Path: jobPath(job.ID)}
	if job.ETag != "" {
		r.setHeader("If-None-Match", job.ETag)
	}
	return c.update(ctx, r, job)
}

// Wait follows a job until it has completed, failed or been cancelled, and returns it.
func (c *Client) Wait(ctx context.Context, id string) (*Job, error) {
	for _, err := range c.Follow(ctx, id, 0) {
		if err != nil {
			return nil, err
		}
	}
	return c.Job(ctx, id)
}

// Cancel cancels a job and returns its new state. It does not change a job that has
// ended.
func (c *Client) Cancel(ctx context.Context, id string) (*Job, error) {
	return c.job(ctx, &Request{Method: http.MethodPost, Path: jobPath(id) + "/cancel"})
}

// History yields the user's completed jobs, the newest first. It requests each further
// page only when the caller needs the page. An error ends the sequence.
func (c *Client) History(ctx context.Context) iter.Seq2[*Job, error] {
	return func(yield func(*Job, error) bool) {
		for r := (&Request{Path: "/history"}); r != nil; {
			var page []*Job
			resp, err := c.call(ctx, r, &page)
			if err == nil {
				r, err = nextPage(r, resp.Header)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			for _, job := range page {
				if !yield(job, nil) {
					return
				}
			}
		}
	}
}

// nextPage returns the request for the next page. An answer links to this page with
// rel=next (RFC 8288). nextPage returns nil if the answer has no such link.
func nextPage(r *Request, header http.Header) (*Request, error) {
	for _, line := range header.Values("Link") {
		for link := range strings.SplitSeq(line, ",") {
			target, params, _ := strings.Cut(link, ";")
			if rel := strings.ReplaceAll(strings.TrimSpace(params), " ", ""); rel != `rel="next"` && rel != "rel=next" {
				continue
			}
			target = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(target), "<"), ">")
			next, err := url.Parse(target)
			if err != nil || next.Scheme != "" || next.Host != "" || !strings.HasPrefix(next.Path, "/") || target == r.Path {
				return nil, failed(r, fmt.Errorf("%w: link %q", ErrProtocol, target))
			}
			return &Request{Path: target}, nil
		}
	}
	return nil, nil
}
