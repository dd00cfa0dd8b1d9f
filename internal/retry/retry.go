// Package retry calls a function again until it succeeds.
//
// After each failure the caller decides whether another call may help, and how long to
// wait before it: see [Do]. [Backoff] computes growing waits.
package retry

import (
	"context"
	"time"
)

// Do calls fn until fn returns nil, next returns false, or ctx is done. It always calls fn
// at least once. Before each further call it waits for the time that next returned. It
// returns the error of the last call.
func Do(ctx context.Context, fn func() error, next func(err error) (wait time.Duration, again bool)) error {
	for {
		err := fn()
		if err == nil || ctx.Err() != nil {
			return err
		}
		wait, again := next(err)
		if !again {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// Backoff is a wait that doubles from First up to Max. It is not safe for concurrent use.
type Backoff struct {
	First, Max time.Duration
	last       time.Duration
}

// Next returns the next wait.
func (b *Backoff) Next() time.Duration {
	b.last = min(max(2*b.last, b.First), b.Max)
	return b.last
}

// Reset makes the next wait the first one again.
func (b *Backoff) Reset() { b.last = 0 }
