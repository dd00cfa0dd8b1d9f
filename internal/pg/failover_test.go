package pg_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
)

// makeReadOnly makes the sessions of all connections of a pool read-only, also of those
// that are in use. To these connections, their server looks like a demoted primary.
func makeReadOnly(t *testing.T, pool *pgxpool.Pool, inUse ...*pgxpool.Conn) {
	t.Helper()
	idle := pool.AcquireAllIdle(t.Context())
	for _, conn := range append(slices.Clip(idle), inUse...) {
		if _, err := conn.Exec(t.Context(), `set default_transaction_read_only = on`); err != nil {
			t.Fatal(err)
		}
	}
	for _, conn := range idle {
		conn.Release()
	}
}

// open makes a pool open connections, and returns one of them that is in use.
func open(t *testing.T, pool *pgxpool.Pool, connections int) *pgxpool.Conn {
	t.Helper()
	var open []*pgxpool.Conn
	for range connections {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	for _, conn := range open[1:] {
		conn.Release()
	}
	return open[0]
}

// TestPoolDropsAReadOnlyServer runs a write, or a check, on a server that has become
// read-only. The pool must at once drop all connections to this server. It must also drop
// a connection that a caller keeps, as River does to listen.
func TestPoolDropsAReadOnlyServer(t *testing.T) {
	t.Parallel()
	pool := connectedTo(t, pgtest.Empty(t))
	for name, meet := range map[string]func() error{
		"a write": func() error {
			_, err := pool.Exec(t.Context(), `create table written ()`)
			return err
		},
		"a check": func() error { return pg.CheckWritable(t.Context(), pool) },
	} {
		kept := open(t, pool, 4)
		makeReadOnly(t, pool, kept)
		if err := meet(); pg.State(err) != pg.ErrReadOnly {
			t.Errorf("%s: %v, want ErrReadOnly", name, err)
		}
		for range 8 { // more checks than the pool had connections
			if err := pg.CheckWritable(t.Context(), pool); err != nil {
				t.Fatalf("%s: then %v", name, err)
			}
		}
		// The connection in use is closed in the background.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		for kept.Ping(ctx) == nil {
			runtime.Gosched()
		}
		if cancel(); errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Errorf("%s: the connection in use goes on", name)
		}
		kept.Release()
	}
}

func TestConnectWaitsForAWritableServer(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	owner := connectedTo(t, url)
	name := owner.Config().ConnConfig.Database
	if _, err := owner.Exec(t.Context(), `alter database `+name+` set default_transaction_read_only = on`); err != nil {
		t.Fatal(err)
	}
	// The server counts a session at its end, and that of the owner at some time. So when it
	// has counted three, an attempt has failed.
	const ended = `select sessions from pg_stat_database where datname = current_database()`
	sessions := 0
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() {
		_, err := pg.Connect(ctx, url, "")
		result <- err
	}()
	for sessions < 3 {
		select {
		case err := <-result:
			t.Fatalf("gave up before its context ended: %v", err)
		default:
		}
		if err := owner.QueryRow(t.Context(), ended).Scan(&sessions); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-result; pg.State(err) != pg.ErrReadOnly {
		t.Errorf("%v, want ErrReadOnly", err)
	}
}

// A database may have settings that promise less, or more, than the service needs.
// Connections must correct the former and keep the latter.
func TestConnectionsHaveTheSettingsOfTheService(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	owner := connectedTo(t, url)
	name := owner.Config().ConnConfig.Database
	for _, c := range []struct{ setting, value, want, wantForOwner string }{
		{"synchronous_commit", "off", "on", "on"},
		{"synchronous_commit", "local", "on", "on"},
		{"synchronous_commit", "remote_write", "on", "on"},
		{"synchronous_commit", "on", "on", "on"},
		{"synchronous_commit", "remote_apply", "remote_apply", "remote_apply"},
		{"statement_timeout", "0", "10s", "0"},
		{"statement_timeout", "500ms", "500ms", "500ms"},
		{"statement_timeout", "2s", "2s", "2s"},
		{"statement_timeout", "1h", "10s", "1h"},
	} {
		if _, err := owner.Exec(t.Context(), `alter database `+name+` set `+c.setting+` = '`+c.value+`'`); err != nil {
			t.Fatal(err)
		}
		for role, want := range map[string]string{"pg_monitor": c.want, "": c.wantForOwner} {
			pool, err := pg.Connect(t.Context(), url, role)
			if err != nil {
				t.Fatal(err)
			}
			var got string
			if err := pool.QueryRow(t.Context(), `select current_setting($1)`, c.setting).Scan(&got); err != nil || got != want {
				t.Errorf("%s = %s: %s for role %q, want %s, %v", c.setting, c.value, got, role, want, err)
			}
			pool.Close()
		}
	}
}

// TestDurabilityOfAServerIsKnown changes the settings of a real server and gives it a
// standby. UnsafeSettings and LosesAtFailover must report each change. Then the standby is
// promoted while the primary is frozen. A statement that waits for the primary must end,
// and the pool must go over to the new primary. Before the promotion, a slow statement must
// succeed.
func TestDurabilityOfAServerIsKnown(t *testing.T) {
	t.Parallel()
	primary := pgtest.NewServer(t)
	pool, err := pg.Connect(t.Context(), primary.URL(), "pg_read_all_data") // a role that may not see the state of standbys
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	unsafe := func(want ...string) {
		t.Helper()
		got, err := pg.UnsafeSettings(t.Context(), pool)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%q, %v, want %q", got, err, want)
		}
		for i, name := range want {
			if !strings.HasPrefix(got[i], name+" is off") {
				t.Errorf("%q, want %q", got, want)
			}
		}
	}
	loses := func(want bool) {
		t.Helper()
		if got, err := pg.LosesAtFailover(t.Context(), pool); err != nil || got != want {
			t.Errorf("loses at failover: %v, %v, want %v", got, err, want)
		}
	}
	unsafe()
	primary.Set("full_page_writes", "off")
	eventually(t, "the setting is in force", func() bool {
		got, err := pg.UnsafeSettings(t.Context(), pool)
		return err == nil && len(got) == 1
	})
	unsafe("full_page_writes")
	primary.Set("full_page_writes", "on") // a standby needs full_page_writes
	loses(false)
	standby := primary.Standby()
	loses(true)
	primary.WaitForStandby()
	eventually(t, "the setting is in force", func() bool {
		got, err := pg.LosesAtFailover(t.Context(), pool)
		return err == nil && !got
	})

	both, err := pg.Connect(t.Context(), pgtest.AnyOf(standby, primary), "pg_read_all_data")
	if err != nil {
		t.Fatal(err)
	}
	defer both.Close()
	inRecovery := func() (standby bool) {
		t.Helper()
		if err := both.QueryRow(t.Context(), `select pg_is_in_recovery()`).Scan(&standby); err != nil {
			t.Fatal(err)
		}
		return standby
	}
	if inRecovery() {
		t.Error("connected to the standby")
	}
	conn, err := both.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(t.Context(), `select pg_sleep(2)`); err != nil { // pg looks for another server after 1 s
		t.Errorf("a slow statement on the primary ended with %v", err)
	}
	primary.Freeze()
	ctx, cancel := context.WithTimeout(pg.Unlimited(t.Context()), time.Minute)
	defer cancel()
	ended := make(chan error)
	go func() {
		_, err := conn.Exec(ctx, `select 1`)
		ended <- err
	}()
	standby.Promote()
	if err := <-ended; err == nil || ctx.Err() != nil {
		t.Errorf("the statement on the silent primary ended with %v", err)
	}
	eventually(t, "the pool finds the new primary", func() bool {
		err := pg.CheckWritable(t.Context(), both)
		if err != nil && pg.State(err) == nil {
			t.Fatal(err)
		}
		return err == nil
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}
