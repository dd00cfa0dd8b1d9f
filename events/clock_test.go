package events_test

import (
	"bytes"
	"context"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
)

func (f *fixture) databaseClock(t *testing.T) time.Time {
	t.Helper()
	var now time.Time
	if err := f.db.Owner.QueryRow(t.Context(), `select clock_timestamp()`).Scan(&now); err != nil {
		t.Fatal(err)
	}
	return now
}

// times returns the times of the events in the streams of a job and of the owner.
func (f *fixture) times(t *testing.T, job uuid.UUID) [2][]time.Time {
	t.Helper()
	var times [2][]time.Time
	for i, stream := range []events.Stream{events.JobStream(job), events.AccountStream(f.owner)} {
		all, err := f.Read(t.Context(), stream, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			times[i] = append(times[i], e.At)
		}
	}
	return times
}

func TestEventTimesAndIDsAreTheDatabases(t *testing.T) {
	t.Parallel()
	for name, shift := range map[string]time.Duration{"behind": -time.Hour, "ahead": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.db.ShiftClock(t, shift)
			f.Store = events.NewStore(f.db.App, f.vault, slog.New(slog.DiscardHandler)) // this store has not read the database's clock yet
			begin := f.databaseClock(t)
			job, err := f.put(t.Context(), f.newJob(), completedFacts()...)
			if err != nil {
				t.Fatal(err)
			}
			f.owner = uuid.New()
			f.register(t, f.owner)
			id := f.NewID()
			end := f.databaseClock(t)
			// The store's clock may differ from the database's clock by the duration of
			// one read, so the bounds allow one second.
			ok := func(at time.Time) bool { return !at.Before(begin.Add(-time.Second)) && !at.After(end.Add(time.Second)) }
			for _, times := range f.times(t, job.ID) {
				for _, at := range times {
					if !ok(at) {
						t.Errorf("an event has the time %v, want one from %v to %v", at, begin, end)
					}
				}
			}
			if sec, nsec := id.Time().UnixTime(); !ok(time.Unix(sec, nsec)) {
				t.Errorf("an id has the time %v, want one from %v to %v", time.Unix(sec, nsec), begin, end)
			}
		})
	}
}

func TestEventTimesNeverDecrease(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.db.ShiftClock(t, 0)
	facts := completedFacts()
	job, err := f.put(t.Context(), f.newJob(), facts[:2]...)
	if err != nil {
		t.Fatal(err)
	}
	id := f.NewID()
	f.db.ShiftClock(t, -time.Hour)
	if err := f.Clock().Sync(t.Context(), f.db.App); err != nil {
		t.Fatal(err)
	}
	if job, err = f.put(t.Context(), job, facts[2:]...); err != nil {
		t.Fatal(err)
	}
	err = f.Write(t.Context(), func(tx *events.Tx) error {
		return tx.AppendAccount(t.Context(), f.owner, events.AccountSignInFailed{})
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, times := range f.times(t, job.ID) {
		for i := range times[1:] {
			if times[i+1].Before(times[i]) {
				t.Errorf("version %d has the time %v, before the %v of its predecessor", i+2, times[i+1], times[i])
			}
		}
	}
	if next := f.NewID(); bytes.Compare(next[:], id[:]) <= 0 {
		t.Errorf("id %s follows %s", next, id)
	}
}

func TestIDsIncrease(t *testing.T) {
	t.Parallel()
	s := events.NewStore(nil, nil, nil)
	const n, writers = 5000, 4
	var all [writers][]uuid.UUID
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			for range n {
				all[i] = append(all[i], s.NewID())
			}
		})
	}
	wg.Wait()
	seen := map[uuid.UUID]bool{}
	for _, ids := range all {
		last := uuid.Nil
		for _, id := range ids {
			if bytes.Compare(id[:], last[:]) <= 0 || seen[id] || id.Version() != 7 || id.Variant() != uuid.RFC4122 {
				t.Fatalf("id %s after %s", id, last)
			}
			last, seen[id] = id, true
		}
	}
}

// TestClockDifferenceIsLoggedOnce sets the database's clock back by an hour and then
// right again. The log must report each of the two changes exactly once, although the
// clock is read many times.
func TestClockDifferenceIsLoggedOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.db.ShiftClock(t, -time.Hour)
	var log lockedBuffer
	s := events.NewStore(f.db.App, f.vault, slog.New(slog.NewTextHandler(&log, nil)))
	s.SetSyncEvery(time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx, nil) })
	const differs, agrees = "clock of this process differs", "clock of this process agrees"
	await := func(what string) {
		t.Helper()
		giveUp := time.After(time.Minute)
		for poll := time.NewTicker(time.Millisecond); !strings.Contains(log.String(), what); {
			select {
			case <-poll.C:
			case <-giveUp:
				t.Fatalf("%q is not in the log:\n%s", what, log.String())
			}
		}
	}
	await(differs)
	f.db.ShiftClock(t, -time.Hour+time.Second) // a change of one second is too small to be logged
	await(differs)
	f.db.ShiftClock(t, 0)
	await(agrees)
	cancel()
	running.Wait()
	if lines := log.String(); strings.Count(lines, differs) != 1 || strings.Count(lines, agrees) != 1 || !regexp.MustCompile(`ahead=(1h0m0|59m59)`).MatchString(lines) {
		t.Errorf("log:\n%s", lines)
	}
}

// lockedBuffer is a buffer for concurrent use.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
