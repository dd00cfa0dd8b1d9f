package pg_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
)

func TestConnectActsAsTheRole(t *testing.T) {
	url := pgtest.Empty(t)
	pool, err := pg.Connect(t.Context(), url, "pg_monitor")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var role, name string
	if err := pool.QueryRow(t.Context(), `SELECT current_user, current_setting('application_name')`).Scan(&role, &name); err != nil {
		t.Fatal(err)
	}
	if role != "pg_monitor" || name != "colophon" {
		t.Fatalf("role %q, application_name %q", role, name)
	}

	_, err = pg.Connect(t.Context(), url, `no"such role`)
	if !errors.Is(err, pg.ErrNoRole) {
		t.Fatalf("a role that does not exist: %v", err)
	}
}

// TestServerEndsIdleTransactions leaves a transaction idle, as a frozen process does.
// The server must end the transaction, so that its locks become free.
func TestServerEndsIdleTransactions(t *testing.T) {
	pool, err := pg.Connect(t.Context(), pgtest.Empty(t), "pg_monitor")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	silent, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Rollback(t.Context())
	const lock = `select pg_advisory_xact_lock(1)`
	if _, err := silent.Exec(t.Context(), lock); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := pool.Exec(ctx, lock); err != nil {
		t.Errorf("wait for the lock of an idle transaction: %v", err)
	}
	if _, err := silent.Exec(t.Context(), `select 1`); err == nil || !pg.Unavailable(err) {
		t.Errorf("the idle transaction goes on: %v", err)
	}
}

// TestConnectWaitsForAStartingServer connects through a proxy. The proxy first answers
// like a starting server. Later it lets the real server answer. Connect must succeed.
func TestConnectWaitsForAStartingServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	real, err := pgx.ParseConfig(pgtest.Empty(t))
	if err != nil {
		t.Fatal(err)
	}
	refusals := make(chan int, 1)
	go func() {
		n := 0
		for {
			c, err := l.Accept()
			if err != nil {
				refusals <- n
				return
			}
			if n++; n <= 3 {
				sayStarting(c)
				continue
			}
			go proxy(c, real)
		}
	}()
	pool, err := pg.Connect(t.Context(), "postgres://"+real.User+"@"+l.Addr().String()+"/"+real.Database+"?sslmode=disable", "")
	if err != nil {
		t.Fatal(err)
	}
	pool.Close()
	l.Close()
	if n := <-refusals; n < 4 {
		t.Fatalf("connected at attempt %d", n)
	}
}

func sayStarting(c net.Conn) {
	defer c.Close()
	be := pgproto3.NewBackend(c, c)
	if _, err := be.ReceiveStartupMessage(); err != nil {
		return
	}
	be.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P03", Message: "the database system is starting up"})
	_ = be.Flush()
}

func proxy(c net.Conn, to *pgx.ConnConfig) {
	defer c.Close()
	network, address := pgconn.NetworkAddress(to.Host, to.Port)
	s, err := net.Dial(network, address)
	if err != nil {
		return
	}
	defer s.Close()
	go func() { _, _ = io.Copy(s, c) }()
	_, _ = io.Copy(c, s)
}

func TestConnectGivesUpWithTheContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close() // after this, the address of l refuses connections
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = pg.Connect(ctx, "postgres://u:hunter2@"+addr+"/d?sslmode=disable", "")
	if err == nil || ctx.Err() == nil {
		t.Fatalf("%v; context: %v", err, ctx.Err())
	}
}

func TestErrorsDoNotContainThePassword(t *testing.T) {
	const secret = "hunter2"
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	for _, url := range []string{
		"postgres://u:hunter2@127.0.0.1:1/d?sslmode=disable",
		"postgres://u:hunter2%zz@127.0.0.1:1/d",
		"postgres://u:x/hunter2@127.0.0.1:1/d",
		"postgres://u:12/hunter2@127.0.0.1:1/d?sslmode=disable",
		"postgres://u:x#hunter2@127.0.0.1:1/d",
		"postgres://u:x?hunter2@127.0.0.1:1/d",
		"postgres://u:x hunter2@127.0.0.1:1/d",
		"postgres://u@127.0.0.1:1/d?password=hunter2&sslmode=nonsense",
		"postgres://u:hunter2@127.0.0.1:1/d?sslmode=nonsense",
		"postgres://u:hunter2@127.0.0.1:1/d?pool_max_conns=many",
		"postgres://u:hunter2@127.0.0.1:70000/d",
		"host=127.0.0.1 port=1 user=u password=hunter2 sslmode=nonsense",
		"host=127.0.0.1 port=1 user=u password='hunter2",
		"host=127.0.0.1 port=1 user=u password=x\\ hunter2 =",
		"password hunter2",
	} {
		_, err := pg.Connect(ctx, url, "")
		if err == nil {
			t.Errorf("%s: connected", url)
			continue
		}
		for ; err != nil; err = errors.Unwrap(err) {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: %v", url, err)
			}
		}
	}
}
