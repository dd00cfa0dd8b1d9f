package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Client calls the service as one user. Before SignIn, and without Options.APIKey, it calls
// the service without a user. It is safe for concurrent use.
type Client struct {
	base    func() string
	http    http.Client
	tries   int
	timeout time.Duration // the longest time that one try may take
	silence time.Duration // the longest time for which a stream may be silent

	mu      sync.Mutex
	session session
	renewal *renewal // the current renewal, or nil
}

// Options configure a Client. The zero value has useful defaults.
type Options struct {
	// Transport sends the requests. Nil is [http.DefaultTransport].
	Transport http.RoundTripper

	// Base returns the base URL for the next try of a call. It replaces the URL that was
	// given to New. It can spread calls over replicas of the service, because the retry
	// of a failed try then goes to another replica.
	Base func() string

	// Tokens are the tokens of an earlier session of the user, which the client
	// continues.
	Tokens Tokens

	// APIKey authenticates the calls in place of an access token. A client with a key needs
	// no SignIn, and never renews it. SignIn replaces the key.
	APIKey string

	// Tries is the largest number of tries of a call. 0 means 5. With 1, no call is
	// retried.
	Tries int

	// Timeout bounds one try of a call. 0 means 30 s. If a request asks the service to
	// wait, that wait is added to Timeout.
	Timeout time.Duration
}

// defaultTimeout is the default of Options.Timeout.
const defaultTimeout = 30 * time.Second

// New returns a client of the service at a base URL, such as
// https://colophon.example. It sends nothing. It returns an error if the URL is
// not an absolute http or https URL, or if the options have both tokens and an API key.
func New(baseURL string, o Options) (*Client, error) {
	base, err := url.Parse(baseURL)
	if err != nil {
		return nil, fmt.Errorf("read the base URL: %w", err)
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("the base URL %q is not of the form https://host", base.Redacted())
	}
	if o.APIKey != "" && o.Tokens != (Tokens{}) {
		return nil, errors.New("the options have both tokens and an API key")
	}
	c := &Client{
		base:    o.Base,
		tries:   cmp.Or(o.Tries, defaultTries),
		timeout: cmp.Or(o.Timeout, defaultTimeout),
		silence: streamSilence,
		session: session{tokens: o.Tokens, key: o.APIKey},
	}
	if c.base == nil {
		c.base = func() string { return baseURL }
	}
	c.http.Transport = o.Transport
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c, nil
}

// A Request is one call of the API.
type Request struct {
	Method string // "" means GET
	Path   string // below the base URL, such as /jobs, with its query
	Header http.Header
	Body   []byte // JSON unless Header has another Content-Type

	// Wait is the time for which the service may wait for a text before it answers
	// (Prefer: wait), in whole seconds. It is added to the timeout of a try.
	Wait time.Duration

	anonymous bool // sent without an access token
}

func (r *Request) method() string { return cmp.Or(r.Method, http.MethodGet) }

// A Response is a complete answer of the service.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Do calls the API and returns the answer, whose Status is 2xx or 304. An error
// answer is a [*Problem].
//
// Do adds the API key, or the access token and renews this token when the service refuses it. Do adds an
// Idempotency-Key to a POST that has none. A POST needs no key, and gets none, if it has
// no retries (Options.Tries is 1) and does not wait for a text.
//
// Do retries with the same key after a connection error, after a timeout of one try, and
// after the statuses 408, 429 and 5xx. It also retries after a 409 that says that an
// earlier try is still in flight. The pause is at least as long as Retry-After says. If
// Retry-After is longer than a minute, Do returns the problem at once. Do stops when ctx
// ends.
func (c *Client) Do(ctx context.Context, r *Request) (*Response, error) {
	call := *r
	if (c.tries > 1 || r.Wait > 0) && r.method() == http.MethodPost && r.Header.Get("Idempotency-Key") == "" {
		call.Header = r.Header.Clone()
		call.setHeader("Idempotency-Key", `"`+rand.Text()+`"`)
	}
	for t := (tries{limit: c.tries}); ; {
		resp, err := c.try(ctx, &call)
		if err == nil {
			return resp, nil
		}
		if err := t.again(ctx, err); err != nil {
			return nil, failed(r, err)
		}
	}
}

// call calls Do and decodes a JSON answer into v.
func (c *Client) call(ctx context.Context, r *Request, v any) (*Response, error) {
	resp, err := c.Do(ctx, r)
	if err != nil || resp.Status == http.StatusNotModified {
		return resp, err
	}
	if err := json.Unmarshal(resp.Body, v); err != nil {
		return nil, failed(r, fmt.Errorf("%w: %w", ErrProtocol, err))
	}
	return resp, nil
}

// try makes one try of a call.
func (c *Client) try(ctx context.Context, r *Request) (*Response, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout+r.Wait)
	defer cancel()
	resp, err := c.open(ctx, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrProtocol, maxAnswer)
	}
	return &Response{resp.StatusCode, resp.Header, body}, nil
}

// maxAnswer bounds the body of an answer, in bytes.
const maxAnswer = 16 << 20

// open sends a request. If the access token is refused, open renews it and sends
// the request once more. The caller must read and close the body of the answer.
func (c *Client) open(ctx context.Context, r *Request) (*http.Response, error) {
	if r.anonymous {
		return c.send(ctx, r, "")
	}
	access, err := c.access(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(ctx, r, access)
	if p, ok := errors.AsType[*Problem](err); !ok || p.Status != http.StatusUnauthorized || access == "" {
		return resp, err
	}
	renewed, renewErr := c.renew(ctx, access)
	if renewErr != nil {
		return nil, renewErr
	}
	if renewed == access { // the session has no means to get a new token
		return nil, err
	}
	return c.send(ctx, r, renewed)
}

// send sends a request once, with the access token unless access is "".
func (c *Client) send(ctx context.Context, r *Request, access string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method(), strings.TrimSuffix(c.base(), "/")+r.Path, bytes.NewReader(r.Body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	if r.Header != nil {
		req.Header = r.Header.Clone()
	}
	if r.Body != nil && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if access != "" {
		req.Header.Set("Authorization", "Bearer "+access)
	}
	if r.Wait > 0 {
		req.Header.Set("Prefer", "wait="+seconds(r.Wait))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 || resp.StatusCode == http.StatusNotModified {
		return resp, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode < 400 {
		return nil, fmt.Errorf("%w: %s to %q", ErrProtocol, resp.Status, resp.Header.Get("Location"))
	}
	return nil, readProblem(resp.StatusCode, resp.Header, resp.Body)
}

// seconds returns a duration in whole seconds, rounded up.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

func (r *Request) setHeader(name, value string) {
	if r.Header == nil {
		r.Header = http.Header{}
	}
	r.Header.Set(name, value)
}

// failed adds the method and path of a request to an error.
func failed(r *Request, err error) error { return fmt.Errorf("%s %s: %w", r.method(), r.Path, err) }
