package jobs

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

// line is a detector without a database, and the detections that wait for it or run.
type line struct {
	*Detector
	t *testing.T
}

func newLine(t *testing.T, slots int) line {
	d := NewDetector(nil, nil)
	d.slots = make(chan struct{}, slots)
	return line{d, t}
}

// A turn is one detection.
type turn struct {
	leave context.CancelFunc
	done  bool   // acquire has returned
	end   func() // ends the detection, if it runs
	err   error
}

// join starts a detection of an owner. It returns when the detection runs or waits.
func (l line) join(owner uuid.UUID) *turn {
	ctx, cancel := context.WithCancel(l.t.Context())
	one := &turn{leave: cancel}
	go func() {
		one.end, one.err = l.acquire(ctx, owner)
		one.done = true
	}()
	synctest.Wait()
	return one
}

func (l line) end(one *turn) {
	l.t.Helper()
	if one.end == nil {
		l.t.Fatalf("the detection does not run: %+v", one)
	}
	one.end()
	synctest.Wait()
}

// security: ASVS 15.2.2, API4:2023
func TestDetectionsUseHalfOfTheProcessors(t *testing.T) {
	if d, want := NewDetector(nil, nil), max(1, runtime.GOMAXPROCS(0)/2); cap(d.slots) != want {
		t.Errorf("%d slots, want %d", cap(d.slots), want)
	}
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, 3)
		var all []*turn
		for range 20 {
			all = append(all, l.join(uuid.New()))
		}
		for first := range all {
			for i, one := range all {
				if running := one.done; running != (i < first+3) {
					t.Errorf("after %d have ended, detection %d runs: %v", first, i, running)
				}
			}
			l.end(all[first])
		}
		if len(l.owners.owners) != 0 || len(l.slots) != 0 {
			t.Errorf("%d owners and %d slots are left", len(l.owners.owners), len(l.slots))
		}
	})
}

// TestWaitForADetectionEnds fills the only slot. Detections of the same owner and of another
// one must give up after five seconds.
func TestWaitForADetectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, 1)
		owner := uuid.New()
		runs := l.join(owner)
		for _, who := range []uuid.UUID{owner, uuid.New()} {
			begin := time.Now()
			if _, err := l.acquire(t.Context(), who); !errors.Is(err, ErrDetectorBusy) || time.Since(begin) != 5*time.Second {
				t.Errorf("%v after %v", err, time.Since(begin))
			}
		}
		l.end(runs)
		if next := l.join(owner); !next.done || next.err != nil {
			t.Errorf("the freed slot: %+v", next)
		}
	})
}

// TestClientThatLeavesFreesItsPlace has clients leave while their detections wait. They must
// be gone at once, and the next in line must follow them.
func TestClientThatLeavesFreesItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, 1)
		owner, other := uuid.New(), uuid.New()
		runs := l.join(owner)
		same, next, last := l.join(owner), l.join(other), l.join(other)
		for _, one := range []*turn{same, next} {
			one.leave()
			synctest.Wait()
			if !one.done || !errors.Is(one.err, context.Canceled) {
				t.Errorf("left, but %+v", one)
			}
		}
		if last.done {
			t.Error("the last one runs beside the first")
		}
		l.end(runs)
		if !last.done || last.err != nil {
			t.Errorf("the last in line: %+v", last)
		}
	})
}

// TestBurstOfOneOwnerDoesNotFillTheLine has one owner send many texts before another sends
// one. The other owner's text must be the next.
func TestBurstOfOneOwnerDoesNotFillTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, 1)
		owner := uuid.New()
		var burst []*turn
		for range 10 {
			burst = append(burst, l.join(owner))
		}
		other := l.join(uuid.New())
		l.end(burst[0])
		if !other.done || burst[1].done {
			t.Errorf("the other runs: %v, the burst goes on: %v", other.done, burst[1].done)
		}
		l.end(other)
		if !burst[1].done || burst[1].err != nil {
			t.Errorf("the burst does not go on: %+v", burst[1])
		}
	})
}
