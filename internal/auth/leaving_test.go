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

// interceptor waits for the first statement that counts a sign-in attempt after armed
// was set. It calls beforeAnswer after that statement was sent and before the
// connection reads the answer.
type interceptor struct {
	beforeAnswer func(deadlines <-chan struct{})
	armed        atomic.Bool
	sent         atomic.Bool // true if the next Read reads the answer to the statement
}

func (i *interceptor) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if strings.Contains(q.SQL, "insert into sign_in_failures") && i.armed.CompareAndSwap(true, false) {
		i.sent.Store(true)
	}
	return ctx
}

func (i *interceptor) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

type interceptedConn struct {
	net.Conn
	i         *interceptor
	deadlines chan struct{} // receives a value when pgx sets a deadline of the connection
}

func (c *interceptedConn) Read(b []byte) (int, error) {
	if c.i.sent.CompareAndSwap(true, false) {
		c.i.beforeAnswer(c.deadlines)
	}
	return c.Conn.Read(b)
}

func (c *interceptedConn) SetDeadline(t time.Time) error {
	select {
	case c.deadlines <- struct{}{}:
	default:
	}
	return c.Conn.SetDeadline(t)
}

// TestAttemptIsWithdrawnIfTheClientLeaves makes a client disconnect after the database
// has counted the client's sign-in attempt and before the service has read the answer.
// The password was not wrong, so no failure may remain.
func TestAttemptIsWithdrawnIfTheClientLeaves(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	i := &interceptor{}
	config := f.db.App.Config()
	config.MaxConns, config.ConnConfig.Tracer = 1, i
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return &interceptedConn{conn, i, make(chan struct{}, 1)}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s, err := newService(t.Context(), pool, f.store, f.vault, testOptions, newHasher(cheapParams), clocks{f.clock.Now, f.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SignIn(t.Context(), name, password, "n"); err != nil { // at this first sign-in, pgx prepares the statements
		t.Fatal(err)
	}
	const failures = `select coalesce(sum(failures), 0) from sign_in_failures`
	ctx, leave := context.WithCancel(t.Context())
	i.beforeAnswer = func(deadlines <-chan struct{}) {
		for f.count(t, failures) == 0 { // waits until the counted attempt is committed
		}
		select { // discards the notice of an earlier deadline
		case <-deadlines:
		default:
		}
		leave()
		select { // pgx would now set a deadline if the statement depended on the client's context
		case <-deadlines:
		case <-time.After(100 * time.Millisecond):
		}
	}
	i.armed.Store(true)
	if _, err := s.SignIn(ctx, name, password, "n"); err == nil || ctx.Err() == nil {
		t.Errorf("client context %v, sign-in error %v; want both", ctx.Err(), err)
	}
	if n := f.count(t, failures); n != 0 {
		t.Errorf("%d failures remain, want 0", n)
	}
}
