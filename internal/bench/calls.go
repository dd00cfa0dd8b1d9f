package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"colophon/client"
)

// calls measures calls that need no model. It measures each call with an idle engine
// and with a busy engine.
func (b *serviceBench) calls(ctx context.Context, r *ServiceReport) error {
	call := func(r *client.Request) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := b.user.Do(ctx, r)
			return err
		}
	}
	tiny := b.job(1, 1)
	tiny.Prompt = "a"
	calls := []struct {
		name string
		do   func(context.Context) error
	}{
		{fmt.Sprintf("GET /history, %d records", historyRecords), call(&client.Request{Path: "/history?limit=" + strconv.Itoa(historyRecords)})},
		{"GET /docs", call(&client.Request{Path: "/docs"})},
		{"POST /token", patient(call(tokenRequest()))},
		{"POST /jobs", func(ctx context.Context) error {
			_, err := b.user.submit(ctx, tiny)
			return err
		}},
	}
	for _, busy := range []bool{false, true} {
		for _, call := range calls {
			row, err := b.call(ctx, call.name, call.do, busy)
			if err != nil {
				return fmt.Errorf("%s: %w", call.name, err)
			}
			r.Calls = append(r.Calls, row)
			fmt.Fprintf(b.progress, "%s, busy: %t: %.0f a second, %.0f ms (99 %%)\n", row.Call, busy, row.PerSecond, row.P99MS)
		}
	}
	return nil
}

// patient repeats the function do while the service is busy. On a loaded machine, the service
// may hash too few passwords for all callers. The latency then includes the pauses.
func patient(do func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		for {
			err := do(ctx)
			p, ok := errors.AsType[*client.Problem](err)
			if !ok || p.Code != "busy" {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(p.RetryAfter):
			}
		}
	}
}

// call runs four callers that repeat the function do, and measures how long do takes.
func (b *serviceBench) call(ctx context.Context, name string, do func(context.Context) error, busy bool) (serviceCall, error) {
	const callers = 4
	row := serviceCall{Call: name, Busy: busy}
	var took latencies
	measure := func() (err error) {
		row.PerSecond, err = load{callers, b.duration / 3}.run(ctx, func(ctx context.Context, _, _ int, count func(int)) error {
			begin := time.Now()
			err := do(ctx)
			took.add(time.Since(begin))
			count(1)
			return err
		})
		return err
	}
	var err error
	if busy {
		row.TokS, err = b.whileBusy(ctx, measure)
	} else {
		err = measure()
	}
	if err != nil {
		return row, fmt.Errorf("with %d callers: %w", callers, err)
	}
	row.P50MS, row.P99MS = took.percentile(0.5), took.percentile(0.99)
	return row, b.drain(ctx)
}

// whileBusy calls do while the engine is fully busy, and returns the engine's tokens
// per second. It counts from an arrival of a token before do until the first arrival
// after do.
func (b *serviceBench) whileBusy(ctx context.Context, do func() error) (float64, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var jobs, tokens atomic.Int64
	var over atomic.Bool
	arrived := make(chan struct{}, 1)
	var streams sync.WaitGroup
	for range engineStreams {
		streams.Go(func() {
			for !over.Load() && ctx.Err() == nil {
				var ignored latencies
				err := b.generate(ctx, b.job(int(jobs.Add(1)), newTokens), &ignored, func(n int) {
					if tokens.Add(int64(n)); n == 0 {
						return
					}
					select {
					case arrived <- struct{}{}:
					default:
					}
				})
				if err != nil {
					stop(err)
				}
			}
		})
	}
	next := func() {
		select {
		case <-arrived:
		case <-ctx.Done():
		}
	}
	next()
	begin, before := time.Now(), tokens.Load()
	err := do()
	select {
	case <-arrived: // ignore a token that arrived while do was running
	default:
	}
	next()
	made, took := tokens.Load()-before, time.Since(begin)
	over.Store(true)
	streams.Wait()
	if err := cmp.Or(err, context.Cause(ctx)); err != nil {
		return 0, err
	}
	return float64(made) / took.Seconds(), nil
}

// drain waits until the queue is empty. To do so, it submits a job and waits for the
// job's end.
func (b *serviceBench) drain(ctx context.Context) error {
	var ignored latencies
	return b.generate(ctx, b.job(1, 1), &ignored, func(int) {})
}
