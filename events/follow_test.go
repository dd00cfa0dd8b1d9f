package events_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events"
)

func TestFollowersSeeEveryEventOnceAndInOrder(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	// The second store stands for a second process.
	elsewhere := events.NewStore(f.db.App, f.vault, slog.New(slog.DiscardHandler))
	run(t, elsewhere)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	j := f.newJob()
	facts := completedFacts()
	const followers = 20
	results := make(chan error, followers)
	for i := range followers {
		store, after := f.Store, i%len(facts)
		if i%2 == 0 {
			store = elsewhere
		}
		go func() { results <- follow(ctx, store, j.ID, after, len(facts)) }()
	}
	if _, err := f.put(t.Context(), j, facts...); err != nil {
		t.Fatal(err)
	}
	for range followers {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestLocalFollowersNeedNoAnnouncement(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	silent := events.NewStore(f.db.App, f.vault, slog.New(slog.DiscardHandler)) // this store announces nothing, because Run is not called
	j := f.newJob()
	id := j.ID
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	facts := completedFacts()
	done := make(chan error, 1)
	go func() { done <- follow(ctx, silent, id, 0, len(facts)) }()
	for _, fact := range facts {
		var err error
		if j, err = silent.AppendJob(ctx, j, fact); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestCachedEventsEqualStoredOnes follows a stream in the appending process, so the
// follower gets the events from memory. These events must equal the stored events.
func TestCachedEventsEqualStoredOnes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j, facts := f.newJob(), completedFacts()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	j, err := f.AppendJob(ctx, j, facts[0])
	if err != nil {
		t.Fatal(err)
	}
	var got []events.Event
	for batch, err := range f.Follow(ctx, events.JobStream(j.ID), 0, time.Hour) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, batch...)
		if len(got) == len(facts) {
			break
		}
		if j, err = f.AppendJob(ctx, j, facts[len(got)]); err != nil {
			t.Fatal(err)
		}
	}
	stored, err := f.Read(ctx, events.JobStream(j.ID), 0)
	if err != nil || !cmp.Equal(got, stored) {
		t.Errorf("%v\n%s", err, cmp.Diff(stored, got))
	}
}

// follow reads a job's events from version after+1 to version until. It returns an
// error if an event is missing or out of order. The heartbeat is longer than any test,
// so the follower depends on announcements.
func follow(ctx context.Context, s *events.Store, id uuid.UUID, after, until int) error {
	for batch, err := range s.Follow(ctx, events.JobStream(id), after, time.Hour) {
		if err != nil {
			return fmt.Errorf("at version %d: %w", after, err)
		}
		for _, e := range batch {
			if e.Version != after+1 {
				return fmt.Errorf("version %d after %d", e.Version, after)
			}
			after = e.Version
		}
		if after == until {
			return nil
		}
	}
	return errors.New("the sequence ended early")
}

func TestFollowYieldsHeartbeats(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j, err := f.put(t.Context(), f.newJob(), completedFacts()[0])
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	heartbeats := 0
	for batch, err := range f.Follow(ctx, events.JobStream(j.ID), j.Version, 5*time.Millisecond) {
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			break
		}
		if len(batch) != 0 {
			t.Fatalf("unexpected events: %v", batch)
		}
		if heartbeats++; heartbeats == 3 {
			cancel()
		}
	}
	cancel()
	if heartbeats != 3 {
		t.Fatalf("%d heartbeats, want 3", heartbeats)
	}
}

// TestStreamsFollowedTogetherHaveOneHeartbeat follows many silent streams. Their heartbeats must
// come as often as those of one stream. Then events are appended to the streams in turn, in two
// processes; each must be seen once, and those of a stream in order.
func TestStreamsFollowedTogetherHaveOneHeartbeat(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	elsewhere := events.NewStore(f.db.App, f.vault, slog.New(slog.DiscardHandler))
	run(t, elsewhere)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	facts := completedFacts()
	all, streams := make([]events.Job, 24), make([]events.Stream, 24)
	for i := range all {
		j, err := f.put(ctx, f.newJob(), facts[0])
		if err != nil {
			t.Fatal(err)
		}
		all[i], streams[i] = j, events.JobStream(j.ID)
	}
	const interval, beats = 10 * time.Millisecond, 30
	followAll := func(heartbeat time.Duration, done func(events.Followed) bool) {
		t.Helper()
		seen := make([]int, len(all))
		for batch, err := range f.FollowAll(ctx, streams, heartbeat) {
			for _, e := range batch.Events {
				if seen[batch.Stream]++; e.Version != seen[batch.Stream] || e.Stream != streams[batch.Stream] {
					t.Fatalf("%s@%d, want version %d of %s", e.Stream, e.Version, seen[batch.Stream], streams[batch.Stream])
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if done(batch) {
				break
			}
		}
	}
	silent, begin := 0, time.Now()
	followAll(interval, func(b events.Followed) bool {
		if len(b.Events) == 0 {
			silent++
		}
		return silent == beats
	})
	if took := time.Since(begin); took < beats*interval {
		t.Errorf("%d heartbeats in %v, want at most one in %v", beats, took, interval)
	}
	appended := make(chan error, 1)
	missing := len(all) * len(facts)
	begun := sync.OnceFunc(func() {
		go func() {
			var failed error
			for n, fact := range facts[1:] {
				for i := range all {
					store := []*events.Store{f.Store, elsewhere}[(i+n)%2]
					var err error
					all[i], err = store.AppendJob(ctx, all[i], fact)
					failed = errors.Join(failed, err)
				}
			}
			appended <- failed
		}()
	})
	followAll(time.Hour, func(b events.Followed) bool {
		if missing -= len(b.Events); missing == len(all)*(len(facts)-1) {
			begun()
		}
		return missing == 0
	})
	if err := <-appended; err != nil {
		t.Error(err)
	}
}

func TestRunReconnectsALostListener(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	// The follower uses a second store, because followers in the appending process need
	// no listener.
	elsewhere := events.NewStore(f.db.App, f.vault, slog.New(slog.DiscardHandler))
	run(t, elsewhere)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	facts := completedFacts()
	// A store skips its own announcements, so only the announcement of the second event
	// can wake the follower.
	j, err := elsewhere.AppendJob(ctx, f.newJob(), facts[0])
	if err != nil {
		t.Fatal(err)
	}
	for batch, err := range elsewhere.Follow(ctx, events.JobStream(j.ID), 0, time.Hour) {
		if err != nil {
			t.Fatal(err)
		}
		if batch[0].Version == 2 {
			return
		}
		var cut int
		err = f.db.Owner.QueryRow(ctx, `
			select count(*) filter (where pg_terminate_backend(pid, 60000)) from pg_stat_activity
			where datname = current_database() and application_name like '% listen'`).Scan(&cut)
		if err != nil || cut != 2 {
			t.Fatalf("terminated %d connections, %v, want 2", cut, err)
		}
		if j, err = f.put(ctx, j, facts[1]); err != nil {
			t.Fatal(err)
		}
	}
}

// cutConn is a connection that can be cut silently, without an error on either side.
type cutConn struct {
	net.Conn
	cut *atomic.Bool
}

func (c cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	for err == nil && c.cut.Load() {
		n, err = c.Conn.Read(b) // drops what arrives until the connection's deadline passes
	}
	return n, err
}

func (c cutConn) Write(b []byte) (int, error) {
	if c.cut.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// TestFollowersSurviveASilentCut cuts all connections of a store. A follower of the
// store must still get the next event. The heartbeat is longer than the test, so it
// cannot wake the follower.
func TestFollowersSurviveASilentCut(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	config := f.db.App.Config()
	var cut atomic.Pointer[atomic.Bool] // setting the value to true cuts the connections dialed so far
	cut.Store(new(atomic.Bool))
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return cutConn{conn, cut.Load()}, err
	}
	// By default, the pool pings a connection only after a long idle time. In this test,
	// it pings a connection before every use.
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return true }
	config.PingTimeout = 300 * time.Millisecond
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { go pool.Close() }() // in the background, because Close waits long for the cut connections
	far := events.NewStore(pool, f.vault, slog.New(slog.DiscardHandler))
	far.SetListenCheck(100*time.Millisecond, 300*time.Millisecond)
	run(t, far)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	facts := completedFacts()
	// A store skips its own announcements, so only the announcement of the second event
	// can wake the follower.
	j, err := far.AppendJob(ctx, f.newJob(), facts[0])
	if err != nil {
		t.Fatal(err)
	}
	for batch, err := range far.Follow(ctx, events.JobStream(j.ID), 0, time.Hour) {
		if err != nil {
			t.Fatal(err)
		}
		if batch[0].Version == 2 {
			return
		}
		cut.Swap(new(atomic.Bool)).Store(true)
		if j, err = f.put(ctx, j, facts[1]); err != nil {
			t.Fatal(err)
		}
	}
}
