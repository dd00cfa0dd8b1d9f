package pg

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// statementTime is the longest time that the server runs a statement of the service. The
// service itself waits a second longer, because a connection that was cut silently gives
// no answer at all.
const statementTime = 10 * time.Second

// bound is a tracer that gives each statement, each batch of statements and each wait for
// a connection of the pool a deadline. The deadline of the caller applies if it is earlier.
type bound struct {
	limit    time.Duration
	takeover *takeover // nil if the URL names one host
}

var (
	_ pgx.QueryTracer       = bound{}
	_ pgx.BatchTracer       = bound{}
	_ pgxpool.AcquireTracer = bound{}
)

// endKey is the key of the function that releases what begin has started.
type endKey struct{}

// unlimitedKey is the key of the contexts of Unlimited.
type unlimitedKey struct{}

// Unlimited returns a context whose statements may take as long as ctx lasts. The server's
// own limit has to be lifted as well, with set local statement_timeout = 0.
func Unlimited(ctx context.Context) context.Context {
	return context.WithValue(ctx, unlimitedKey{}, true)
}

// begin starts a statement on conn, or a wait for a connection if conn is nil.
func (b bound) begin(ctx context.Context, conn *pgx.Conn) context.Context {
	var cancel context.CancelFunc
	if ctx.Value(unlimitedKey{}) != nil {
		ctx, cancel = context.WithCancel(ctx)
	} else {
		ctx, cancel = context.WithTimeout(ctx, b.limit)
	}
	end := cancel
	if b.takeover != nil && conn != nil {
		server := conn.PgConn().Conn().RemoteAddr().String()
		silent := time.AfterFunc(silence, func() { b.takeover.await(ctx, server) })
		end = func() {
			silent.Stop()
			cancel()
		}
	}
	return context.WithValue(ctx, endKey{}, end)
}

func (bound) end(ctx context.Context) {
	if end, ok := ctx.Value(endKey{}).(context.CancelFunc); ok {
		end()
	}
}

// TraceQueryStart gives a statement its deadline.
func (b bound) TraceQueryStart(ctx context.Context, conn *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return b.begin(ctx, conn)
}

// TraceQueryEnd releases the deadline.
func (b bound) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) { b.end(ctx) }

// TraceBatchStart gives a batch its deadline.
func (b bound) TraceBatchStart(ctx context.Context, conn *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return b.begin(ctx, conn)
}

// TraceBatchQuery does nothing.
func (bound) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd releases the deadline.
func (b bound) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchEndData) { b.end(ctx) }

// TraceAcquireStart gives the wait for a connection its deadline.
func (b bound) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	return b.begin(ctx, nil)
}

// TraceAcquireEnd releases the deadline.
func (b bound) TraceAcquireEnd(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireEndData) {
	b.end(ctx)
}
