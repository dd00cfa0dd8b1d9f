package events_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events"
	"colophon/migrations"
)

// notifications looks at every statement of a pool for those that announce.
type notifications struct {
	mu      sync.Mutex
	outside int           // of any transaction
	within  []string      // of one
	some    chan struct{} // holds one when there was any
}

func (n *notifications) see(conn *pgx.Conn, sql string, batch bool) {
	if !strings.Contains(strings.ToLower(sql), "notify") {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if batch || conn.PgConn().TxStatus() != 'I' { // a batch is a transaction by itself
		n.within = append(n.within, sql)
	} else {
		n.outside++
	}
	select {
	case n.some <- struct{}{}:
	default:
	}
}

func (n *notifications) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	n.see(conn, data.SQL, false)
	return ctx
}
func (n *notifications) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (n *notifications) TraceBatchStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		n.see(conn, q.SQL, true)
	}
	return ctx
}
func (n *notifications) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (n *notifications) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// A commit with a NOTIFY pending holds a lock that is one for the whole database,
// and so all commits take turns: what is appended is announced after its commit,
// by whatever way it was appended, and no trigger of ours announces either.
func TestNothingIsAnnouncedInsideATransaction(t *testing.T) {
	f := newFixture(t)
	n := &notifications{some: make(chan struct{}, 1)}
	config := f.db.App.Config()
	config.ConnConfig.Tracer = n
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := events.NewStore(pool, f.vault, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx, nil) })
	t.Cleanup(func() { cancel(); wg.Wait() })

	facts := course()
	one, other := f.newJob(), f.newJob()
	someone := uuid.Must(uuid.NewV7())
	one, err = s.AppendJob(t.Context(), one, facts[0])
	err = errors.Join(err, s.Write(t.Context(), func(tx *events.Tx) error {
		if err := tx.AppendAccount(t.Context(), someone, events.AccountRegistered{Username: "somebody"}); err != nil {
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
	case <-n.some:
	case <-time.After(time.Minute):
		t.Error("nothing is announced")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.within) > 0 || n.outside == 0 {
		t.Errorf("%d announcements, and inside a transaction: %q", n.outside, n.within)
	}
	rows, _ := f.db.Owner.Query(t.Context(), `
		select p.oid::regprocedure::text from pg_proc p join pg_namespace s on s.oid = p.pronamespace
		where p.prosrc ilike '%notify%' and s.nspname not in ('pg_catalog', 'information_schema', '`+migrations.RiverSchema+`')`)
	if announce, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(announce) > 0 {
		t.Errorf("functions that announce: %q, %v", announce, err)
	}
}
