package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A load is callers who do the same thing over and over, each as soon as it has
// done it before.
type load struct {
	callers int
	lasts   time.Duration
}

// run calls do, with the caller's number and that of the call, until the time
// is over and what has begun by then is done. do reports what it gets done to
// count, which counts it if the time is not over yet. run returns the count per
// second, and the first error, which ends it.
func (l load) run(ctx context.Context, do func(ctx context.Context, caller, call int, count func(int)) error) (float64, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var counted atomic.Int64
	var calls atomic.Int64
	end := time.Now().Add(l.lasts)
	count := func(n int) {
		if time.Now().Before(end) {
			counted.Add(int64(n))
		}
	}
	var all sync.WaitGroup
	for caller := range l.callers {
		all.Go(func() {
			for time.Now().Before(end) && ctx.Err() == nil {
				if err := do(ctx, caller, int(calls.Add(1)), count); err != nil {
					stop(err)
				}
			}
		})
	}
	all.Wait()
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	return float64(counted.Load()) / l.lasts.Seconds(), nil
}

// latencies are times of the same thing. They are safe for concurrent use.
type latencies struct {
	mu  sync.Mutex
	all []time.Duration
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, d)
}

// percentile returns the time that a share of the others does not exceed, in
// milliseconds.
func (l *latencies) percentile(share float64) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) == 0 {
		return 0
	}
	return milliseconds(percentile(l.all, share))
}

// outOfOrder returns how far, at most, one of some things that have an order
// is from its place in another.
func outOfOrder(got, want []string) (int, error) {
	place := make(map[string]int, len(want))
	for i, s := range want {
		place[s] = i
	}
	far := 0
	for i, s := range got {
		at, ok := place[s]
		if !ok {
			return 0, errors.New(fmt.Sprint("unknown ", s))
		}
		far = max(far, i-at, at-i)
	}
	return far, nil
}
