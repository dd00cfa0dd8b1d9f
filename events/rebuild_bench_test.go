package events_test

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
)

// BenchmarkRebuildBesideClients rebuilds a view whose rows are wrong in two of five cases,
// beside 50 appends and 100 reads of the history a second. The view has 5,000 jobs of five
// events each, or as many as COLOPHON_TEST_JOBS says. The benchmark fails if an append or a
// read fails, or if the view then differs from the events. It reports the longest append
// before and during the rebuild, the longest read, the longest time for which the rebuild held
// a lock on rows, and the speed of a check of the right view without clients.
func BenchmarkRebuildBesideClients(b *testing.B) {
	jobs := 5000
	if n, err := strconv.Atoi(os.Getenv("COLOPHON_TEST_JOBS")); err == nil {
		jobs = n
	}
	f := newFixture(b)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range jobs / 4 {
				if _, err := f.AppendJob(b.Context(), f.newJob(), completedFacts()...); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for b.Loop() {
		f.spoil(b)
		var write, read activity
		done := make(chan struct{})
		wg.Go(func() { f.writeEvery(b, 20*time.Millisecond, done, &write) })
		wg.Go(func() { f.readEvery(b, 10*time.Millisecond, done, &read) })
		time.Sleep(2 * time.Second)
		before := write.longest()
		var locked time.Duration
		sampled := make(chan struct{})
		wg.Go(func() { locked = f.longestLock(b, sampled) })
		start := time.Now()
		report, err := f.RebuildHistory(b.Context(), events.Observer{})
		if err != nil {
			b.Fatal(err)
		}
		took := time.Since(start)
		close(sampled)
		close(done)
		wg.Wait()
		start = time.Now()
		checked, err := f.CheckHistory(b.Context(), events.Observer{})
		if err != nil || checked.Err() != nil {
			b.Fatal(err, checked.Err())
		}
		alone := time.Since(start)
		var memory runtime.MemStats
		runtime.ReadMemStats(&memory)
		b.ReportMetric(float64(before.Milliseconds()), "longest-write-before-ms")
		b.ReportMetric(float64(write.longest().Milliseconds()), "longest-write-during-ms")
		b.ReportMetric(float64(read.longest().Milliseconds()), "longest-read-ms")
		b.ReportMetric(float64(locked.Milliseconds()), "longest-lock-ms")
		b.ReportMetric(float64(write.count.Load())/(took.Seconds()+2), "writes/s")
		b.ReportMetric(float64(read.count.Load())/(took.Seconds()+2), "reads/s")
		b.ReportMetric(float64(report.Wrong)/took.Seconds(), "rows-corrected/s")
		b.ReportMetric(float64(5*report.Jobs)/took.Seconds(), "events/s")
		b.ReportMetric(float64(5*checked.Jobs)/alone.Seconds(), "events/s-checked-alone")
		b.ReportMetric(float64(memory.Sys)/(1<<20), "MiB")
	}
}

// activity counts operations and keeps the time of the longest.
type activity struct{ count, max atomic.Int64 }

func (a *activity) took(d time.Duration) {
	a.count.Add(1)
	for longest := a.max.Load(); int64(d) > longest && !a.max.CompareAndSwap(longest, int64(d)); longest = a.max.Load() {
	}
}

// longest returns the time of the longest operation since the last call.
func (a *activity) longest() time.Duration { return time.Duration(a.max.Swap(0)) }

// writeEvery appends one event per interval until done is closed.
func (f *fixture) writeEvery(b *testing.B, interval time.Duration, done <-chan struct{}, a *activity) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		job := f.newJob()
		for _, fact := range completedFacts() {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			start := time.Now()
			var err error
			if job, err = f.AppendJob(b.Context(), job, fact); err != nil {
				b.Error(err)
				return
			}
			a.took(time.Since(start))
		}
	}
}

// readEvery reads the newest page of the history once per interval until done is closed.
func (f *fixture) readEvery(b *testing.B, interval time.Duration, done <-chan struct{}, a *activity) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		start := time.Now()
		if _, err := f.History(b.Context(), f.owner, uuid.UUID{}, 20); err != nil {
			b.Error(err)
			return
		}
		a.took(time.Since(start))
	}
}

// longestLock polls the locks of the rebuild until done is closed. It returns the
// duration of the longest transaction that could lock rows.
func (f *fixture) longestLock(b *testing.B, done <-chan struct{}) (longest time.Duration) {
	for {
		select {
		case <-done:
			return longest
		case <-time.After(2 * time.Millisecond):
		}
		var now float64
		err := f.db.Owner.QueryRow(b.Context(), `
			select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)::float8
			from pg_stat_activity join pg_locks using (pid)
			where application_name like '% rebuild' and datname = current_database() and mode = 'RowExclusiveLock'`).Scan(&now)
		if err != nil {
			b.Error(err)
			return longest
		}
		longest = max(longest, time.Duration(now*float64(time.Second)))
	}
}
