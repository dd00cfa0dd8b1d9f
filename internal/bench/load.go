package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// load is a number of callers that repeat a call without a pause for a duration. Each
// caller makes at least one call.
type load struct {
	callers  int
	duration time.Duration
}

// run calls do with the number of the caller and the number of the call. It starts no
// call after the duration. It returns when all calls have ended.
//
// do reports its results through count. Results that arrive after the duration are
// ignored. If none arrived in time, run counts the first late one, and divides by the
// time until it arrived. run returns the counted results per second. If a call of do
// fails, run cancels the others and returns the first error.
func (l load) run(ctx context.Context, do func(ctx context.Context, caller, call int, count func(int)) error) (float64, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var counted, calls, late atomic.Int64
	begin := time.Now()
	count := func(n int) {
		if took := time.Since(begin); took < l.duration {
			counted.Add(int64(n))
		} else if counted.CompareAndSwap(0, int64(n)) && n > 0 {
			late.Store(int64(took - l.duration))
		}
	}
	var all sync.WaitGroup
	for caller := range l.callers {
		all.Go(func() {
			for again := true; again; again = time.Since(begin) < l.duration && ctx.Err() == nil {
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
	return float64(counted.Load()) / (l.duration + time.Duration(late.Load())).Seconds(), nil
}

// together calls f concurrently with the numbers from 0 to n-1. It waits for all calls
// and returns their joined errors.
func together(n int, f func(i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func median(d []time.Duration) time.Duration { return percentile(d, 0.5) }

// percentile returns the time that the given share of d does not exceed. It sorts d.
func percentile(d []time.Duration, share float64) time.Duration {
	slices.Sort(d)
	return d[min(int(share*float64(len(d))), len(d)-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// latencies collects the times of one kind of call. It is safe for concurrent use.
type latencies struct {
	mu  sync.Mutex
	all []time.Duration
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, d)
}

// percentile returns the time that the given share of the times does not exceed,
// in milliseconds. It returns 0 if there are no times.
func (l *latencies) percentile(share float64) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) == 0 {
		return 0
	}
	return milliseconds(percentile(l.all, share))
}

// outOfOrder returns the largest distance between a string's positions in got and in
// want. It returns an error if a string of got is not in want.
func outOfOrder(got, want []string) (int, error) {
	position := make(map[string]int, len(want))
	for i, s := range want {
		position[s] = i
	}
	far := 0
	for i, s := range got {
		at, ok := position[s]
		if !ok {
			return 0, fmt.Errorf("unknown %s", s)
		}
		far = max(far, i-at, at-i)
	}
	return far, nil
}
