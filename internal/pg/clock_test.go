package pg

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"
)

// reading is a fake of a database whose clock and round trip the test sets. It is also a
// fake of the row with the result.
type reading struct {
	now  func() time.Time
	trip func() // runs before and after the clock is read
	err  error
}

func (r *reading) QueryRow(context.Context, string, ...any) pgx.Row { return r }

func (r *reading) Scan(dst ...any) error {
	r.trip()
	*dst[0].(*time.Time) = r.now()
	r.trip()
	return r.err
}

func TestClockFollowsTheDatabase(t *testing.T) {
	t.Parallel()
	real := time.Now()
	var mono time.Duration // time that has passed since real
	c := newClock(func() time.Time { return real.Add(mono) })
	shift := -15 * time.Second // the database's clock minus the process's clock
	const trip = time.Millisecond
	db := &reading{now: func() time.Time { return real.Add(mono + shift) }, trip: func() { mono += trip }}
	within := func(what string, limit time.Duration) {
		t.Helper()
		if off := c.Now().Sub(db.now()).Abs(); off > limit {
			t.Errorf("%s: the clock is off by %v, want at most %v", what, off, limit)
		}
	}
	if got := c.Now(); !got.Equal(real) {
		t.Errorf("before the first read: %v, want the process's time %v", got, real)
	}
	if err := c.Ensure(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	within("behind", trip)
	if ahead := c.Ahead(); (ahead - 15*time.Second).Abs() > trip {
		t.Errorf("the process is ahead by %v, want 15s", ahead)
	}
	mono += time.Hour
	within("an hour later", trip)
	epoch := c.Epoch()
	for _, late := range []time.Duration{0, trip, 3 * trip} { // these reads, some of them slow, agree with the clock, so they must not change it
		db.trip = func() { mono += late }
		if err := c.Sync(t.Context(), db); err != nil {
			t.Fatal(err)
		}
	}
	if step := c.Epoch().Sub(epoch); step.Abs() > trip {
		t.Errorf("the clock moved by %v without a cause", step)
	}
	for _, jump := range []time.Duration{40 * time.Second, -70 * time.Second} {
		epoch = c.Epoch()
		shift += jump
		db.trip = func() { mono += trip }
		if err := c.Sync(t.Context(), db); err != nil {
			t.Fatal(err)
		}
		within("after a jump", trip)
		if step := c.Epoch().Sub(epoch); (step - jump).Abs() > 2*trip {
			t.Errorf("the clock moved by %v, want %v", step, jump)
		}
	}
	db.err, shift = errors.New("gone"), 0
	if err := c.Sync(t.Context(), db); !errors.Is(err, db.err) {
		t.Errorf("failed read: %v", err)
	}
	if err := c.Ensure(t.Context(), db); err != nil {
		t.Errorf("a clock that was read needs no other read: %v", err)
	}
}

// TestSlowReadsNeverSetTheClockBack reads a database whose queries and answers take random
// times. The clock must never go back, and must differ from the database's clock by at most
// the duration of the latest read.
func TestSlowReadsNeverSetTheClockBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		real := time.Now()
		var mono time.Duration // time that has passed since real
		c := newClock(func() time.Time { return real.Add(mono) })
		trip := rapid.Map(rapid.Int64Range(0, int64(time.Second)), func(ns int64) time.Duration { return time.Duration(ns) })
		db := &reading{now: func() time.Time { return real.Add(mono + time.Hour) }, trip: func() { mono += trip.Draw(t, "trip") }}
		var last time.Time
		for range rapid.IntRange(2, 20).Draw(t, "reads") {
			begin := mono
			if err := c.Sync(context.Background(), db); err != nil {
				t.Fatal(err)
			}
			now := c.Now()
			if now.Before(last) {
				t.Fatalf("the clock went back by %v", last.Sub(now))
			}
			if off := now.Sub(db.now()).Abs(); off > mono-begin {
				t.Fatalf("the clock is off by %v after a read of %v", off, mono-begin)
			}
			last = now
			mono += trip.Draw(t, "pause")
			if now = c.Now(); now.Before(last) {
				t.Fatalf("the clock went back by %v", last.Sub(now))
			}
			last = now
		}
	})
}

func TestClockGivesNoMonotonicReading(t *testing.T) {
	t.Parallel()
	c := NewClock()
	if now := c.Now(); now != now.Round(0) || now.Location() != time.UTC {
		t.Errorf("%#v has a monotonic reading or a zone", now)
	}
}

// TestLateReadingDoesNotReplaceANewerOne ends a reading after another one that began
// later. The database's clock was set back between the two. The newer reading must count.
func TestLateReadingDoesNotReplaceANewerOne(t *testing.T) {
	t.Parallel()
	real := time.Now()
	var mono time.Duration // time that has passed since real
	c := newClock(func() time.Time { return real.Add(mono) })
	set := time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)
	newer := &reading{now: func() time.Time { return set }, trip: func() {}}
	nested := false
	late := &reading{now: func() time.Time { return set.Add(time.Hour) }, trip: func() {
		if mono++; nested {
			return
		}
		nested = true
		if err := c.Sync(t.Context(), newer); err != nil {
			t.Error(err)
		}
	}}
	if err := c.Sync(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	if off := c.Now().Sub(set); off.Abs() > time.Second {
		t.Errorf("the clock is %v after the newer reading", off)
	}
}
