package jobs

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// TestDepthNeverExceedsItsLimit reserves, queues, gives up and starts jobs in random
// order. One process must never exceed the limit. Several processes must never exceed
// the sum of their limits.
//
// security: ASVS 2.3.2
func TestDepthNeverExceedsItsLimit(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.IntRange(1, 6).Draw(rt, "limit")
		queued := 0
		count := func(_ context.Context, upTo int) (int, error) {
			return min(queued, upTo), nil
		}
		processes := make([]*depthLimit, rapid.IntRange(1, 3).Draw(rt, "processes"))
		open := make([]int, len(processes))
		for i := range processes {
			processes[i] = &depthLimit{limit: limit, count: count}
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			i := rapid.IntRange(0, len(processes)-1).Draw(rt, "process")
			d := processes[i]
			switch step := rapid.SampledFrom([]string{"reserve", "reserve", "queue", "give up", "start", "time passes"}).Draw(rt, "step"); {
			case step == "reserve":
				if err := d.reserve(t.Context()); err == nil {
					open[i]++
				} else if !errors.Is(err, ErrQueueFull) {
					rt.Fatal(err)
				}
			case step == "queue" && open[i] > 0:
				open[i]--
				queued++
				d.settle(true)
			case step == "give up" && open[i] > 0:
				open[i]--
				d.settle(false)
			case step == "start" && queued > 0:
				queued--
			case step == "time passes":
				d.at = d.at.Add(-maxCountAge)
			}
			if len(processes) == 1 && queued > limit || queued > limit*len(processes) {
				rt.Fatalf("%d jobs queued, the limit is %d", queued, limit)
			}
		}
		// An empty queue has room after the next count.
		queued = 0
		for i, d := range processes {
			for ; open[i] > 0; open[i]-- {
				d.settle(false)
			}
			d.at = d.at.Add(-maxCountAge)
			if err := d.reserve(t.Context()); err != nil {
				rt.Fatalf("reserve in an empty queue: %v", err)
			}
		}
	})
}

func TestQueueIsCountedOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counts := 0
		d := &depthLimit{limit: 10, count: func(context.Context, int) (int, error) { counts++; return 0, nil }}
		for range 50 {
			for range 10 {
				if err := d.reserve(t.Context()); err != nil {
					t.Fatal(err)
				}
				d.settle(true)
			}
			if err := d.reserve(t.Context()); !errors.Is(err, ErrQueueFull) {
				t.Fatal(err)
			}
			time.Sleep(maxCountAge)
		}
		if counts != 50 {
			t.Errorf("%d counts, want 50", counts)
		}
	})
}

func TestFailedCountReservesNothing(t *testing.T) {
	broken := errors.New("no database")
	d := &depthLimit{limit: 10, count: func(context.Context, int) (int, error) { return 0, broken }}
	if err := d.reserve(t.Context()); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	d.count = func(context.Context, int) (int, error) { return 9, nil }
	if err := d.reserve(t.Context()); err != nil {
		t.Fatalf("the failed reservation still counts: %v", err)
	}
}
