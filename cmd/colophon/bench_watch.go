package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"colophon/internal/pg"
)

// watch has many clients follow a few running jobs.
func (b *benchService) watch(ctx context.Context, r *serviceReport, database string) error {
	before := b.server.memory()
	var delay latencies
	ids := make([]string, benchStreams)
	if err := together(len(ids), func(i int) (err error) {
		ids[i], err = b.client.submit(ctx, b.job(i, watchTokens))
		return err
	}); err != nil {
		return err
	}
	var open sync.WaitGroup
	open.Add(b.watchers)
	most, listening := 0.0, 0
	var asked error
	var looking sync.WaitGroup
	looking.Go(func() {
		open.Wait()
		most = b.server.memory()
		listening, asked = listeners(ctx, database)
	})
	begin := time.Now()
	err := together(b.watchers, func(i int) error {
		opened := sync.OnceFunc(open.Done)
		defer opened()
		return b.client.follow(ctx, ids[i%len(ids)], func(e benchEvent) {
			opened()
			if len(e.Tokens) > 0 && e.At.After(begin.Add(b.lasts/10)) { // not what came before the client did
				delay.add(time.Since(e.At))
			}
		})
	})
	looking.Wait()
	if err != nil {
		return fmt.Errorf("%d clients that follow: %w", b.watchers, err)
	}
	if asked != nil {
		return fmt.Errorf("count the connections that listen: %w", asked)
	}
	r.Watch = serviceWatch{Clients: b.watchers, Jobs: len(ids), Messages: len(delay.all), P50MS: delay.percentile(0.5), P99MS: delay.percentile(0.99),
		Listening: listening, KBPerClient: max(0, most-before) * 1e3 / float64(b.watchers)}
	fmt.Fprintf(b.err, "%d clients that follow %d jobs: %.0f ms behind (median), %.0f ms (99 %%)\n", b.watchers, len(ids), r.Watch.P50MS, r.Watch.P99MS)
	return nil
}

// listeners returns how many connections listen for announcements of events.
func listeners(ctx context.Context, database string) (n int, err error) {
	pool, err := pg.Connect(ctx, database, "")
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	err = pool.QueryRow(ctx, `select count(*) from pg_stat_activity where application_name like '% listen'`).Scan(&n)
	return n, err
}

// memory returns what the service has in memory, in 1e6 bytes, or 0 where the
// system does not say.
func (s *benchServer) memory() float64 {
	status, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(s.cmd.Process.Pid), "status")) // Linux has it
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			kib, _ := strconv.ParseFloat(string(bytes.Fields(rest)[0]), 64)
			return kib * 1024 / 1e6
		}
	}
	return 0
}

// calls measures calls that need no model, while the engine has nothing to do
// and while it has all it can take.
func (b *benchService) calls(ctx context.Context, r *serviceReport) error {
	read := func(method, path string, body any) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := b.client.do(ctx, method, path, body)
			return err
		}
	}
	tiny := b.job(1, 1)
	tiny.Prompt = "a"
	calls := []struct {
		name string
		do   func(context.Context) error
	}{
		{fmt.Sprintf("GET /history, %d records", historyRecords), read("GET", "/history?limit="+strconv.Itoa(historyRecords), nil)},
		{"GET /docs", read("GET", "/docs", nil)},
		{"POST /token", read("POST", "/token", url.Values{"username": {b.client.name}, "password": {b.client.password}})},
		{"POST /jobs", read("POST", "/jobs", tiny)},
	}
	for _, busy := range []bool{false, true} {
		for _, call := range calls {
			row, err := b.call(ctx, call.name, call.do, busy)
			if err != nil {
				return fmt.Errorf("%s: %w", call.name, err)
			}
			r.Calls = append(r.Calls, row)
			fmt.Fprintf(b.err, "%s, busy: %t: %.0f a second, %.0f ms (99 %%)\n", row.Call, busy, row.PerSecond, row.P99MS)
		}
	}
	return nil
}

// call measures one of them.
func (b *benchService) call(ctx context.Context, name string, do func(context.Context) error, busy bool) (serviceCall, error) {
	const callers = 4
	row := serviceCall{Call: name, Busy: busy}
	var took latencies
	measure := func() (err error) {
		row.PerSecond, err = load{callers, b.lasts / 3}.run(ctx, func(ctx context.Context, _, _ int, count func(int)) error {
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
		row.TokS, err = b.beside(ctx, measure)
	} else {
		err = measure()
	}
	if err != nil {
		return row, fmt.Errorf("with %d callers: %w", callers, err)
	}
	row.P50MS, row.P99MS = took.percentile(0.5), took.percentile(0.99)
	return row, b.drained(ctx)
}

// beside calls do while the engine has all the work it can take, and returns
// the tokens per second that it made from the first one, which do waits for, to
// the first one after do.
func (b *benchService) beside(ctx context.Context, do func() error) (float64, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var jobs, tokens atomic.Int64
	var over atomic.Bool
	came := make(chan struct{}, 1)
	var streams sync.WaitGroup
	for range benchStreams {
		streams.Go(func() {
			for !over.Load() && ctx.Err() == nil {
				var ignored latencies
				err := b.generate(ctx, b.job(int(jobs.Add(1)), benchNewTokens), &ignored, func(n int) {
					if tokens.Add(int64(n)); n == 0 {
						return
					}
					select {
					case came <- struct{}{}:
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
		case <-came:
		case <-ctx.Done():
		}
	}
	next()
	begin, before := time.Now(), tokens.Load()
	err := do()
	select {
	case <-came: // while do was at work
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

// drained waits until the queue is empty: a job that is accepted now is then
// done.
func (b *benchService) drained(ctx context.Context) error {
	var ignored latencies
	return b.generate(ctx, b.job(1, 1), &ignored, func(int) {})
}
