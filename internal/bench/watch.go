package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	"colophon/client"
	"colophon/internal/pg"
)

// watch measures many clients that follow a few running jobs.
func (b *serviceBench) watch(ctx context.Context, r *ServiceReport) error {
	before := b.server.memory()
	var delay latencies
	ids := make([]string, engineStreams)
	if err := together(len(ids), func(i int) (err error) {
		ids[i], err = b.user.submit(ctx, b.job(i, watchTokens))
		return err
	}); err != nil {
		return err
	}
	var open sync.WaitGroup
	open.Add(b.watchers)
	most, listening := 0.0, 0
	var listenErr error
	var counting sync.WaitGroup
	counting.Go(func() {
		open.Wait()
		most = b.server.memory()
		listening, listenErr = listeners(ctx, b.database)
	})
	begin := time.Now()
	err := together(b.watchers, func(i int) error {
		opened := sync.OnceFunc(open.Done)
		defer opened()
		return b.user.follow(ctx, ids[i%len(ids)], func(e client.Event) {
			opened()
			if len(e.Tokens) > 0 && e.At.After(begin.Add(b.duration/10)) { // earlier events may be older than the client's connection
				delay.add(time.Since(e.At))
			}
		})
	})
	counting.Wait()
	if err != nil {
		return fmt.Errorf("follow with %d clients: %w", b.watchers, err)
	}
	if listenErr != nil {
		return fmt.Errorf("count the listening connections: %w", listenErr)
	}
	r.Watch = serviceWatch{Clients: b.watchers, Jobs: len(ids), Messages: len(delay.all), P50MS: delay.percentile(0.5), P99MS: delay.percentile(0.99),
		Listening: listening, KBPerClient: max(0, most-before) * 1e3 / float64(b.watchers)}
	fmt.Fprintf(b.progress, "%d clients that follow %d jobs: delay %.0f ms (median), %.0f ms (99 %%)\n", b.watchers, len(ids), r.Watch.P50MS, r.Watch.P99MS)
	return nil
}

// listeners returns the number of connections that listen for announcements of events.
func listeners(ctx context.Context, database string) (n int, err error) {
	pool, err := pg.Connect(ctx, database, "")
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	err = pool.QueryRow(ctx, `select count(*) from pg_stat_activity where application_name like '% listen'`).Scan(&n)
	return n, err
}
