package jobs

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// TestDepthNeverExceedsItsLimit submits, queues, gives up and takes up in any
// order, in one process and in several.
//
// security: ASVS 2.3.2
func TestDepthNeverExceedsItsLimit(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.IntRange(1, 6).Draw(rt, "limit")
		queued := 0
		count := func(_ context.Context, upTo int) (int, error) {
			return min(queued, upTo), nil
		}
		processes := make([]*depth, rapid.IntRange(1, 3).Draw(rt, "processes"))
		onWay := make([]int, len(processes))
		for i := range processes {
			processes[i] = &depth{limit: limit, count: count}
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			i := rapid.IntRange(0, len(processes)-1).Draw(rt, "process")
			d := processes[i]
			switch step := rapid.SampledFrom([]string{"enter", "enter", "queue", "give up", "take up", "time goes by"}).Draw(rt, "step"); {
			case step == "enter":
				if err := d.enter(t.Context()); err == nil {
					onWay[i]++
				} else if !errors.Is(err, ErrQueueFull) {
					rt.Fatal(err)
				}
			case step == "queue" && onWay[i] > 0:
				onWay[i]--
				queued++
				d.leave(true)
			case step == "give up" && onWay[i] > 0:
				onWay[i]--
				d.leave(false)
			case step == "take up" && queued > 0:
				queued--
			case step == "time goes by":
				d.at = d.at.Add(-countEvery)
			}
			if len(processes) == 1 && queued > limit || queued > limit*len(processes) {
				rt.Fatalf("%d jobs are queued, the limit is %d", queued, limit)
			}
		}
		// An empty queue has room, once it has been counted.
		queued = 0
		for i, d := range processes {
			for ; onWay[i] > 0; onWay[i]-- {
				d.leave(false)
			}
			d.at = d.at.Add(-countEvery)
			if err := d.enter(t.Context()); err != nil {
				rt.Fatalf("into an empty queue: %v", err)
			}
		}
	})
}

func TestTheQueueIsCountedOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counts := 0
		d := &depth{limit: 10, count: func(context.Context, int) (int, error) { counts++; return 0, nil }}
		for range 50 {
			for range 10 {
				if err := d.enter(t.Context()); err != nil {
					t.Fatal(err)
				}
				d.leave(true)
			}
			if err := d.enter(t.Context()); !errors.Is(err, ErrQueueFull) {
				t.Fatal(err)
			}
			time.Sleep(countEvery)
		}
		if counts != 50 {
			t.Errorf("counted %d times", counts)
		}
	})
}

func TestACountThatFailsLetsNobodyIn(t *testing.T) {
	broken := errors.New("no database")
	d := &depth{limit: 10, count: func(context.Context, int) (int, error) { return 0, broken }}
	if err := d.enter(t.Context()); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	d.count = func(context.Context, int) (int, error) { return 9, nil }
	if err := d.enter(t.Context()); err != nil {
		t.Fatalf("the one that failed still has its place: %v", err)
	}
}
