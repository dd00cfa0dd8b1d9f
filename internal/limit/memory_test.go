package limit

import (
	"context"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sethvargo/go-limiter/memorystore"
	"pgregory.net/rapid"
)

// takeOne counts one request of a key. Counting in memory has no errors.
func takeOne(m *memory, key string) Count {
	c, _, _ := m.take(context.Background(), key, 1, math.MaxInt64)
	return c
}

// TestKeysInMemoryAreBounded sends requests with very many keys. They must not fill the
// memory, and must not reset the count of a key that is used all the time.
func TestKeysInMemoryAreBounded(t *testing.T) {
	t.Parallel()
	m, err := newMemory(Rate{1000, time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	take := func(key string) (left uint64) {
		return takeOne(m, key).Remaining
	}
	var left uint64
	for i := range 2 * maxKeys {
		take(fmt.Sprint("2001:db8:", i))
		if i%(maxKeys/2) == 0 {
			left = take("busy")
		}
	}
	if left != 1000-4 {
		t.Errorf("%d requests left to the busy client, want %d", left, 1000-4)
	}
	if n := m.windows.Len(); n > maxKeys {
		t.Errorf("%d keys, want at most %d", n, maxKeys)
	}
}

func TestOldKeysLeaveMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, err := newMemory(Rate{5, time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			takeOne(m, fmt.Sprint(i))
		}
		time.Sleep(2*time.Minute - 1)
		takeOne(m, "early")
		if n := m.windows.Len(); n != 101 {
			t.Errorf("%d keys in the window after theirs, want 101", n)
		}
		time.Sleep(time.Nanosecond)
		for range 50 {
			takeOne(m, "late")
		}
		if n := m.windows.Len(); n != 2 {
			t.Errorf("%d keys are left, want 2", n)
		}
	})
}

// TestMemoryBehavesLikeTheMemoryStore takes tokens from go-limiter's memory store and
// from this package's memory, over several windows. Both must return the same results.
func TestMemoryBehavesLikeTheMemoryStore(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rate := Rate{rapid.Uint64Range(1, 4).Draw(t, "tokens"), time.Hour}
		theirs, err := memorystore.New(&memorystore.Config{Tokens: rate.Requests, Interval: rate.Per})
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.Close(context.Background())
		ours, err := newMemory(rate)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			key := rapid.SampledFrom([]string{"a", "b", ""}).Draw(t, "key")
			t1, r1, reset1, ok1, _ := theirs.Take(context.Background(), key)
			c := takeOne(ours, key)
			if t1 != c.Limit || r1 != c.Remaining || ok1 != c.OK {
				t.Fatalf("%q: theirs %d %d %v, ours %+v", key, t1, r1, ok1, c)
			}
			if diff := time.Until(time.Unix(0, int64(reset1))) - c.Reset; diff.Abs() > time.Minute {
				t.Fatalf("the windows end %s apart", diff)
			}
		}
	})
}

// A window must begin at the end of the previous one, also after windows without requests.
func TestWindowsInMemoryStayAligned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, err := newMemory(Rate{1, time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for _, c := range []struct {
			at   time.Duration
			ok   bool
			ends time.Duration
		}{
			{0, true, time.Minute},
			{time.Minute - 1, false, time.Minute},
			{time.Minute, true, 2 * time.Minute},
			{2*time.Minute + 30*time.Second, true, 3 * time.Minute},
			{2*time.Minute + 59*time.Second, false, 3 * time.Minute},
			{9*time.Minute + 10*time.Second, true, 10*time.Minute + 10*time.Second}, // a new window begins with this request, because the key was forgotten
		} {
			time.Sleep(time.Until(start.Add(c.at)))
			got := takeOne(m, "key")
			if ends := time.Now().Add(got.Reset).Sub(start); got.OK != c.ok || ends != c.ends {
				t.Errorf("after %v: allowed %v until %v, want %v until %v", c.at, got.OK, ends, c.ok, c.ends)
			}
		}
	})
}
