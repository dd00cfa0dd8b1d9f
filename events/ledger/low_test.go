package ledger_test

import (
	"context"
	"testing"

	"colophon/internal/pg/pgtest"
	"colophon/migrations"
)

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

// A database may have another default isolation level than read committed. A pass is held up
// between its first two statements while an event is committed. It must see that event.
func TestEachStatementOfAPassSeesWhatIsCommitted(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	_, err := db.Owner.Exec(t.Context(), `do $$ begin
		execute format('alter database %I set default_transaction_isolation = %L', current_database(), 'repeatable read'); end $$`)
	must(t, err)
	db.App.Reset()
	s := newSequencer(db)
	late := begin(t, db)
	must(t, insert(t.Context(), late, newStream(), 1))
	commit(t, db, newStream(), 1)
	hold, err := db.Owner.Begin(t.Context())
	must(t, err)
	_, err = hold.Exec(t.Context(), `lock table log_state in access exclusive mode`)
	must(t, err)
	added := make(chan int, 1)
	go func() {
		p, _ := s.Pass(context.WithoutCancel(t.Context()))
		added <- p.Added
	}()
	eventually(t, "the pass waits for the table", func() (waiting bool) {
		must(t, db.Owner.QueryRow(t.Context(), `select exists (select from pg_locks where relation = 'log_state'::regclass and not granted)`).Scan(&waiting))
		return waiting
	})
	must(t, late.Commit(t.Context()), hold.Rollback(t.Context()))
	if n := <-added; n != 2 {
		t.Errorf("%d events added, want 2", n)
	}
	mustPass(t, s, 0, 2)
}

// A prepared transaction has no backend any more, and may still be committed.
func TestPreparedTransactionsAreWaitedFor(t *testing.T) {
	t.Parallel()
	server, db := newServer(t)
	server.Set("max_prepared_transactions", "2")
	server.Stop()
	server.Start()
	db.App.Reset()
	s := newSequencer(db)
	late := begin(t, db)
	must(t, insert(t.Context(), late, newStream(), 1))
	commit(t, db, newStream(), 1)
	mustPass(t, s, 1, 1)
	_, err := late.Exec(t.Context(), `prepare transaction 'late'`)
	must(t, err)
	for size := range int64(3) {
		commit(t, db, newStream(), 1)
		mustPass(t, s, 1, size+2)
	}
	if got := low(t, db); got != 0 {
		t.Errorf("low is %d while the event at position 1 may be committed", got)
	}
	_, err = db.App.Exec(t.Context(), `commit prepared 'late'`)
	must(t, err)
	mustPass(t, s, 1, 5)
	if got := low(t, db); got != 5 {
		t.Errorf("low is %d, want 5", got)
	}
}
