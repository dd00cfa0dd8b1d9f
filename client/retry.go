package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

const (
	// defaultTries is the default of Options.Tries.
	defaultTries = 5

	// firstPause is the longest pause before the second try. This limit doubles with each
	// further try, up to lastPause. Half of each pause is random, so that clients do not
	// retry all at once.
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second

	// longestRetryAfter is the longest Retry-After that a call waits for.
	longestRetryAfter = time.Minute
)

// ErrProtocol marks an answer that the API does not allow. Examples are a body that does
// not decode, an event out of order, and a redirect. The error of the call wraps
// ErrProtocol, and the call is not retried.
var ErrProtocol = errors.New("unexpected answer")

// errInvalid marks a call that cannot be sent. The error of such a call wraps errInvalid.
var errInvalid = errors.New("invalid call")

// tries counts the tries of one call.
type tries struct {
	limit  int
	failed int // number of failed tries in a row
}

// again waits until the next try is due and returns nil. It returns an error
// if err is final, if no try is left, or if ctx ends before the next try.
func (t *tries) again(ctx context.Context, err error) error {
	t.failed++
	if ctxErr := ctx.Err(); ctxErr != nil {
		return because(ctxErr, err)
	}
	after, ok := retryable(err)
	if !ok || t.failed >= t.limit {
		return err
	}
	pause := max(after, backoff(t.failed))
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < pause {
		return fmt.Errorf("%w; %w", err, errNoTime)
	}
	if ctxErr := sleep(ctx, pause); ctxErr != nil {
		return because(ctxErr, err)
	}
	return nil
}

// because adds the error of an ended context to err, unless err already wraps that error.
func because(ctxErr, err error) error {
	if errors.Is(err, ctxErr) {
		return err
	}
	return fmt.Errorf("%w after %w", ctxErr, err)
}

// errNoTime says why a call did not wait for the next try.
var errNoTime = fmt.Errorf("the next try would be too late: %w", context.DeadlineExceeded)

// codeKeyInFlight is the code of a 409. The service sends this code while it still
// accepts an earlier request with the same key.
const codeKeyInFlight = "idempotency_key_in_flight"

// retryable reports whether a retry may succeed. It also returns the Retry-After of the
// answer.
func retryable(err error) (after time.Duration, ok bool) {
	if errors.Is(err, ErrProtocol) || errors.Is(err, errInvalid) {
		return 0, false
	}
	p, ok := errors.AsType[*Problem](err)
	if !ok {
		return 0, true // the service sent no answer, because the connection failed
	}
	switch {
	case p.Code == CodeJobFailed:
		ok = false
	case p.Status == http.StatusConflict:
		ok = p.Code == codeKeyInFlight
	default:
		ok = p.Status >= 500 || p.Status == http.StatusTooManyRequests || p.Status == http.StatusRequestTimeout
	}
	return p.RetryAfter, ok && p.RetryAfter <= longestRetryAfter
}

// backoff returns the pause after the given number of failed tries.
func backoff(failed int) time.Duration {
	pause := min(lastPause, firstPause<<min(failed-1, 10))
	return pause/2 + rand.N(pause/2) //nolint:gosec // jitter needs no secret randomness
}

// sleep pauses. It returns an error if ctx ends first.
func sleep(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
