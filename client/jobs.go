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
	"strconv"
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
	Watermark    bool     `json:"watermark,omitempty"`      // mark the text with the user's watermark key; a service may mark all texts
	Stop         []string `json:"stop,omitempty"`           // the text ends before the first occurrence of one of these strings

	PresencePenalty   float64         `json:"presence_penalty,omitempty"`   // subtracted from the logits of tokens that the completion has, -2 to 2
	FrequencyPenalty  float64         `json:"frequency_penalty,omitempty"`  // subtracted from the logit of a token for each time that the completion has it, -2 to 2
	RepetitionPenalty float64         `json:"repetition_penalty,omitempty"` // makes tokens of the prompt and the completion less likely if above 1, 0.01 to 2; 0 means 1
	MinP              float64         `json:"min_p,omitempty"`              // tokens are chosen from those with at least this share of the highest probability; 0 means all
	LogitBias         map[int]float64 `json:"logit_bias,omitempty"`         // added to the logits of tokens, by their ids, -100 to 100 each
	Logprobs          *int            `json:"logprobs,omitempty"`           // number of likeliest tokens whose log probabilities the job has at each position, 0 to 20, beside those of its own tokens; nil for none at all
	MinTokens         int             `json:"min_tokens,omitempty"`         // number of tokens before which the text does not end

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

// Logprobs submits a job that computes the log probabilities of the text of a completed job
// again, with those of n alternatives at each position, and returns the new job. If the text
// cannot be computed again, the error is a [*Problem] with the code [CodeNoRepeatableText].
func (c *Client) Logprobs(ctx context.Context, id string, n int) (*Job, error) {
	body, err := json.Marshal(map[string]int{"logprobs": n})
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	return c.job(ctx, &Request{Method: http.MethodPost, Path: jobPath(id) + "/logprobs", Body: body})
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

// JobAtVersion returns a job as it was at a version, from 1. It has no QueuePosition,
// EstimatedStartAt, WaitingForModel and RetryAfter. If the job has no such version yet, the
// error is a [*Problem] with the code [CodeNoSuchVersion].
func (c *Client) JobAtVersion(ctx context.Context, id string, version int) (*Job, error) {
	return c.job(ctx, &Request{Path: jobPath(id) + "?at=" + strconv.Itoa(version)})
}

// JobAtTime is like JobAtVersion, but for a time, by the clock of the service. If the job
// was not accepted yet, the error is a [*Problem] with the code [CodeNotAcceptedYet]. If the
// time is more than a second in the future, the code is [CodeTimeInFuture]. The answer for a
// time within the last 10 s can still change.
func (c *Client) JobAtTime(ctx context.Context, id string, t time.Time) (*Job, error) {
	return c.job(ctx, &Request{Path: jobPath(id) + "?at=" + queryTime(t)})
}

// queryTime returns a time as a value of a query parameter. In UTC, it needs no escapes.
func queryTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

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

// Erase erases the prompt, the text and the parameters of a job for ever, and cancels the job
// if it has not ended. The rest of its record stays, and receipts that were issued before
// remain valid. Erase may be repeated.
func (c *Client) Erase(ctx context.Context, id string) error {
	_, err := c.Do(ctx, &Request{Method: http.MethodDelete, Path: jobPath(id)})
	return err
}

// A JobFilter selects jobs. Zero fields select all.
type JobFilter struct {
	States       []State
	Model        string
	Since, Until time.Time // jobs accepted at Since and later, and before Until, by the clock of the service
}

// Jobs yields the user's jobs in any state, the newest first. A job has its texts only if it
// has ended. Jobs requests each further page only when the caller needs the page. Jobs that
// are submitted meanwhile are not in the sequence. An error ends it.
func (c *Client) Jobs(ctx context.Context, filter JobFilter) iter.Seq2[*Job, error] {
	states := make([]string, len(filter.States))
	for i, state := range filter.States {
		states[i] = string(state)
	}
	query := map[string]string{"state": strings.Join(states, ","), "model": filter.Model}
	for name, at := range map[string]time.Time{"since": filter.Since, "until": filter.Until} {
		if !at.IsZero() {
			query[name] = queryTime(at)
		}
	}
	return c.pages(ctx, withQuery("/jobs", query))
}

// withQuery returns a path with query parameters, without those that are "".
func withQuery(path string, params map[string]string) string {
	query := url.Values{}
	for name, value := range params {
		if value != "" {
			query.Set(name, value)
		}
	}
	if len(query) == 0 {
		return path
	}
	return path + "?" + query.Encode()
}

// History yields the user's completed jobs, the newest first. It requests each further
// page only when the caller needs the page. An error ends the sequence.
func (c *Client) History(ctx context.Context) iter.Seq2[*Job, error] {
	return c.pages(ctx, "/history")
}

// HistoryAsOf is like History, but yields only jobs that had completed at the time t, by the
// clock of the service. Jobs that complete meanwhile are not in the sequence. If t is within
// the last 10 s, a job that has just completed may be missing. If t is more than a second in
// the future, the error is a [*Problem] with the code [CodeTimeInFuture].
func (c *Client) HistoryAsOf(ctx context.Context, t time.Time) iter.Seq2[*Job, error] {
	return c.pages(ctx, "/history?as_of="+queryTime(t))
}

// pages yields the jobs of a list, page by page.
func (c *Client) pages(ctx context.Context, path string) iter.Seq2[*Job, error] {
	return func(yield func(*Job, error) bool) {
		for r := (&Request{Path: path}); r != nil; {
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
