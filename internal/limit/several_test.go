package limit

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"colophon/internal/pg/pgtest"
	"colophon/migrations"
)

// eachLimit calls test with a limit in memory and one in the database.
func eachLimit(t *testing.T, rate Rate, test func(*testing.T, *Limit)) {
	t.Helper()
	memory, err := InMemory("test", rate)
	if err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]*Limit{"memory": memory, "shared": Shared(pgtest.New(t, migrations.Up).App, "test", rate)} {
		t.Run(name, func(t *testing.T) { test(t, l) })
	}
}

// TestSeveralRequestsPassAllOrNone counts uses of random sizes under random limits of the key's
// own, and compares the results with those of a model.
func TestSeveralRequestsPassAllOrNone(t *testing.T) {
	t.Parallel()
	const requests = 20
	eachLimit(t, Rate{requests, time.Hour}, func(t *testing.T, l *Limit) {
		runs := 0
		rapid.Check(t, func(t *rapid.T) {
			runs++
			key, used := fmt.Sprint("key ", runs), uint64(0)
			own := rapid.SampledFrom([]uint64{0, 1, 7, requests, 99}).Draw(t, "own limit")
			most := uint64(requests)
			if own != 0 {
				most = min(most, own)
			}
			for range rapid.IntRange(1, 8).Draw(t, "uses") {
				n := rapid.Uint64Range(0, 24).Draw(t, "n")
				c, err := l.Take(context.Background(), Use{Key: key, N: n, Most: own})
				fits := used+max(1, n) <= most
				if fits {
					used += max(1, n)
				}
				if err != nil || c.OK != fits || c.Limit != most || c.Remaining != most-used || c.Reset <= 0 || c.Reset > time.Hour {
					t.Fatalf("%d requests after %d of %d: %+v, %v", n, used, most, c, err)
				}
			}
		})
	})
}

// TestRefusedUseCountsNowhere uses up the window of a group. A use that the group refuses must
// not count for its key, and one that the key refuses not for the group.
func TestRefusedUseCountsNowhere(t *testing.T) {
	t.Parallel()
	const requests = 4
	eachLimit(t, Rate{requests, time.Hour}, func(t *testing.T, l *Limit) {
		take := func(key string, n, remaining uint64, ok bool) {
			t.Helper()
			if c, err := l.Take(t.Context(), Use{Key: key, Group: "all", N: n}); err != nil || c.OK != ok || c.Remaining != remaining {
				t.Errorf("%d requests of %s: %+v, %v; want %v, and %d remaining", n, key, c, err, ok, remaining)
			}
		}
		for i := range groupShare - 1 {
			take(fmt.Sprint(i), requests, 0, true)
			take(fmt.Sprint(i), 1, 0, false)
		}
		take("last", requests-1, 1, true)
		take("late", 2, 1, false) // the group has one request left
		take("late", 1, requests-1, true)
		take("late", requests-1, 0, false)
		if c, err := l.Take(t.Context(), Use{Key: "late", N: requests - 1}); err != nil || !c.OK {
			t.Errorf("the key has lost requests that the group refused: %+v, %v", c, err)
		}
	})
}

// TestConcurrentUsesAreExact sends uses of several requests at once. Exactly those that fit may
// pass.
func TestConcurrentUsesAreExact(t *testing.T) {
	t.Parallel()
	eachLimit(t, Rate{50, time.Hour}, func(t *testing.T, l *Limit) {
		var allowed atomic.Uint64
		var uses sync.WaitGroup
		for range 40 {
			uses.Go(func() {
				c, err := l.Take(t.Context(), Use{Key: "k", Group: "g", N: 7})
				if err != nil {
					t.Error(err)
				}
				if c.OK {
					allowed.Add(7)
				}
			})
		}
		uses.Wait()
		if n := allowed.Load(); n != 49 {
			t.Errorf("%d requests were allowed, want 49 of 50", n)
		}
	})
}

// TestUndoneUseLeavesLaterWindowsAlone takes a use back after its window has ended.
func TestUndoneUseLeavesLaterWindowsAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, err := newMemory(Rate{5, time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		_, undo, err := m.take(t.Context(), "k", 3, 5)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		takeOne(m, "k")
		if err := undo(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c := takeOne(m, "k"); c.Remaining != 3 {
			t.Errorf("%+v after two requests in the second window", c)
		}
	})
	db := pgtest.New(t, migrations.Up)
	s := NewStore(db.App, "test", Rate{5, time.Hour})
	c, undo, err := s.take(t.Context(), "k", 3, 5)
	if err != nil || !c.OK {
		t.Fatal(c, err)
	}
	age(t, db.Owner, 90*time.Minute)
	for want := uint64(4); want >= 3; want-- {
		if c, _, err := s.take(t.Context(), "k", 1, 5); err != nil || c.Remaining != want {
			t.Errorf("%+v, %v", c, err)
		}
		if err := undo(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
