package pg_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
)

// TestStatementsAreBounded runs statements whose answers come too late, and waits for a
// connection that never becomes free. Each call must end, although its caller sets no
// deadline. An unlimited statement must not end early.
func TestStatementsAreBounded(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	app, err := pg.Connect(t.Context(), url, "pg_monitor")
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	if got, want := app.Config().ConnConfig.Tracer, pg.Bound(11*time.Second); got != want {
		t.Errorf("the service's connections have the tracer %v, want %v", got, want)
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 1
	config.ConnConfig.Tracer = pg.Bound(50 * time.Millisecond)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	const late = `select pg_sleep(60)`
	var batch pgx.Batch
	batch.Queue(`select 1`)
	batch.Queue(late)
	for what, run := range map[string]func(context.Context) error{
		"exec":  func(ctx context.Context) error { _, err := pool.Exec(ctx, late); return err },
		"query": func(ctx context.Context) error { return pool.QueryRow(ctx, late).Scan(new(any)) },
		"batch": func(ctx context.Context) error { return pool.SendBatch(ctx, &batch).Close() },
		"transaction": func(ctx context.Context) error {
			return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { _, err := tx.Exec(ctx, late); return err })
		},
		"acquire": func(ctx context.Context) error {
			return pool.AcquireFunc(ctx, func(*pgxpool.Conn) error { return pool.Ping(ctx) })
		},
	} {
		if err := run(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v, want context.DeadlineExceeded", what, err)
		}
	}
	if _, err := pool.Exec(pg.Unlimited(t.Context()), `select pg_sleep(0.1)`); err != nil {
		t.Errorf("unlimited: %v", err)
	}
}

// deaf is a connection that loses what is written from the text on, like a network that
// was cut.
type deaf struct {
	net.Conn
	text string
	cut  bool
}

func (d *deaf) Write(b []byte) (int, error) {
	if d.cut = d.cut || bytes.Contains(b, []byte(d.text)); d.cut {
		return len(b), nil
	}
	return d.Conn.Write(b)
}

// TestConnectionAttemptIsBounded cuts the network at the last step of an attempt to
// connect.
func TestConnectionAttemptIsBounded(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	if !strings.Contains(url, "?") {
		url += "?"
	}
	pool, err := pg.Connect(t.Context(), url+"&connect_timeout=1", "pg_monitor")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	config := pool.Config().ConnConfig
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		return &deaf{Conn: conn, text: "set role"}, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := pgx.ConnectConfig(ctx, config); !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		t.Errorf("%v, want context.DeadlineExceeded after a second", err)
	}
}
