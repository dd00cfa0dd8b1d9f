package auth

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// eavesdropper makes connections that, once it is armed, call counting before they read
// the answer to the next statement that counts a sign-in attempt.
type eavesdropper struct {
	counting func(noticed <-chan struct{})
	armed    atomic.Bool // the next such statement is intercepted
	asked    atomic.Bool // that statement has been sent
}

func (e *eavesdropper) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if strings.Contains(q.SQL, "insert into sign_in_failures") && e.armed.CompareAndSwap(true, false) {
		e.asked.Store(true)
	}
	return ctx
}

func (e *eavesdropper) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

type heardConn struct {
	net.Conn
	e       *eavesdropper
	noticed chan struct{} // receives when pgx gives the connection a deadline
}

func (c *heardConn) Read(b []byte) (int, error) {
	if c.e.asked.CompareAndSwap(true, false) {
		c.e.counting(c.noticed)
	}
	return c.Conn.Read(b)
}

func (c *heardConn) SetDeadline(t time.Time) error {
	select {
	case c.noticed <- struct{}{}:
	default:
	}
	return c.Conn.SetDeadline(t)
}

// TestClientThatLeavesWhileItsAttemptIsCounted leaves after the sign-in attempt has
// been committed and before the service knows it. The password was not wrong, so no
// failure may remain.
func TestClientThatLeavesWhileItsAttemptIsCounted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	e := &eavesdropper{}
	config := f.db.App.Config()
	config.MaxConns, config.ConnConfig.Tracer = 1, e
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return &heardConn{conn, e, make(chan struct{}, 1)}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s, err := newService(t.Context(), pool, f.store, f.vault, testOptions, newHasher(cheapParams), f.clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SignIn(t.Context(), name, password, "n"); err != nil { // prepares the statements
		t.Fatal(err)
	}
	const failures = `select coalesce(sum(failures), 0) from sign_in_failures`
	ctx, leave := context.WithCancel(t.Context())
	e.counting = func(noticed <-chan struct{}) {
		for f.count(t, failures) == 0 { // until it is committed
		}
		select { // an earlier notice
		case <-noticed:
		default:
		}
		leave()
		select { // a statement that depends on the client's context closes its connection now
		case <-noticed:
		case <-time.After(100 * time.Millisecond):
		}
	}
	e.armed.Store(true)
	if _, err := s.SignIn(ctx, name, password, "n"); err == nil || ctx.Err() == nil {
		t.Errorf("client context %v, sign-in error %v; want both", ctx.Err(), err)
	}
	if n := f.count(t, failures); n != 0 {
		t.Errorf("%d failures remain, want 0", n)
	}
}
