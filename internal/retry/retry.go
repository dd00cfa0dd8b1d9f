// Package retry calls a function again until the function succeeds.
//
// After each failure the caller of [Do] decides whether another call may help. The caller
// also chooses the wait before that call. [Backoff] computes growing waits. [Requests]
// decides for requests of a file from a server that the process does not control.
package retry

import (
	"context"
	"time"
)

// Do calls fn until fn returns nil, the function next returns false, or ctx is done. It
// calls fn at least once. Before each further call it waits for the time that the function
// next has returned. Do returns the error of the last call of fn.
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

// Backoff computes waits that begin with First and double up to Max. It is not safe for
// concurrent use.
type Backoff struct {
	First, Max time.Duration
	last       time.Duration
}

// Next returns the next wait.
func (b *Backoff) Next() time.Duration {
	b.last = min(max(2*b.last, b.First), b.Max)
	return b.last
}

// Reset makes the next wait equal to First again.
func (b *Backoff) Reset() { b.last = 0 }
