package retry

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"
)

const (
	// maxRequests is the number of failed requests in a row after which Requests gives up.
	maxRequests = 6

	// firstRequestWait is the wait after the first failed request.
	firstRequestWait = 500 * time.Millisecond

	// MaxRequestWait is the longest wait before another request.
	MaxRequestWait = time.Minute
)

// permanent is an error that another call would repeat.
type permanent struct{ error }

func (p *permanent) Unwrap() error { return p.error }

// Permanent marks err as an error that another call would repeat.
func Permanent(err error) error { return &permanent{err} }

// IsPermanent reports whether err wraps an error of [Permanent].
func IsPermanent(err error) bool {
	_, ok := errors.AsType[*permanent](err)
	return ok
}

// unavailable is the error for an answer that asks the client to come back later.
type unavailable struct {
	error
	after time.Duration // 0 if the server names no time
}

func (u *unavailable) Unwrap() error { return u.error }

// Unavailable returns err with the wait that the Retry-After header of an answer asks for. It
// returns nil if the status of the answer does not ask the client to come back.
func Unavailable(resp *http.Response, err error) error {
	switch code := resp.StatusCode; {
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests, code >= 500:
		return &unavailable{err, After(resp.Header.Get("Retry-After"))}
	}
	return nil
}

// RequestError returns the cause of a failed request without the URL, which may be a secret
// after a redirect. A server whose certificate is not trusted is a permanent error.
func RequestError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return Permanent(err)
	}
	return err
}

// Requests counts the failed requests for one file. The wait before another request doubles
// with each failure. If the server asks for a longer wait with Retry-After, that wait is used
// instead. No wait is longer than [MaxRequestWait]. Jitter shortens the wait by up to half, so
// that clients do not retry at the same time. The zero value is ready to use. It is not safe
// for concurrent use.
type Requests struct {
	failed  int // in a row
	backoff Backoff
}

// Next returns the wait before another request. It reports false if err is permanent, or if
// it is the sixth failure in a row.
func (r *Requests) Next(err error) (wait time.Duration, again bool) {
	if IsPermanent(err) {
		return 0, false
	}
	if r.failed++; r.failed >= maxRequests {
		return 0, false
	}
	r.backoff.First, r.backoff.Max = firstRequestWait, MaxRequestWait
	wait = r.backoff.Next()
	wait -= rand.N(wait / 2) //nolint:gosec // jitter is no secret
	if u, ok := errors.AsType[*unavailable](err); ok {
		wait = min(max(wait, u.after), MaxRequestWait)
	}
	return wait, true
}

// Reset forgets the failures, after a request that was of use.
func (r *Requests) Reset() { *r = Requests{} }

// Failed returns the number of failures in a row.
func (r *Requests) Failed() int { return r.failed }
