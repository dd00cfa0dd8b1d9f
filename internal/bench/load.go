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

// A load is a number of callers. Each repeats the same call without a pause, at least
// once, for a time.
type load struct {
	callers int
	lasts   time.Duration
}

// run calls do with the numbers of the caller and of the call. It repeats no call after
// the time is over, and returns when all calls have ended. do passes its results to count,
// which ignores results after the time is over. If there was none until then, the time
// lasts until the first result. run returns the count per second. The first error cancels
// the other calls, and run returns it.
func (l load) run(ctx context.Context, do func(ctx context.Context, caller, call int, count func(int)) error) (float64, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var counted, calls, late atomic.Int64
	begin := time.Now()
	count := func(n int) {
		if took := time.Since(begin); took < l.lasts {
			counted.Add(int64(n))
		} else if counted.CompareAndSwap(0, int64(n)) && n > 0 {
			late.Store(int64(took - l.lasts))
		}
	}
	var all sync.WaitGroup
	for caller := range l.callers {
		all.Go(func() {
			for again := true; again; again = time.Since(begin) < l.lasts && ctx.Err() == nil {
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
	return float64(counted.Load()) / (l.lasts + time.Duration(late.Load())).Seconds(), nil
}

// together calls f for 0 to n-1 at the same time, and returns their errors.
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

// percentile returns the time that the given share of the times does not exceed.
// It sorts d.
func percentile(d []time.Duration, share float64) time.Duration {
	slices.Sort(d)
	return d[min(int(share*float64(len(d))), len(d)-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// latencies collects the times of one kind of call. It is safe for concurrent
// use.
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

// outOfOrder returns the largest distance between the positions of the same
// string in got and in want.
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
