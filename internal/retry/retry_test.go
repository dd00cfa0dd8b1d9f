package retry

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestDoRetriesTemporaryErrors(t *testing.T) {
	temporary, permanent := errors.New("temporary"), errors.New("permanent")
	const wait = time.Second
	next := func(err error) (time.Duration, bool) { return wait, errors.Is(err, temporary) }
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			results []error
			want    error
			took    time.Duration
		}{
			{[]error{nil}, nil, 0},
			{[]error{temporary, temporary, nil}, nil, 2 * wait},
			{[]error{permanent}, permanent, 0},
			{[]error{temporary, permanent}, permanent, wait},
		} {
			start := time.Now()
			calls := 0
			err := Do(t.Context(), func() error { calls++; return c.results[calls-1] }, next)
			if !errors.Is(err, c.want) || calls != len(c.results) || time.Since(start) != c.took {
				t.Errorf("%v: %v after %d calls and %v", c.results, err, calls, time.Since(start))
			}
		}
	})
}

func TestDoStopsWhenTheContextIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		failed := errors.New("failed")
		calls := 0
		start := time.Now()
		err := Do(ctx, func() error { calls++; return failed }, func(error) (time.Duration, bool) { return time.Second, true })
		if !errors.Is(err, failed) || calls != 2 || time.Since(start) != 1500*time.Millisecond {
			t.Errorf("%v after %d calls and %v", err, calls, time.Since(start))
		}
		// If the context is done already, Do must call the function once.
		err = Do(ctx, func() error { calls++; return failed }, func(error) (time.Duration, bool) { return 0, true })
		if !errors.Is(err, failed) || calls != 3 {
			t.Errorf("%v after %d calls", err, calls)
		}
	})
}

func TestBackoffDoublesUpToItsMaximum(t *testing.T) {
	b := Backoff{First: time.Second, Max: 5 * time.Second}
	var waits []time.Duration
	for i := range 6 {
		if i == 4 {
			b.Reset()
		}
		waits = append(waits, b.Next())
	}
	want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, time.Second, 2 * time.Second}
	if !slices.Equal(waits, want) {
		t.Errorf("waits %v, want %v", waits, want)
	}
}

// TestRequestsGrowTheirWaits fails requests in several ways. Jitter shortens a wait by up to
// half.
func TestRequestsGrowTheirWaits(t *testing.T) {
	failed := errors.New("failed")
	answer := func(status int, after string) error {
		resp := &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {after}}}
		err := Unavailable(resp, failed)
		if unavailable := status != http.StatusTeapot; (err != nil) != unavailable || unavailable && !errors.Is(err, failed) {
			t.Errorf("status %d: %v", status, err)
		}
		return cmp.Or(err, failed)
	}
	var r Requests
	for i, c := range []struct {
		err  error
		wait time.Duration // without jitter; 0 if there must be no further request
	}{
		{failed, 500 * time.Millisecond},
		{answer(503, "0"), time.Second},
		{answer(418, "30"), 2 * time.Second},
		{answer(429, "30"), 30 * time.Second},
		{answer(500, "7200"), MaxRequestWait},
		{failed, 0},
		{nil, 0}, // Reset
		{failed, 500 * time.Millisecond},
		{fmt.Errorf("wrapped: %w", Permanent(failed)), 0},
	} {
		if c.err == nil {
			r.Reset()
			continue
		}
		wait, again := r.Next(c.err)
		if again != (c.wait > 0) || wait > c.wait || wait < c.wait/2 {
			t.Errorf("failure %d: %v, %v, want up to %v", i, wait, again, c.wait)
		}
	}
	if r.Failed() != 1 {
		t.Errorf("%d failures in a row, want 1: a permanent error is not counted", r.Failed())
	}
}

func TestRequestErrorsHaveNoURL(t *testing.T) {
	refused, stopped := errors.New("refused"), errors.New("stopped")
	untrusted := &tls.CertificateVerificationError{Err: errors.New("unknown authority")}
	over := func(err error) error { return &url.Error{Op: "Get", URL: "https://example.com/?secret", Err: err} }
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(stopped)
	for name, c := range map[string]struct {
		ctx       context.Context
		err, want error
		permanent bool
	}{
		"network":     {t.Context(), over(refused), refused, false},
		"certificate": {t.Context(), over(untrusted), untrusted, true},
		"stopped":     {ended, over(context.Canceled), stopped, false},
	} {
		if err := RequestError(c.ctx, c.err); !errors.Is(err, c.want) || IsPermanent(err) != c.permanent || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRetryAfterIsANumberOfSecondsOrADate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		date := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
		for header, want := range map[string]time.Duration{
			"0": 0, "7": 7 * time.Second, "65535": 65535 * time.Second, "65536": 0, "": 0, "-1": 0, "soon": 0,
			date(time.Minute): time.Minute, date(-time.Minute): 0,
		} {
			if got := After(header); got != want {
				t.Errorf("%q: %v, want %v", header, got, want)
			}
		}
	})
}
