package retry

import (
	"context"
	"errors"
	"slices"
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
