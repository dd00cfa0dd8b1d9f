package events_test

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/events/ledger"
)

// BenchmarkFeedLatency commits one event after another and measures the time from the commit
// until another process yields the event to a reader, while many others wait there.
func BenchmarkFeedLatency(b *testing.B) {
	const others = 500
	f := newFixture(b)
	elsewhere := f.replica(b)
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	sequencer := ledger.NewSequencer(f.db.App, slog.New(slog.DiscardHandler))
	sequencer.Grown = f.LogGrew
	go sequencer.Run(ctx)
	for range others {
		go func() {
			for range elsewhere.FollowFeed(ctx, uuid.New(), -1, 10*time.Second) {
			}
		}()
	}
	arrived := make(chan events.Logged)
	go func() {
		for batch := range elsewhere.FollowFeed(ctx, f.owner, -1, time.Minute) {
			for _, e := range batch {
				arrived <- e
			}
		}
	}()
	<-arrived // the registration
	var took []time.Duration
	for b.Loop() {
		if err := f.signOut(ctx, f.owner); err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		<-arrived
		took = append(took, time.Since(begin))
		time.Sleep(time.Duration(len(took)%7) * 50 * time.Millisecond) // events come at other times than the beat
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Milliseconds()), "p99-ms")
}
