package pgtest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/pg/pgtest"
)

var migrations atomic.Int32

func migrate(ctx context.Context, pool *pgxpool.Pool) error {
	migrations.Add(1)
	_, err := pool.Exec(ctx, `
		DO $$ BEGIN CREATE ROLE colophon_app NOLOGIN; EXCEPTION WHEN duplicate_object THEN END $$;
		CREATE TABLE notes (id bigint GENERATED ALWAYS AS IDENTITY, body text);
		GRANT SELECT, INSERT ON notes TO colophon_app;`)
	return err
}

func TestEachTestHasItsOwnDatabase(t *testing.T) {
	for _, name := range []string{"a", "b", "c"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, migrate)
			if _, err := db.App.Exec(t.Context(), `INSERT INTO notes (body) VALUES ($1)`, name); err != nil {
				t.Fatal(err)
			}
			var n int
			if err := db.Owner.QueryRow(t.Context(), `SELECT count(*) FROM notes`).Scan(&n); err != nil || n != 1 {
				t.Fatalf("%d rows, %v; want 1", n, err)
			}
		})
	}
}

func TestAppActsAsTheRole(t *testing.T) {
	db := pgtest.New(t, migrate)
	var session, current string
	if err := db.App.QueryRow(t.Context(), `SELECT session_user, current_user`).Scan(&session, &current); err != nil {
		t.Fatal(err)
	}
	if current != pgtest.AppRole || session == current {
		t.Fatalf("session user %q, current user %q", session, current)
	}
	_, err := db.App.Exec(t.Context(), `DELETE FROM notes`)
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "42501" {
		t.Fatalf("DELETE as the app: %v; want insufficient_privilege", err)
	}
	// A LISTEN needs a connection outside the pool, which is made with the pool's
	// configuration.
	conn, err := pgx.ConnectConfig(t.Context(), db.App.Config().ConnConfig.Copy())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(t.Context(), `SELECT current_user`).Scan(&current); err != nil || current != pgtest.AppRole {
		t.Fatalf("copied configuration acts as %q, %v", current, err)
	}
}

func TestMigrationsRunOnce(t *testing.T) {
	if os.Getenv("DATABASE_URL") != "" {
		t.Skip("on the server of DATABASE_URL each database is migrated")
	}
	for range 3 {
		pgtest.New(t, migrate)
	}
	if n := migrations.Load(); n != 1 {
		t.Fatalf("migrations ran %d times", n)
	}
}

func TestEmptyHasNoTables(t *testing.T) {
	conn, err := pgx.Connect(t.Context(), pgtest.Empty(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var n int
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_tables WHERE schemaname = 'public'`).Scan(&n); err != nil || n != 0 {
		t.Fatalf("%d tables, %v", n, err)
	}
}

// TestServerAndFilesDisappearWithTheBinary runs this test binary as another process
// that uses a database. The process ends once by itself and once by a kill. The server
// and its files must then disappear.
func TestServerAndFilesDisappearWithTheBinary(t *testing.T) {
	if dir := os.Getenv("PGTEST_REPORT"); dir != "" {
		report(t, dir)
		return
	}
	if os.Getenv("DATABASE_URL") != "" {
		t.Skip("with DATABASE_URL, no server is started")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, kill := range []bool{false, true} {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestServerAndFilesDisappearWithTheBinary$")
		cmd.Env = append(os.Environ(), "PGTEST_REPORT="+dir)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var socket []byte
		eventually(t, "the other process has a database", func() bool {
			socket, err = os.ReadFile(filepath.Join(dir, "socket"))
			return err == nil
		})
		if kill {
			_ = cmd.Process.Kill()
		} else {
			in.Close()
		}
		_ = cmd.Wait()
		cluster := filepath.Dir(filepath.Dir(string(socket))) // the socket is in <temporary>/postgres/run
		if !strings.HasPrefix(cluster, "/tmp/colophon-test-") && !strings.HasPrefix(cluster, "/dev/shm/colophon-test-") {
			t.Fatalf("socket in %q", socket)
		}
		eventually(t, cluster+" is gone", func() bool {
			_, err := os.Stat(cluster)
			return errors.Is(err, os.ErrNotExist)
		})
	}
}

func report(t *testing.T, dir string) {
	db := pgtest.New(t, migrate)
	file := filepath.Join(dir, "socket")
	if err := os.WriteFile(file+".new", []byte(db.Owner.Config().ConnConfig.Host), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // returns when the parent process closes the standard input
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("never: %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestShiftedClock(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrate)
	for _, ahead := range []time.Duration{-15 * time.Second, 0, time.Hour} {
		db.ShiftClock(t, ahead)
		for _, pool := range []*pgxpool.Pool{db.Owner, db.App} {
			for _, clock := range []string{"now", "clock_timestamp", "statement_timestamp"} {
				var got time.Duration
				if err := pool.QueryRow(t.Context(), `select `+clock+`() - pg_catalog.`+clock+`()`).Scan(&got); err != nil {
					t.Fatal(err)
				}
				if (got - ahead).Abs() > time.Second { // the two calls of clock_timestamp differ
					t.Errorf("%s is %v ahead, want %v", clock, got, ahead)
				}
			}
		}
	}
	// A process that migrates afterwards must find the tables, and create new ones beside them.
	var schema string
	_, err := db.Owner.Exec(t.Context(), `create table later (at timestamptz not null default now())`)
	if err == nil {
		err = db.Owner.QueryRow(t.Context(), `select relnamespace::regnamespace::text from pg_class where relname = 'later'`).Scan(&schema)
	}
	if err != nil || schema != "public" {
		t.Errorf("a new table is in the schema %q, %v", schema, err)
	}
}
