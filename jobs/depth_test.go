package jobs

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

// TestDepthNeverExceedsItsLimit reserves, queues, gives up, starts and counts jobs in
// random order. A count reads the number of queued jobs at any time between its begin and
// its end. One process must never exceed the limit. Several processes must never exceed
// the sum of their limits.
//
// security: ASVS 2.3.2
func TestDepthNeverExceedsItsLimit(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.IntRange(1, 6).Draw(rt, "limit")
		queued := 0
		type process struct {
			*depthLimit
			open     int
			counting bool
			count    int
		}
		processes := make([]process, rapid.IntRange(1, 3).Draw(rt, "processes"))
		for i := range processes {
			processes[i].depthLimit = newDepthLimit(limit)
			processes[i].beginCount()
			processes[i].endCount(queued)
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			p := &processes[rapid.IntRange(0, len(processes)-1).Draw(rt, "process")]
			steps := []string{"reserve", "reserve", "queue", "give up", "start", "begin a count", "count", "end a count"}
			switch step := rapid.SampledFrom(steps).Draw(rt, "step"); {
			case step == "reserve":
				if err := p.reserve(t.Context(), false); err == nil {
					p.open++
				} else if !errors.Is(err, ErrQueueFull) {
					rt.Fatal(err)
				}
			case step == "queue" && p.open > 0:
				p.open--
				queued++
				p.settle(true)
			case step == "give up" && p.open > 0:
				p.open--
				p.settle(false)
			case step == "start" && queued > 0:
				queued--
			case step == "begin a count": // a new count may begin before the last one has ended, because the last one may have failed
				p.beginCount()
				p.counting, p.count = true, queued
			case step == "count" && p.counting:
				p.count = queued
			case step == "end a count" && p.counting:
				p.counting = false
				p.endCount(p.count)
			}
			if len(processes) == 1 && queued > limit || queued > limit*len(processes) {
				rt.Fatalf("%d jobs queued, the limit is %d", queued, limit)
			}
		}
		// An empty queue has room after the next count.
		for _, p := range processes {
			for ; p.open > 0; p.open-- {
				p.settle(false)
			}
			p.beginCount()
			p.endCount(0)
			if err := p.reserve(t.Context(), false); err != nil {
				rt.Fatalf("reserve in an empty queue: %v", err)
			}
		}
	})
}

func TestSubmitWaitsForTheFirstCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDepthLimit(1)
		left, leave := context.WithCancel(t.Context())
		gone, reserved := make(chan error), make(chan error)
		go func() { gone <- d.reserve(left, false) }()
		go func() { reserved <- d.reserve(t.Context(), false) }()
		synctest.Wait()
		leave()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("the caller has left: %v", err)
		}
		d.beginCount()
		d.endCount(0)
		if err := <-reserved; err != nil {
			t.Error(err)
		}
	})
}
