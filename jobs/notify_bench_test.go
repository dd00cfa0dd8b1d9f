package jobs_test

import (
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
	"colophon/internal/policy"
	"colophon/jobs"
	"colophon/migrations"
)

// newDurableFixture returns a fixture on a server of its own, which writes each commit to
// the disk.
func newDurableFixture(b *testing.B) *fixture {
	b.Helper()
	server := pgtest.NewServer(b)
	f := &fixture{t: b, db: &pgtest.DB{URL: server.URL()}}
	var err error
	if f.db.Owner, err = pg.Connect(b.Context(), server.URL(), ""); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(f.db.Owner.Close)
	if err := migrations.Up(b.Context(), f.db.Owner); err != nil {
		b.Fatal(err)
	}
	if f.db.App, err = pg.Connect(b.Context(), pgtest.With(server.URL(), "pool_max_conns", "20"), migrations.AppRole); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(f.db.App.Close)
	f.store = f.newStore()
	f.owner = f.register()
	return f
}

// BenchmarkNotify compares announcements of new jobs after the commit with those that
// River makes in the commit. 16 owners submit at once, and listeners of another process
// wait for announcements, in alternating rounds of a second. The reported ratios are
// the medians of the pairs of rounds. The server is durable, because a commit with a
// pending NOTIFY keeps its lock until it is on disk.
func BenchmarkNotify(b *testing.B) {
	f := newDurableFixture(b)
	f.newStore() // listens for the announcements
	owners := make([]uuid.UUID, 16)
	for i := range owners {
		owners[i] = f.register()
	}
	queues := [2]*jobs.Queue{f.newQueue(jobs.Limits{}), f.newQueue(jobs.Limits{})}
	queues[1].NotifyInTransactions()
	round := func(q *jobs.Queue) float64 {
		var all sync.WaitGroup
		counts := make([]int, len(owners))
		begin := time.Now()
		for i, owner := range owners {
			all.Go(func() {
				for time.Since(begin) < time.Second {
					if _, err := q.Submit(b.Context(), owner, request); err != nil {
						b.Error(err)
						return
					}
					counts[i]++
				}
			})
		}
		all.Wait()
		took := time.Since(begin).Seconds()
		n := 0
		for _, count := range counts {
			n += count
		}
		f.clear()
		return float64(n) / took
	}
	swap := false
	pairs(b, "submits/s", func() (after, in float64) {
		if swap = !swap; swap {
			in = round(queues[1])
			return round(queues[0]), in
		}
		return round(queues[0]), round(queues[1])
	})
}

// BenchmarkNotifyFirstToken compares the time from a submit to the first token, with a
// worker that is otherwise idle, as BenchmarkNotify does.
func BenchmarkNotifyFirstToken(b *testing.B) {
	f := newDurableFixture(b)
	worker, err := jobs.NewWorker(f.db.App, f.newStore(), newEngine(), policy.Default, 8, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	if err := worker.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = worker.Stop(b.Context()) })
	queues := [2]*jobs.Queue{f.newQueue(jobs.Limits{}), f.newQueue(jobs.Limits{})}
	queues[1].NotifyInTransactions()
	pairs(b, "first-token-ms", func() (after, in float64) {
		var waits [2][]float64
		for i := range 40 {
			j, err := queues[i%2].Submit(b.Context(), f.owner, request)
			if err != nil {
				b.Fatal(err)
			}
			j = f.until(j, final)
			waits[i%2] = append(waits[i%2], j.FirstTokenAt.Sub(j.AcceptedAt).Seconds()*1000)
		}
		return median(waits[0]), median(waits[1])
	})
}

// pairs measures announcements after the commit and announcements in the commit, as often
// as the benchmark asks for. It reports the medians, and the median ratio within a pair.
func pairs(b *testing.B, unit string, measure func() (after, in float64)) {
	b.Helper()
	measure() // warms up
	var afters, ins, ratios []float64
	for b.Loop() {
		after, in := measure()
		afters, ins, ratios = append(afters, after), append(ins, in), append(ratios, after/in)
		b.Logf("after the commit %.1f, in the commit %.1f %s, ratio %.3f", after, in, unit, after/in)
	}
	b.ReportMetric(median(afters), unit+"-after")
	b.ReportMetric(median(ins), unit+"-in")
	b.ReportMetric(median(ratios), "ratio")
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// clear removes the queue entries, so that rounds do not slow each other down.
func (f *fixture) clear() {
	f.t.Helper()
	if _, err := f.db.Owner.Exec(f.t.Context(), `truncate `+migrations.RiverJobs); err != nil {
		f.t.Fatal(err)
	}
}
