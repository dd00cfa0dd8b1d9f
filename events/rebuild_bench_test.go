package events_test

import (
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkRebuildBesideWriters rebuilds a view with many wrong rows while 100 events a
// second are appended. The view has 5,000 jobs, or as many as COLOPHON_TEST_JOBS says.
// The benchmark reports the longest write before and during the rebuild, and the longest
// time for which the rebuild held a lock on rows.
func BenchmarkRebuildBesideWriters(b *testing.B) {
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
		var longest, count atomic.Int64
		done := make(chan struct{})
		wg.Go(func() { f.writeEvery(b, 10*time.Millisecond, done, &longest, &count) })
		time.Sleep(2 * time.Second)
		before := time.Duration(longest.Swap(0))
		var locked time.Duration
		sampled := make(chan struct{})
		wg.Go(func() { locked = f.longestLock(b, sampled) })
		start := time.Now()
		report, err := f.RebuildHistory(b.Context(), nil)
		if err != nil {
			b.Fatal(err)
		}
		took := time.Since(start)
		close(sampled)
		close(done)
		wg.Wait()
		b.ReportMetric(float64(before.Milliseconds()), "longest-write-before-ms")
		b.ReportMetric(float64(time.Duration(longest.Load()).Milliseconds()), "longest-write-during-ms")
		b.ReportMetric(float64(locked.Milliseconds()), "longest-lock-ms")
		b.ReportMetric(float64(count.Load()), "writes")
		b.ReportMetric(float64(len(report.Wrong))/took.Seconds(), "rows-corrected/s")
		b.ReportMetric(float64(report.Jobs)/took.Seconds(), "jobs/s")
	}
}

// writeEvery appends one event per interval until done is closed. It stores the duration
// of the longest append in longest.
func (f *fixture) writeEvery(b *testing.B, interval time.Duration, done <-chan struct{}, longest, count *atomic.Int64) {
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
			longest.Store(max(longest.Load(), int64(time.Since(start))))
			count.Add(1)
		}
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
