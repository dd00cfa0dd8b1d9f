package events_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events"
	"colophon/migrations"
)

// notifyTracer records the statements of a pool that contain a NOTIFY.
type notifyTracer struct {
	mu      sync.Mutex
	outside int           // number of NOTIFY statements outside a transaction
	inside  []string      // NOTIFY statements inside a transaction
	seen    chan struct{} // holds one value after the first NOTIFY statement
}

func (n *notifyTracer) check(conn *pgx.Conn, sql string, batch bool) {
	if !strings.Contains(strings.ToLower(sql), "notify") {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if batch || conn.PgConn().TxStatus() != 'I' { // Postgres runs a batch as one transaction
		n.inside = append(n.inside, sql)
	} else {
		n.outside++
	}
	select {
	case n.seen <- struct{}{}:
	default:
	}
}

func (n *notifyTracer) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	n.check(conn, data.SQL, false)
	return ctx
}
func (n *notifyTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (n *notifyTracer) TraceBatchStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		n.check(conn, q.SQL, true)
	}
	return ctx
}
func (n *notifyTracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (n *notifyTracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// tracedStore returns a store whose pool uses the given tracer.
func tracedStore(t *testing.T, f *fixture, tracer pgx.QueryTracer) *events.Store {
	t.Helper()
	config := f.db.App.Config()
	config.ConnConfig.Tracer = tracer
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return events.NewStore(pool, f.vault, slog.New(slog.DiscardHandler))
}

// TestAnnouncementsAreMadeOutsideTransactions traces all statements of a store. A
// commit with a pending NOTIFY locks the whole database, so such commits run one at a
// time. Every append must be announced after its commit, and no trigger may announce an
// append.
func TestAnnouncementsAreMadeOutsideTransactions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	n := &notifyTracer{seen: make(chan struct{}, 1)}
	s := tracedStore(t, f, n)
	run(t, s)

	facts := completedFacts()
	one, other := f.newJob(), f.newJob()
	account := uuid.Must(uuid.NewV7())
	one, err := s.AppendJob(t.Context(), one, facts[0])
	err = errors.Join(err, s.Write(t.Context(), func(tx *events.Tx) error {
		if err := tx.AppendAccount(t.Context(), account, events.AccountRegistered{Username: "test-user"}); err != nil {
			return err
		}
		if _, err := tx.AppendJob(t.Context(), other, facts[0]); err != nil {
			return err
		}
		_, err := tx.AppendJob(t.Context(), one, facts[1:]...)
		return err
	}))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-n.seen:
	case <-time.After(time.Minute):
		t.Error("no announcement")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.inside) > 0 || n.outside == 0 {
		t.Errorf("%d announcements outside transactions; inside: %q", n.outside, n.inside)
	}
	rows, _ := f.db.Owner.Query(t.Context(), `
		select p.oid::regprocedure::text from pg_proc p join pg_namespace s on s.oid = p.pronamespace
		where p.prosrc ilike '%notify%' and s.nspname not in ('pg_catalog', 'information_schema', '`+migrations.RiverSchema+`')`)
	if functions, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(functions) > 0 {
		t.Errorf("functions with a NOTIFY: %q, %v", functions, err)
	}
}

// failingTracer cancels the first NOTIFY, which then fails as if the connection were
// lost.
type failingTracer struct{ failed atomic.Bool }

func (f *failingTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if !strings.Contains(data.SQL, "pg_notify") || f.failed.Swap(true) {
		return ctx
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}
func (*failingTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestFailedAnnouncementIsRepeated(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tracer := &failingTracer{}
	s := tracedStore(t, f, tracer)
	listener, err := f.db.Owner.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Release()
	if _, err := listener.Exec(t.Context(), "listen colophon_events"); err != nil {
		t.Fatal(err)
	}
	run(t, s)
	j, err := s.AppendJob(t.Context(), f.newJob(), completedFacts()[0])
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for announced := false; !announced; { // the loop skips the announcement of the fixture's account
		n, err := listener.Conn().WaitForNotification(ctx)
		if err != nil {
			t.Fatalf("no announcement after a failed one: %v", err)
		}
		announced = strings.HasPrefix(n.Payload, "job/"+j.ID.String()+" ")
	}
	if !tracer.failed.Load() {
		t.Error("no announcement failed")
	}
}
