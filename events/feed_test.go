package events_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events"
	"colophon/events/ledger"
)

// sequence adds all events to the log.
func (f *fixture) sequence(t testing.TB) {
	t.Helper()
	sequencer := ledger.NewSequencer(f.db.App, slog.New(slog.DiscardHandler))
	sequencer.Grown = f.LogGrew
	for added := 1; added > 0; {
		p, err := sequencer.Pass(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		added = p.Added
	}
}

// replica returns a store of another process.
func (f *fixture) replica(t testing.TB) *events.Store {
	t.Helper()
	s := events.NewStore(f.db.App, f.vault, slog.New(slog.DiscardHandler))
	run(t, s)
	return s
}

// place is where an event is.
type place struct {
	Index   int64
	Stream  events.Stream
	Version int
}

func places(feed []events.Logged) []place {
	list := make([]place, len(feed))
	for i, e := range feed {
		list[i] = place{e.Index, e.Stream, e.Version}
	}
	return list
}

// expected returns the feed of an owner, read without the feed.
func (f *fixture) expected(t testing.TB, owner uuid.UUID) []place {
	t.Helper()
	rows, _ := f.db.App.Query(t.Context(), `select idx, stream, version from log_entries join events using (position) where events.owner = $1 order by idx`, owner)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[place])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestFeedsHaveNoGapAndNoRepeat is the property test. Writers of several owners append to
// accounts and jobs, roll back, and commit late, while a sequencer works. Readers leave at
// random and go on with another store. Each reader must see exactly the events of its owner,
// once, in the order of the log, and the events of each stream in order.
func TestFeedsHaveNoGapAndNoRepeat(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const owners, writersOfEach, transactions = 4, 3, 12
	stores := []*events.Store{f.Store, f.replica(t)}
	ids := make([]uuid.UUID, owners)
	for i := range ids {
		ids[i] = uuid.Must(uuid.NewV7())
		f.register(t, ids[i])
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	sequencing, stop := context.WithCancel(ctx)
	defer stop()
	var writing, reading, running sync.WaitGroup
	sequencer := ledger.NewSequencer(f.db.App, slog.New(slog.DiscardHandler))
	sequencer.Grown = f.LogGrew
	running.Go(func() { sequencer.Run(sequencing) })
	for w := range owners * writersOfEach {
		writing.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			for range transactions {
				if err := f.writeSome(ctx, r, ids[w%owners]); err != nil {
					t.Error(err)
					return
				}
			}
			// The last event of each writer tells the readers when they have read all.
			if err := f.signOut(ctx, ids[w%owners]); err != nil {
				t.Error(err)
			}
		})
	}
	feeds := make([][]events.Logged, 2*owners)
	for n := range feeds {
		reading.Go(func() {
			r := rand.New(rand.NewPCG(2, uint64(n)))
			for after, ended := int64(-1), 0; ended < writersOfEach && ctx.Err() == nil; {
				more, err := readSome(ctx, stores[r.IntN(2)], ids[n%owners], after, r.IntN(30), &ended, writersOfEach)
				if err != nil {
					t.Error(err)
					return
				}
				if len(more) > 0 {
					after = more[len(more)-1].Index
				}
				feeds[n] = append(feeds[n], more...)
			}
		})
	}
	writing.Wait()
	reading.Wait()
	stop()
	running.Wait()
	for n, feed := range feeds {
		if diff := cmp.Diff(f.expected(t, ids[n%owners]), places(feed)); diff != "" {
			t.Errorf("reader %d: %s", n, diff)
		}
		last := map[events.Stream]int{}
		for _, e := range feed {
			if e.Version != last[e.Stream]+1 {
				t.Errorf("reader %d: %s@%d follows version %d", n, e.Stream, e.Version, last[e.Stream])
			}
			last[e.Stream] = e.Version
		}
	}
}

var errRollback = errors.New("rolled back")

// writeSome runs one transaction that appends to the owner's account and to a new job, waits,
// and commits or rolls back.
func (f *fixture) writeSome(ctx context.Context, r *rand.Rand, owner uuid.UUID) error {
	err := f.Write(ctx, func(tx *events.Tx) error {
		job := events.Job{ID: uuid.Must(uuid.NewV7()), Owner: owner}
		facts := completedFacts()
		_, err := tx.AppendJob(ctx, job, facts[:1+r.IntN(len(facts))]...)
		if err == nil && r.IntN(2) == 0 {
			_, err = tx.Exec(ctx, `select pg_sleep($1)`, r.Float64()/50)
		}
		if err == nil && r.IntN(2) == 0 {
			err = tx.AppendAccount(ctx, owner, events.AccountSignInFailed{})
		}
		if err == nil && r.IntN(8) == 0 {
			err = errRollback
		}
		return err
	})
	if errors.Is(err, errRollback) {
		return nil
	}
	return err
}

func (f *fixture) signOut(ctx context.Context, owner uuid.UUID) error {
	return f.Write(ctx, func(tx *events.Tx) error {
		return tx.AppendAccount(ctx, owner, events.AccountSignedOut{Session: uuid.New()})
	})
}

// readSome follows a feed for at least the given number of events, and counts the writers
// that have ended.
func readSome(ctx context.Context, s *events.Store, owner uuid.UUID, after int64, least int, ended *int, writers int) (feed []events.Logged, err error) {
	for batch, err := range s.FollowFeed(ctx, owner, after, time.Minute) {
		if err != nil {
			return feed, err
		}
		for _, e := range batch {
			if _, ok := e.Fact.(events.AccountSignedOut); ok {
				*ended++
			}
		}
		feed = append(feed, batch...)
		if len(feed) > least || *ended == writers {
			break
		}
	}
	return feed, nil
}

// TestFeedReadsOnlyItsPage asks for the plan of the query in a log of many events. The plan
// must read the owner's entries by their index, and no table as a whole.
func TestFeedReadsOnlyItsPage(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, err := f.db.Owner.Exec(t.Context(), `
		insert into events (stream, version, owner, type, at, schema, payload)
		select 'account/' || gen_random_uuid(), 1, case when n % 100 = 0 then $1 else gen_random_uuid() end, 'test', now(), 2, n::text::bytea
		from generate_series(1, 20000) as n`, f.owner)
	if err != nil {
		t.Fatal(err)
	}
	f.sequence(t)
	if _, err := f.db.Owner.Exec(t.Context(), `analyze events, log_entries`); err != nil {
		t.Fatal(err)
	}
	for _, after := range []int64{-1, 10_000, 19_990} {
		var plan json.RawMessage
		err = f.db.App.QueryRow(t.Context(), `explain (analyze, format json) `+events.FeedQuery, f.owner, after, 50).Scan(&plan)
		if err != nil {
			t.Fatal(err)
		}
		text := string(plan)
		if !strings.Contains(text, "log_entries_of_owner") || !strings.Contains(text, "events_by_position") || strings.Contains(text, `"Seq Scan"`) {
			t.Errorf("after %d: %s", after, text)
		}
		if most := mostRows(t, plan); most > 50 {
			t.Errorf("after %d: a step of the plan reads %v rows: %s", after, most, text)
		}
	}
}

// planStep is a step of a plan that Postgres explains with its counts.
type planStep struct {
	Index   string  `json:"Index Name"`
	Rows    float64 `json:"Actual Rows"`
	Removed float64 `json:"Rows Removed by Filter"`
	Hit     float64 `json:"Shared Hit Blocks"`
	Read    float64 `json:"Shared Read Blocks"`
	Plans   []planStep
}

// planSteps returns all steps of a plan.
func planSteps(t *testing.T, plan json.RawMessage) (steps []planStep) {
	t.Helper()
	var tops []struct{ Plan planStep }
	if err := json.Unmarshal(plan, &tops); err != nil {
		t.Fatal(err)
	}
	steps = append(steps, tops[0].Plan)
	for i := 0; i < len(steps); i++ {
		steps = append(steps, steps[i].Plans...)
	}
	return steps
}

// mostRows returns the largest number of rows of a step of a plan, those included that a
// filter has removed.
func mostRows(t *testing.T, plan json.RawMessage) (most float64) {
	t.Helper()
	for _, s := range planSteps(t, plan) {
		most = max(most, s.Rows+s.Removed)
	}
	return most
}

// TestFeedShowsDamagedEvents damages an event of a job. The feed must name it and go on.
func TestFeedShowsDamagedEvents(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j, err := f.put(t.Context(), f.newJob(), completedFacts()...)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.signOut(t.Context(), f.owner); err != nil {
		t.Fatal(err)
	}
	f.sequence(t)
	f.alter(t, events.JobStream(j.ID), 2, func(payload string) string { return payload[1:] })
	feed, err := f.Feed(t.Context(), f.owner, -1, events.FeedPage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f.expected(t, f.owner), places(feed)); diff != "" {
		t.Error(diff)
	}
	for _, e := range feed {
		if damaged := e.Stream == events.JobStream(j.ID) && e.Version == 2; e.Damaged != damaged || (e.Fact == nil) != damaged || e.Type == "" || e.At.IsZero() {
			t.Errorf("%+v", e)
		}
	}
	if diff := cmp.Diff([]events.Stream{events.JobStream(j.ID)}, f.quarantine(t)); diff != "" {
		t.Error(diff)
	}
}

// TestFeedEndsWhenTheLogIsShorter removes entries that a reader has seen.
func TestFeedEndsWhenTheLogIsShorter(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.sequence(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got error
	for batch, err := range f.FollowFeed(ctx, f.owner, -1, time.Minute) {
		got = err
		if len(batch) == 0 {
			continue
		}
		if batch[0].Index < 2 {
			if err := f.signOut(ctx, f.owner); err != nil {
				t.Fatal(err)
			}
			f.sequence(t)
			continue
		}
		// The reader was woken twice. The first time, the store may not have known the end
		// of the log yet. The second time, it has seen the entry 1.
		f.db.Damage(t, `delete from log_entries where idx >= 1`)
	}
	if !errors.Is(got, events.ErrLogShorter) {
		t.Errorf("got %v", got)
	}
}

// queryCount counts the queries of a pool that contain a text.
type queryCount struct {
	text string
	mu   sync.Mutex
	n    int
}

func (c *queryCount) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if strings.Contains(data.SQL, c.text) {
		c.n++
	}
	return ctx
}

func (*queryCount) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (c *queryCount) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// TestEventsWakeOnlyTheirReaders lets readers of many owners wait at another process. After
// events of one owner, only the readers of this owner may query their feed.
func TestEventsWakeOnlyTheirReaders(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	queries := &queryCount{text: "as page"}
	config := f.db.App.Config()
	config.ConnConfig.Tracer = queries
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	elsewhere := events.NewStore(pool, f.vault, slog.New(slog.DiscardHandler))
	run(t, elsewhere)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const others = 20
	var waiting sync.WaitGroup
	quiet := make(chan struct{}, others)
	follow := func(owner uuid.UUID, seen chan<- struct{}) {
		waiting.Go(func() {
			first := true
			for range elsewhere.FollowFeed(ctx, owner, -1, 20*time.Millisecond) {
				if first {
					seen <- struct{}{}
				}
				first = false
			}
		})
	}
	for range others {
		follow(uuid.New(), quiet)
	}
	for range others {
		<-quiet
	}
	reader := make(chan int64, 100)
	waiting.Go(func() {
		for batch := range elsewhere.FollowFeed(ctx, f.owner, -1, time.Minute) {
			for _, e := range batch {
				reader <- e.Index
			}
		}
	})
	f.sequence(t)
	if index := <-reader; index != 0 {
		t.Errorf("the first event has the index %d", index)
	}
	// From now on, the process has seen the log, and no reader needs a first query.
	before := queries.count()
	const more = 5
	for i := range more {
		if err := f.signOut(ctx, f.owner); err != nil {
			t.Fatal(err)
		}
		f.sequence(t)
		if index := <-reader; index != int64(i+1) {
			t.Errorf("event %d has the index %d", i+1, index)
		}
	}
	// The first check after the readers have joined may wake all of them once.
	if n := queries.count() - before; n > 2*more+others+1 {
		t.Errorf("%d queries of feeds for %d events of one owner", n, more)
	}
	cancel()
	waiting.Wait()
}

// TestFeedNeedsNoAnnouncement never announces the growth of the log.
func TestFeedNeedsNoAnnouncement(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	sequencer := ledger.NewSequencer(f.db.App, slog.New(slog.DiscardHandler))
	var got []string
	for batch, err := range f.FollowFeed(ctx, f.owner, -1, 10*time.Millisecond) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range batch {
			got = append(got, fmt.Sprintf("%d %s", e.Index, e.Type))
		}
		if len(got) > 0 {
			break
		}
		if _, err := sequencer.Pass(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"0 account.registered"}, got); diff != "" {
		t.Error(diff)
	}
}
