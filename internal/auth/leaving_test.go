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

// eavesdropper makes connections that call counting before they read the answer to
// a statement that counts a sign-in attempt, once it is armed.
type eavesdropper struct {
	counting func(noticed <-chan struct{})
	armed    atomic.Bool // the next such statement is the one
	asked    atomic.Bool // it has been sent
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

// TestClientThatLeavesWhileItsAttemptIsCounted leaves after the attempt has been
// committed and before the service knows that. It was not a wrong password, so no
// failure may stay.
func TestClientThatLeavesWhileItsAttemptIsCounted(t *testing.T) {
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
	if _, err := s.SignIn(t.Context(), name, password, "n"); err != nil { // the statements are prepared now
		t.Fatal(err)
	}
	const failures = `select coalesce(sum(failures), 0) from sign_in_failures`
	ctx, leave := context.WithCancel(t.Context())
	e.counting = func(noticed <-chan struct{}) {
		for f.count(t, failures) == 0 { // until it is committed
		}
		select { // one from before
		case <-noticed:
		default:
		}
		leave()
		select { // a statement that depends on the client gives its connection up now
		case <-noticed:
		case <-time.After(100 * time.Millisecond):
		}
	}
	e.armed.Store(true)
	if _, err := s.SignIn(ctx, name, password, "n"); err == nil || ctx.Err() == nil {
		t.Errorf("the client has left: %v, and the sign-in says %v", ctx.Err(), err)
	}
	if n := f.count(t, failures); n != 0 {
		t.Errorf("%d failures stay", n)
	}
}
