package pg_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
)

// connected returns a pool of one connection to an empty database.
func connected(t *testing.T) *pgxpool.Pool {
	t.Helper()
	url := pgtest.Empty(t)
	if !strings.Contains(url, "?") {
		url += "?"
	}
	return connectedTo(t, url+"&pool_max_conns=1")
}

func connectedTo(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pg.Connect(t.Context(), url, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// TestEverySQLSTATEHasAState makes the server raise an error of each class of SQLSTATEs
// that Postgres 18 documents. In some classes the states differ, so it raises several
// errors of these classes. State must return the state of each error.
func TestEverySQLSTATEHasAState(t *testing.T) {
	t.Parallel()
	pool := connected(t)
	fault := error(nil)
	for code, want := range map[string]struct {
		state   error
		dropped bool // the connection must be closed
		fatal   bool // a process that starts must give up
	}{
		"02000": {state: fault}, "03000": {state: fault}, "09000": {state: fault}, "0A001": {state: fault},
		"0B000": {state: fault}, "0F000": {state: fault}, "0L000": {state: fault}, "0P000": {state: fault},
		"0Z000": {state: fault}, "10608": {state: fault}, "20000": {state: fault}, "21000": {state: fault},
		"22012": {state: fault}, "23505": {state: fault}, "24000": {state: fault}, "25000": {state: fault},
		"25001": {state: fault}, "25P01": {state: fault}, "25P02": {state: fault}, "27000": {state: fault},
		"2B000": {state: fault}, "2D000": {state: fault}, "2F000": {state: fault}, "34000": {state: fault},
		"38000": {state: fault}, "39000": {state: fault}, "3B000": {state: fault}, "3F000": {state: fault},
		"40000": {state: fault}, "40002": {state: fault}, "42501": {state: fault}, "42P01": {state: fault},
		"44000": {state: fault}, "54000": {state: fault}, "55000": {state: fault}, "55006": {state: fault},
		"CL001": {state: fault}, "F0000": {state: fault}, "HV000": {state: fault}, "P0001": {state: fault},
		"XX000": {state: fault}, "XX001": {state: fault},

		"08000": {state: pg.ErrUnavailable, dropped: true},
		"08006": {state: pg.ErrUnavailable, dropped: true},
		"08P01": {state: pg.ErrUnavailable, dropped: true},
		"0A000": {state: pg.ErrUnavailable, dropped: true},
		"25006": {state: pg.ErrReadOnly, dropped: true},
		"25P03": {state: pg.ErrUnavailable, dropped: true},
		"25P04": {state: pg.ErrContended, dropped: true},
		"26000": {state: pg.ErrUnavailable, dropped: true},
		"28000": {state: pg.ErrUnavailable, fatal: true},
		"28P01": {state: pg.ErrUnavailable, fatal: true},
		"3D000": {state: pg.ErrUnavailable, fatal: true},
		"40001": {state: pg.ErrContended},
		"40003": {state: pg.ErrContended},
		"40P01": {state: pg.ErrContended},
		"53000": {state: pg.ErrExhausted},
		"53100": {state: pg.ErrExhausted},
		"53200": {state: pg.ErrExhausted},
		"53300": {state: pg.ErrExhausted},
		"53400": {state: pg.ErrExhausted},
		"55P03": {state: pg.ErrContended},
		"57014": {state: pg.ErrContended},
		"57P01": {state: pg.ErrUnavailable, dropped: true},
		"57P02": {state: pg.ErrUnavailable, dropped: true},
		"57P03": {state: pg.ErrUnavailable, dropped: true},
		"57P04": {state: pg.ErrUnavailable, dropped: true},
		"57P05": {state: pg.ErrUnavailable, dropped: true},
		"58000": {state: pg.ErrExhausted},
		"58030": {state: pg.ErrExhausted},
		"72000": {state: pg.ErrContended},
	} {
		before := backend(t, pool)
		_, err := pool.Exec(t.Context(), `do $$ begin raise exception using errcode = '`+code+`'; end $$`)
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != code {
			t.Errorf("%s: %v", code, err)
		}
		err = fmt.Errorf("query: %w", err)
		if got := pg.State(err); got != want.state {
			t.Errorf("%s: %v, want %v", code, got, want.state)
		}
		if got := pg.Unavailable(err); got != (want.state != fault && !want.fatal) {
			t.Errorf("%s: unavailable %v", code, got)
		}
		if dropped := backend(t, pool) != before; dropped != want.dropped {
			t.Errorf("%s: connection dropped %v", code, dropped)
		}
	}
}

// backend returns the id of the server process of the pool's connection.
func backend(t *testing.T, pool *pgxpool.Pool) (pid int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `select pg_backend_pid()`).Scan(&pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestStatesOfARealServer puts a server into several states and takes the errors that the
// server itself reports. State must return the right state for each error.
func TestStatesOfARealServer(t *testing.T) {
	t.Parallel()
	pool := connectedTo(t, pgtest.Empty(t))
	exec := func(sql string) error {
		_, err := pool.Exec(t.Context(), sql)
		return err
	}
	holder, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Rollback(context.WithoutCancel(t.Context()))
	if _, err := holder.Exec(t.Context(), `select pg_advisory_xact_lock(1)`); err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, late := pool.Exec(soon, `select pg_sleep(10)`)
	left, cancel := context.WithCancel(t.Context())
	cancel()
	_, gone := pool.Exec(left, `select 1`)
	_, refused := pgx.Connect(t.Context(), "postgres://u@127.0.0.1:1/d?sslmode=disable")
	if err := exec(`create role limited login password 'limited' connection limit 0`); err != nil {
		t.Fatal(err)
	}
	defer exec(`drop role limited`)
	as := func(user string) error {
		config := pool.Config().ConnConfig
		config.User, config.Password = user, user
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err == nil {
			conn.Close(t.Context())
		}
		return err
	}
	for what, c := range map[string]struct{ err, want error }{
		"statement_timeout":       {exec(`begin; set local statement_timeout = 1; select pg_sleep(10)`), pg.ErrContended},
		"lock_timeout":            {exec(`begin; set local lock_timeout = 1; select pg_advisory_xact_lock(1)`), pg.ErrContended},
		"a terminated connection": {exec(`select pg_terminate_backend(pg_backend_pid())`), pg.ErrUnavailable},
		"a read-only transaction": {exec(`begin read only; create table t ()`), pg.ErrReadOnly},
		"a connection limit":      {as("limited"), pg.ErrExhausted},
		"an unknown user":         {as("nobody at all"), pg.ErrUnavailable},
		"a wrong statement":       {exec(`select 1/0`), nil},
		"no answer in time":       {late, pg.ErrUnavailable},
		"nobody listens":          {refused, pg.ErrUnavailable},
		"closed":                  {io.ErrUnexpectedEOF, pg.ErrUnavailable},
		"closed by an error":      {pgconn.ErrConnClosed, pg.ErrUnavailable},
		"a state":                 {pg.ErrExhausted, pg.ErrExhausted},
		"the caller has left":     {gone, nil},
		"something else":          {errors.New("something else"), nil},
		"nothing":                 {nil, nil},
	} {
		if got := pg.State(fmt.Errorf("query: %w", c.err)); got != c.want {
			t.Errorf("%s: %v: %v, want %v", what, c.err, got, c.want)
		}
	}
}

// The runbook must explain every SQLSTATE of the table.
func TestRunbookListsTheStates(t *testing.T) {
	text, err := os.ReadFile("../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range pg.Meanings() {
		if !strings.Contains(string(text), row) {
			t.Errorf("the runbook lacks the row\n%s", row)
		}
	}
}
