package ledger_test

import (
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"colophon/events"
	"colophon/events/ledger"
	"colophon/events/receipt"
	"colophon/internal/pg/pgtest"
	"colophon/migrations"
)

// BenchmarkVerify checks a log of jobs with ten events each, of a hundred owners.
// COLOPHON_BENCH_EVENTS sets the number of events, 20,000 by default.
func BenchmarkVerify(b *testing.B) {
	size := 20_000
	if n, err := strconv.Atoi(os.Getenv("COLOPHON_BENCH_EVENTS")); err == nil {
		size = n
	}
	db := pgtest.New(b, migrations.Up)
	store, owners := newStoreOf(b, db.App, 100)
	var writing errgroup.Group
	writing.SetLimit(8)
	for n := range size / 10 {
		writing.Go(func() error {
			facts := []events.Fact{events.JobAccepted{Prompt: "The nature of light", Model: "m"}, events.JobStarted{Attempt: 1, Worker: "w", Weights: "w/f32"}}
			for i := range 7 {
				facts = append(facts, events.JobAdvanced{Tokens: []int{i, 2, 3, 4, 5, 6, 7, 8}, Text: " of the Rays which are most refrangible"})
			}
			_, err := store.AppendJob(b.Context(), events.Job{ID: uuid.Must(uuid.NewV7()), Owner: owners[n%len(owners)]}, append(facts, events.JobCompleted{FinishReason: "stop"})...)
			return err
		})
	}
	if err := writing.Wait(); err != nil {
		b.Fatal(err)
	}
	for sequencer, more := ledger.NewSequencer(db.App, slog.New(slog.DiscardHandler)), true; more; {
		p, err := sequencer.Pass(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		more = p.Added > 0
	}
	var memory runtime.MemStats
	for b.Loop() {
		begin := time.Now()
		result, err := ledger.Verify(b.Context(), db.App, store, []receipt.Checkpoint{}, nil)
		if err != nil || result.First != nil {
			b.Fatal(result, err)
		}
		runtime.ReadMemStats(&memory)
		took := time.Since(begin)
		b.ReportMetric(float64(result.Size)/took.Seconds(), "events/s")
		b.ReportMetric(float64(memory.Sys)/(1<<20), "MiB")
	}
}
