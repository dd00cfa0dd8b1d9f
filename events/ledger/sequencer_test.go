package ledger_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/tlog"

	"colophon/events/ledger"
	"colophon/internal/pg/pgtest"
	"colophon/migrations"
)

// event identifies an event.
type event struct {
	stream  string
	version int
}

// sequence is what one reader has read, in the order in which it was read.
type sequence []event

// faults returns what is wrong with a sequence that should contain the given number of
// events, each once, and those of each stream in order.
func (s sequence) faults(events int) (faults []string) {
	last := map[string]int{}
	for i, e := range s {
		if e.version != last[e.stream]+1 {
			faults = append(faults, fmt.Sprintf("%s@%d at index %d, after version %d", e.stream, e.version, i, last[e.stream]))
		}
		last[e.stream] = e.version
	}
	if len(s) != events {
		faults = append(faults, fmt.Sprintf("%d events, want %d", len(s), events))
	}
	return faults
}

// reader returns the events that follow those that it has returned before.
type reader func(ctx context.Context, db *pgxpool.Pool) (sequence, error)

func collect(rows pgx.Rows) (sequence, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (event, error) {
		var e event
		err := row.Scan(&e.stream, &e.version)
		return e, err
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
		var e event
		_, err = pgx.ForEachRow(rows, []any{&e.stream, &e.version, &last}, func() error {
			read = append(read, e)
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
		var e event
		_, err = pgx.ForEachRow(rows, []any{&e.stream, &e.version, &tx, &last}, func() error {
			read = append(read, e)
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
	if err != nil || p != (ledger.Pass{Leading: true, Added: added, Size: size}) {
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
	// The server would end a transaction that is idle for 3 s.
	if _, err := tx.Exec(t.Context(), `set local idle_in_transaction_session_timeout = 0`); err != nil {
		t.Fatal(err)
	}
	return tx
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// eventually polls a condition, for at most a minute. It is for conditions of the database
// that no event announces, such as a statement that waits for a lock.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened: %s", what)
		}
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
	mustHaveSubtrees(t, db, 3)
	if read := readAll(t, db); len(read.faults(1000)) > 0 {
		t.Error(read.faults(1000))
	}
}

// mustHaveSubtrees fails the test unless the database has the given number of complete
// subtrees, all of level 1, with the hashes that x/mod computes from the payloads.
func mustHaveSubtrees(t *testing.T, db *pgtest.DB, want int) {
	t.Helper()
	rows, _ := db.App.Query(t.Context(), `select payload from events join log_entries using (position) order by idx`)
	payloads, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	must(t, err)
	var oracle ledger.StoredHashes
	for i, payload := range payloads {
		entry := sha256.Sum256(payload)
		more, err := tlog.StoredHashes(int64(i), entry[:], oracle)
		must(t, err)
		oracle = append(oracle, more...)
	}
	rows, _ = db.App.Query(t.Context(), `select level, n, hash from log_nodes order by level, n`)
	var level int
	var n int64
	var hash []byte
	found := 0
	_, err = pgx.ForEachRow(rows, []any{&level, &n, &hash}, func() error {
		if root := oracle[tlog.StoredHashIndex(8, n)]; level != 1 || n != int64(found) || !bytes.Equal(hash, root[:]) {
			t.Errorf("subtree %d of level %d has the hash %x, want %x", n, level, hash, root[:])
		}
		found++
		return nil
	})
	must(t, err)
	if found != want {
		t.Errorf("%d complete subtrees, want %d", found, want)
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
		if p, err := second.Pass(t.Context()); err != nil || p.Leading || p.Added != 0 {
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

// TestServiceCannotSpoilTheLog writes to the log with the rights of the service. Only
// entries that follow the log and have the hash of an event may be added.
func TestServiceCannotSpoilTheLog(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	for range 3 {
		commit(t, db, newStream(), 1)
	}
	s := newSequencer(db)
	s.SetLimit(1)
	mustPass(t, s, 1, 1)
	const entry = `insert into log_entries (idx, position, owner, hash) select $1::int, position, owner, sha256(payload) from events where position = 2`
	for _, spoil := range []string{
		strings.Replace(entry, "$1", "2", 1),                                // a gap
		strings.Replace(entry, "$1", "0", 1),                                // an index again
		strings.Replace(entry, "payload", "payload || '-'", 1),              // another hash
		strings.Replace(entry, " owner, sha", " gen_random_uuid(), sha", 1), // another owner
		strings.Replace(entry, "position,", "position + 9,", 1),             // no such event
		strings.Replace(entry, "position = 2", "position <= 3", 1),          // one index for all
		`update log_entries set idx = 7`, `delete from log_entries`, `delete from log_nodes`,
		`update log_state set low = 0`, `update log_state set low = 4`, `delete from log_state`,
	} {
		if _, err := db.App.Exec(t.Context(), strings.Replace(spoil, "$1", "1", 1)); err == nil {
			t.Errorf("accepted: %s", spoil)
		}
	}
	mustPass(t, s, 1, 2)
	mustPass(t, s, 1, 3)
	if faults := readAll(t, db).faults(3); len(faults) > 0 {
		t.Error(faults)
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
