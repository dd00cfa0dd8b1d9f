package ledger_test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events/ledger"
	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
	"colophon/migrations"
)

// connect returns a pool of the service's role on the server.
func connect(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pg.Connect(t.Context(), url, pgtest.AppRole)
	must(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// newServer returns a migrated server of the test's own, and a database on it.
func newServer(t *testing.T) (*pgtest.Server, *pgtest.DB) {
	t.Helper()
	server := pgtest.NewServer(t)
	owner, err := pg.Connect(t.Context(), server.URL(), "")
	must(t, err)
	t.Cleanup(owner.Close)
	must(t, migrations.Up(t.Context(), owner))
	return server, &pgtest.DB{URL: server.URL(), Owner: owner, App: connect(t, server.URL())}
}

// commit appends the next version of a stream.
func commit(t *testing.T, db *pgtest.DB, stream string, version int) {
	t.Helper()
	tx := begin(t, db)
	must(t, insert(t.Context(), tx, stream, version), tx.Commit(t.Context()))
}

// mustContinue appends events to a stream that ends at a version, in a database that was
// moved. The sequencer may have run on the database before the move. The log must go on
// without a gap.
func mustContinue(t *testing.T, s *ledger.Sequencer, db *pgtest.DB, stream string, version int) {
	t.Helper()
	late := begin(t, db)
	must(t, insert(t.Context(), late, newStream(), 1))
	for n := range 3 {
		commit(t, db, stream, version+n+1)
		if _, err := s.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	must(t, late.Commit(t.Context()))
	if p, err := s.Pass(t.Context()); err != nil || p.Size != int64(version)+4 {
		t.Errorf("%+v, %v, want a log of %d events", p, err, version+4)
	}
	if faults := readAll(t, db).faults(version + 4); len(faults) > 0 {
		t.Error(faults)
	}
}

// TestLogGoesOnInARestoredDatabase restores a dump into a new server, whose transaction ids
// are smaller and whose sequences were set. The dump has events with and without an index.
func TestLogGoesOnInARestoredDatabase(t *testing.T) {
	t.Parallel()
	old, db := newServer(t)
	for range 200 { // the transaction ids of the old server are greater than those of the new one
		_, err := db.App.Exec(t.Context(), `select pg_current_xact_id()`)
		must(t, err)
	}
	s := newSequencer(db)
	stream := newStream()
	for version := 1; version <= 5; version++ {
		commit(t, db, stream, version)
		if version <= 3 {
			mustPass(t, s, 1, int64(version))
		}
	}
	restored, moved := newServer(t)
	moved.App.Close()
	moved.Owner.Close()
	dump := filepath.Join(t.TempDir(), "dump")
	for _, args := range [][]string{
		{"pg_dump", "--format=custom", "--file=" + dump, old.URL()},
		{"pg_restore", "--clean", "--if-exists", "--exit-on-error", "--dbname=" + restored.URL(), dump},
	} {
		out, err := exec.CommandContext(t.Context(), pgtest.Program(t, old.URL(), args[0]), args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", args[0], err, out)
		}
	}
	moved.App = connect(t, restored.URL())
	mustContinue(t, newSequencer(moved), moved, stream, 5)
}

// TestLogGoesOnAfterAPromotion kills a primary and promotes its synchronous standby. The
// sequencer of the old primary has seen events and transactions there, and goes on with the
// standby.
func TestLogGoesOnAfterAPromotion(t *testing.T) {
	t.Parallel()
	primary, db := newServer(t)
	standby := primary.Standby()
	primary.WaitForStandby()
	stream := newStream()
	s := newSequencer(db)
	for version := 1; version <= 5; version++ {
		commit(t, db, stream, version)
		if version <= 3 {
			mustPass(t, s, 1, int64(version))
		}
	}
	open := begin(t, db) // holds back low, and ends with the primary
	must(t, insert(t.Context(), open, newStream(), 1))
	mustPass(t, s, 2, 5)
	primary.Kill()
	standby.Promote()
	promoted := &pgtest.DB{URL: standby.URL(), App: connect(t, standby.URL())}
	s.SetPool(promoted.App)
	mustContinue(t, s, promoted, stream, 5)
}

// TestRunGoesOnAfterACrashOfTheServer runs a sequencer while the server crashes.
func TestRunGoesOnAfterACrashOfTheServer(t *testing.T) {
	t.Parallel()
	server, db := newServer(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		newSequencer(db).Run(ctx)
	}()
	stream := newStream()
	mustIndex := func(version int) {
		t.Helper()
		commit(t, db, stream, version)
		eventually(t, fmt.Sprintf("the log has %d events", version), func() bool {
			var size int
			must(t, db.App.QueryRow(t.Context(), `select count(*) from log_entries`).Scan(&size))
			return size == version
		})
	}
	mustIndex(1)
	server.Crash()
	server.Start()
	db.App.Reset()
	mustIndex(2)
	stop()
	<-ended
}
