package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events/ledger"
	"colophon/internal/pg/pgtest"
	"colophon/migrations"
)

// place is the place of an event in its stream.
type place struct {
	stream  string
	version int
}

// sequence is what one reader has read, in the order in which it was read.
type sequence []place

// faults returns what is wrong with a sequence that should contain the given number of
// events, each once, and those of each stream in order.
func (s sequence) faults(events int) (faults []string) {
	last := map[string]int{}
	for i, p := range s {
		if p.version != last[p.stream]+1 {
			faults = append(faults, fmt.Sprintf("%s@%d at index %d, after version %d", p.stream, p.version, i, last[p.stream]))
		}
		last[p.stream] = p.version
	}
	if len(s) != events {
		faults = append(faults, fmt.Sprintf("%d events, want %d", len(s), events))
	}
	return faults
}

// reader returns the events that follow those that it has returned before.
type reader func(ctx context.Context, db *pgxpool.Pool) (sequence, error)

func collect(rows pgx.Rows) (sequence, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (place, error) {
		var p place
		err := row.Scan(&p.stream, &p.version)
		return p, err
	})
}

// byIndex reads in the order of the log.
func byIndex() reader {
	next := 0
	return func(ctx context.Context, db *pgxpool.Pool) (sequence, error) {
		rows, _ := db.Query(ctx, `select stream, version from events join log_entries using (position) where idx >= $1 order by idx limit 100`, next)
		read, err := collect(rows)
		next += len(read)
		return read, err
	}
}

// byPosition is a reader that is wrong: it misses an event that is committed after an event
// of a later position was read.
func byPosition() reader {
	last := int64(0)
	return func(ctx context.Context, db *pgxpool.Pool) (read sequence, err error) {
		rows, _ := db.Query(ctx, `select stream, version, position from events where position > $1 order by position`, last)
		var p place
		_, err = pgx.ForEachRow(rows, []any{&p.stream, &p.version, &last}, func() error {
			read = append(read, p)
			return nil
		})
		return read, err
	}
}

// byTransaction is a reader that is wrong: a transaction that has its id before it waits for
// a stream comes before the transaction that it has waited for.
func byTransaction() reader {
	tx, last := "0", int64(0)
	return func(ctx context.Context, db *pgxpool.Pool) (read sequence, err error) {
		rows, _ := db.Query(ctx, `select stream, version, tx::text, position from events
			where (tx, position) > ($1::xid8, $2) and tx < pg_snapshot_xmin(pg_current_snapshot()) order by tx, position`, tx, last)
		var p place
		_, err = pgx.ForEachRow(rows, []any{&p.stream, &p.version, &tx, &last}, func() error {
			read = append(read, p)
			return nil
		})
		return read, err
	}
}

func newSequencer(db *pgtest.DB) *ledger.Sequencer { return newSequencerOf(db.App) }

func newSequencerOf(pool *pgxpool.Pool) *ledger.Sequencer {
	return ledger.NewSequencer(pool, slog.New(slog.DiscardHandler))
}

func mustPass(t *testing.T, s *ledger.Sequencer, added int, size int64) {
	t.Helper()
	p, err := s.Pass(t.Context())
	if err != nil || p != (ledger.Pass{Alone: true, Added: added, Size: size}) {
		t.Fatalf("pass: %+v, %v, want %d events added and a size of %d", p, err, added, size)
	}
}

// insert adds the next version to a stream.
func insert(ctx context.Context, tx pgx.Tx, stream string, version int) error {
	_, err := tx.Exec(ctx, `insert into events (stream, version, owner, type, at, schema, payload) values ($1, $2, $3, 'test', now(), 2, $4)`,
		stream, version, uuid.Nil, fmt.Appendf(nil, "%s@%d", stream, version))
	return err
}

func newStream() string { return "account/" + uuid.NewString() }

// begin starts a transaction, which is rolled back at the end of the test at the latest.
func begin(t *testing.T, db *pgtest.DB) pgx.Tx {
	t.Helper()
	tx, err := db.App.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestOtherOrdersLoseOrReorderEvents runs transactions that overlap. The reader by index must
// read all events in order. The two readers that look simpler must each fail, which also
// shows that the checks of the property test can fail.
func TestOtherOrdersLoseOrReorderEvents(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	s := newSequencer(db)
	readers := map[string]reader{"index": byIndex(), "position": byPosition(), "transaction": byTransaction()}
	read := map[string]sequence{}
	step := func() {
		t.Helper()
		if _, err := s.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		for name, next := range readers {
			more, err := next(t.Context(), db.App)
			if err != nil {
				t.Fatal(err)
			}
			read[name] = append(read[name], more...)
		}
	}
	a, b, shared := newStream(), newStream(), newStream()
	// The first transaction inserts early and commits late.
	late, early := begin(t, db), begin(t, db)
	must(t, insert(t.Context(), late, a, 1), insert(t.Context(), early, b, 1), early.Commit(t.Context()))
	step()
	must(t, late.Commit(t.Context()))
	step()
	// The first transaction has an id early and inserts late.
	old, young := begin(t, db), begin(t, db)
	_, err := old.Exec(t.Context(), `select pg_current_xact_id()`)
	must(t, err, insert(t.Context(), young, shared, 1), young.Commit(t.Context()), insert(t.Context(), old, shared, 2))
	step()
	must(t, old.Commit(t.Context()))
	step()
	for name, wantFaults := range map[string]bool{"index": false, "position": true, "transaction": true} {
		if faults := read[name].faults(4); len(faults) > 0 != wantFaults {
			t.Errorf("by %s: faults %v, want faults: %v", name, faults, wantFaults)
		}
	}
}

// TestRolledBackEventsLeaveNoGap rolls back transactions between committed ones.
func TestRolledBackEventsLeaveNoGap(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	s := newSequencer(db)
	stream := newStream()
	for version := 1; version <= 3; version++ {
		aborted := begin(t, db)
		must(t, insert(t.Context(), aborted, stream, version), aborted.Rollback(t.Context()))
		committed := begin(t, db)
		must(t, insert(t.Context(), committed, stream, version), committed.Commit(t.Context()))
		mustPass(t, s, 1, int64(version))
	}
	mustPass(t, s, 0, 3)
	if read, err := byIndex()(t.Context(), db.App); err != nil || len(read.faults(3)) > 0 {
		t.Errorf("%v, %v", read.faults(3), err)
	}
}

// low returns the position up to which the sequencer looks at no event any more.
func low(t *testing.T, db *pgtest.DB) (low int64) {
	t.Helper()
	must(t, db.App.QueryRow(t.Context(), `select low from log_state`).Scan(&low))
	return low
}

// An open transaction of another program must not stop events from getting their index, and
// must not stop the sequencer from forgetting old positions.
func TestForeignTransactionsDelayNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	s := newSequencer(db)
	foreign := begin(t, db)
	_, err := foreign.Exec(t.Context(), `select pg_current_xact_id() from events`)
	must(t, err)
	stream := newStream()
	for version := 1; version <= 4; version++ {
		tx := begin(t, db)
		must(t, insert(t.Context(), tx, stream, version), tx.Commit(t.Context()))
		mustPass(t, s, 1, int64(version))
		if got := low(t, db); got != int64(version) {
			t.Errorf("low is %d, want %d", got, version)
		}
	}
}

// A transaction that inserts early and commits late must find low before its position, while
// other transactions insert and commit.
func TestLateEventsAreNeverPassedBy(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	s := newSequencer(db)
	add := func() {
		t.Helper()
		tx := begin(t, db)
		must(t, insert(t.Context(), tx, newStream(), 1), tx.Commit(t.Context()))
	}
	late, later := begin(t, db), begin(t, db)
	must(t, insert(t.Context(), late, newStream(), 1))
	for size := range int64(3) {
		add()
		mustPass(t, s, 1, size+1)
	}
	must(t, insert(t.Context(), later, newStream(), 1))
	add()
	must(t, late.Commit(t.Context()))
	mustPass(t, s, 2, 5)
	if got := low(t, db); got < 1 || got > 4 {
		t.Errorf("low is %d, want a position after the first transaction's event and before position 5, which is not committed", got)
	}
	must(t, later.Commit(t.Context()))
	mustPass(t, s, 1, 6)
	if got := low(t, db); got != 6 {
		t.Errorf("low is %d, want 6", got)
	}
	if faults := readAll(t, db).faults(6); len(faults) > 0 {
		t.Error(faults)
	}
}

// TestEventsOfEarlierReleasesAreSequencedInBatches starts a sequencer on a table with many
// events and no index. Low must move with the batches, so that each batch costs the same.
func TestEventsOfEarlierReleasesAreSequencedInBatches(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	stream := newStream()
	_, err := db.Owner.Exec(t.Context(), `
		insert into events (stream, version, owner, type, at, schema, payload)
		select $1, version, gen_random_uuid(), 'test', now(), 1, convert_to('event ' || version, 'UTF8') from generate_series(1, 1000) as version`, stream)
	must(t, err)
	s := newSequencer(db)
	s.SetLimit(100)
	for batch := range int64(10) {
		mustPass(t, s, 100, 100*(batch+1))
		if got := low(t, db); got != 100*(batch+1) {
			t.Errorf("low is %d after %d batches of 100 events", got, batch+1)
		}
	}
	mustPass(t, s, 0, 1000)
	if read := readAll(t, db); len(read.faults(1000)) > 0 {
		t.Error(read.faults(1000))
	}
}

func readAll(t *testing.T, db *pgtest.DB) (all sequence) {
	t.Helper()
	for next := byIndex(); ; {
		more, err := next(t.Context(), db.App)
		must(t, err)
		if len(more) == 0 {
			return all
		}
		all = append(all, more...)
	}
}

// TestOneSequencerWorksAtATime holds a pass before its commit. Another sequencer must do
// nothing meanwhile, and go on after the pass has ended or was rolled back.
func TestOneSequencerWorksAtATime(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	first, second := newSequencer(db), newSequencer(db)
	size := int64(0)
	for _, end := range []error{nil, errors.New("killed")} {
		tx := begin(t, db)
		must(t, insert(t.Context(), tx, newStream(), 1), tx.Commit(t.Context()))
		held, release, done := make(chan struct{}), make(chan struct{}), make(chan error)
		first.SetBeforeCommit(func(int) error {
			close(held)
			<-release
			return end
		})
		go func() {
			_, err := first.Pass(context.WithoutCancel(t.Context()))
			done <- err
		}()
		<-held
		if p, err := second.Pass(t.Context()); err != nil || p.Alone || p.Added != 0 {
			t.Errorf("a second sequencer: %+v, %v, want nothing", p, err)
		}
		close(release)
		if err := <-done; !errors.Is(err, end) {
			t.Fatal(err)
		}
		size++
		added := 0
		if end != nil {
			added = 1
		}
		mustPass(t, second, added, size)
	}
}

// TestLogIsDenseUnderLoad is the property test: many writers, some of which roll back, wait
// before their commit, or write elsewhere before they lock a stream; two sequencers that are
// killed again and again; and readers. Each reader must read each committed event once,
// without a gap, and the events of each stream in order.
func TestLogIsDenseUnderLoad(t *testing.T) {
	t.Parallel()
	const writers, sequencers, readers = 64, 2, 8
	transactions := 12
	if testing.Short() {
		transactions = 2
	}
	db := pgtest.New(t, migrations.Up)
	config := db.App.Config()
	config.MaxConns = 24
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	must(t, err)
	defer pool.Close()
	shared := make([]string, 12) // the streams to which all writers append
	for i := range shared {
		shared[i] = newStream()
	}
	var committed atomic.Int64
	var writing, running sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			for range transactions {
				n, err := write(t.Context(), pool, r, shared)
				if err != nil {
					t.Error(err)
					return
				}
				committed.Add(int64(n))
			}
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var done atomic.Bool // all events are committed and in the log
	for n := range sequencers {
		running.Go(func() { runSequencer(ctx, t, pool, rand.New(rand.NewPCG(2, uint64(n)))) })
	}
	read := make([]sequence, readers)
	for n := range readers {
		running.Go(func() {
			for next := byIndex(); ; {
				finished := done.Load()
				more, err := next(t.Context(), pool)
				if err != nil {
					t.Error(err)
					return
				}
				read[n] = append(read[n], more...)
				if finished && len(more) == 0 {
					return
				}
			}
		})
	}
	writing.Wait()
	want := int(committed.Load())
	s := newSequencerOf(pool)
	for deadline := time.Now().Add(time.Minute); ; {
		p, err := s.Pass(t.Context())
		if err != nil || time.Now().After(deadline) {
			t.Errorf("%d of %d events are in the log, %v", p.Size, want, err)
			break
		}
		if p.Alone && p.Added == 0 && p.Size >= int64(want) {
			break
		}
	}
	stop()
	done.Store(true)
	running.Wait()
	for n, s := range read {
		if faults := s.faults(want); len(faults) > 0 {
			t.Errorf("reader %d: %d faults, such as %s", n, len(faults), faults[0])
		}
	}
	var stored int
	must(t, pool.QueryRow(t.Context(), `select count(*) from events`).Scan(&stored))
	if stored != want {
		t.Errorf("%d events are stored, the writers have committed %d", stored, want)
	}
}

// write runs one transaction that appends a few events, and returns how many it has
// committed.
func write(ctx context.Context, pool *pgxpool.Pool, r *rand.Rand, shared []string) (events int, err error) {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	pause := func() {
		if r.IntN(2) == 0 {
			_, err = tx.Exec(ctx, `select pg_sleep($1)`, r.Float64()/100)
		}
	}
	if r.IntN(2) == 0 { // the transaction gets its id before it waits for a stream
		_, err = tx.Exec(ctx, `select pg_current_xact_id()`)
		pause()
	}
	stream := shared[r.IntN(len(shared))]
	own := newStream()
	var version int
	if err == nil {
		_, err = tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended($1, 0))`, stream)
	}
	if err == nil {
		err = tx.QueryRow(ctx, `select coalesce(max(version), 0) from events where stream = $1`, stream).Scan(&version)
	}
	for n := range 1 + r.IntN(3) {
		if err == nil {
			err = insert(ctx, tx, stream, version+n+1)
		}
		if err == nil {
			err = insert(ctx, tx, own, n+1)
		}
		events += 2
		pause()
	}
	if err != nil || r.IntN(10) == 0 {
		return 0, err
	}
	return events, tx.Commit(ctx)
}

// runSequencer runs a sequencer until ctx ends. Some of its passes are killed before their
// commit, and others while they run. After that, a new sequencer goes on.
func runSequencer(ctx context.Context, t *testing.T, pool *pgxpool.Pool, r *rand.Rand) {
	killed := errors.New("killed")
	start := func() *ledger.Sequencer {
		s := newSequencerOf(pool)
		s.SetLimit(1 + r.IntN(40))
		s.SetBeforeCommit(func(int) error {
			if r.IntN(4) == 0 {
				return killed
			}
			return nil
		})
		return s
	}
	for s := start(); ctx.Err() == nil; {
		pass, cancel := context.WithCancel(ctx)
		if r.IntN(6) == 0 {
			time.AfterFunc(time.Duration(r.IntN(5))*time.Millisecond, cancel)
		}
		_, err := s.Pass(pass)
		interrupted := pass.Err() != nil
		cancel()
		if err != nil && !errors.Is(err, killed) && !interrupted {
			t.Error(err)
			return
		}
		if err != nil && r.IntN(2) == 0 {
			s = start()
		}
	}
}

// TestLagIsTheAgeOfTheOldestEventWithoutAnIndex gives two events a time in the past.
func TestLagIsTheAgeOfTheOldestEventWithoutAnIndex(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	mustLag := func(least, most time.Duration) {
		t.Helper()
		lag, err := ledger.Lag(t.Context(), db.App)
		if err != nil || lag < least || lag > most {
			t.Errorf("lag %s, %v, want %s to %s", lag, err, least, most)
		}
	}
	s := newSequencer(db)
	s.SetLimit(1)
	mustLag(0, 0)
	for _, minutes := range []int{20, 10} {
		_, err := db.App.Exec(t.Context(), `insert into events (stream, version, owner, type, at, schema, payload)
			values ($1, 1, gen_random_uuid(), 'test', clock_timestamp() - $2::interval, 2, '')`, newStream(), time.Duration(minutes)*time.Minute)
		must(t, err)
	}
	mustLag(20*time.Minute, 22*time.Minute)
	mustPass(t, s, 1, 1)
	mustLag(10*time.Minute, 12*time.Minute)
	mustPass(t, s, 1, 2)
	mustLag(0, 0)
}
