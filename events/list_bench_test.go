package events_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
)

// BenchmarkListOfManyJobs lists jobs of an owner who has 100,000 jobs, which are of a month.
func BenchmarkListOfManyJobs(b *testing.B) {
	f := newFixture(b)
	const jobs = 100_000
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	f.generate(b, begin, 31*24*time.Hour/jobs, jobs)
	if _, err := f.db.Owner.Exec(b.Context(), `vacuum analyze history`); err != nil {
		b.Fatal(err)
	}
	list := func(b *testing.B, filter events.JobFilter) {
		fastest(b, func() error {
			rows, err := f.db.App.Query(b.Context(), events.ListQuery, events.ListArgs(f.owner, filter, uuid.UUID{}, 100)...)
			if err != nil {
				return err
			}
			for rows.Next() {
			}
			return rows.Err()
		})
	}
	usage := func(b *testing.B, days int) {
		fastest(b, func() error {
			_, err := f.UsageByDay(b.Context(), f.owner, uuid.UUID{}, begin, begin.AddDate(0, 0, days-1))
			return err
		})
	}
	b.Run("newest", func(b *testing.B) { list(b, events.JobFilter{}) })
	b.Run("failed", func(b *testing.B) { list(b, events.JobFilter{States: []events.State{events.Failed}}) })
	b.Run("until", func(b *testing.B) { list(b, events.JobFilter{Until: begin.AddDate(0, 0, 15)}) })
	b.Run("usage of a day", func(b *testing.B) { usage(b, 1) })
	b.Run("usage of a month", func(b *testing.B) { usage(b, 31) })
}

// BenchmarkPageOfJobs reads a page of 100 jobs, from the history view and from the events of
// each job.
func BenchmarkPageOfJobs(b *testing.B) {
	f := newFixture(b)
	facts := completedFacts()
	for range 25 {
		facts = append(facts[:3:3], facts[2:]...) // a text of 200 tokens takes 25 events
	}
	for range 100 {
		if _, err := f.AppendJob(b.Context(), events.Job{ID: f.NewID(), Owner: f.owner}, facts...); err != nil {
			b.Fatal(err)
		}
	}
	var page []events.Record
	b.Run("view", func(b *testing.B) {
		fastest(b, func() (err error) {
			page, err = f.Jobs(b.Context(), f.owner, events.JobFilter{}, uuid.UUID{}, 100)
			return err
		})
	})
	b.Run("events", func(b *testing.B) {
		fastest(b, func() error {
			for _, r := range page {
				if _, err := f.Job(b.Context(), r.Job); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// fastest also reports the time of the fastest call, which says more than the mean on a busy
// machine.
func fastest(b *testing.B, call func() error) {
	b.Helper()
	best := time.Hour
	for b.Loop() {
		begin := time.Now()
		if err := call(); err != nil {
			b.Fatal(err)
		}
		best = min(best, time.Since(begin))
	}
	b.ReportMetric(float64(best.Microseconds())/1000, "fastest-ms")
}
