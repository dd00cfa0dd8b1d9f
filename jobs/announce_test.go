package jobs_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/jobs"
	"colophon/migrations"
)

// notifyGuard records every NOTIFY of a pool's connections, with the statement in which
// it happens. The setting trace_notify makes the server itself report each NOTIFY, so the
// guard also sees those of triggers and functions in any schema.
type notifyGuard struct {
	mu       sync.Mutex
	running  map[*pgconn.PgConn]string // the statement that a connection runs
	seen     map[string]int            // number of harmless announcements, by channel
	inside   []string                  // all other announcements
	resigned int                       // number of announcements of River's leaders that resign
}

// batch stands for the statements of a batch, which Postgres runs as one transaction.
const batch = "a batch"

func (g *notifyGuard) begin(conn *pgx.Conn, sql string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running[conn.PgConn()] = sql
}

func (g *notifyGuard) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	g.begin(conn, data.SQL)
	return ctx
}
func (g *notifyGuard) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (g *notifyGuard) TraceBatchStart(ctx context.Context, conn *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	g.begin(conn, batch)
	return ctx
}
func (g *notifyGuard) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (g *notifyGuard) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// notice receives the messages of the server.
func (g *notifyGuard) notice(conn *pgconn.PgConn, n *pgconn.Notice) {
	channel, ok := strings.CutPrefix(n.Message, "Async_Notify(")
	if !ok {
		return
	}
	channel = strings.TrimSuffix(channel, ")")
	g.mu.Lock()
	defer g.mu.Unlock()
	sql := g.running[conn]
	switch alone := conn.TxStatus() == 'I'; {
	case alone && strings.HasPrefix(sql, "select pg_notify("): // writes nothing but its announcements
		g.seen[channel]++
	case alone && strings.HasPrefix(sql, "-- name: LeaderResign "): // River sends one when a worker that is the leader stops
		g.resigned++
	default:
		g.inside = append(g.inside, fmt.Sprintf("on %s, transaction status %c, in %s", channel, conn.TxStatus(), sql))
	}
}

// take returns the announcements inside transactions since the last call of take.
func (g *notifyGuard) take() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	inside := g.inside
	g.inside = nil
	return inside
}

// newGuardedFixture returns a fixture whose connections are all watched by the guard.
func newGuardedFixture(t *testing.T) (*fixture, *notifyGuard) {
	t.Helper()
	g := &notifyGuard{running: map[*pgconn.PgConn]string{}, seen: map[string]int{}}
	db := *pgtest.New(t, migrations.Up)
	config := db.App.Config()
	config.ConnConfig.RuntimeParams["trace_notify"] = "on"
	config.ConnConfig.RuntimeParams["client_min_messages"] = "debug1"
	config.ConnConfig.Tracer = g
	config.ConnConfig.OnNotice = g.notice
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	db.App = pool
	f := &fixture{t: t, db: &db}
	f.store = f.newStore()
	f.queue = f.newQueue(jobs.Limits{Outstanding: 100, Queued: 100, Tokens: 100_000})
	f.owner = f.register()
	return f, g
}

// TestNotifyGuardSeesEveryNotify announces in all ways in which a transaction can. The
// guard must report each one, and must not report an announcement alone.
func TestNotifyGuardSeesEveryNotify(t *testing.T) {
	t.Parallel()
	f, g := newGuardedFixture(t)
	if _, err := f.db.Owner.Exec(t.Context(), `
		create function river.tell() returns trigger language plpgsql as $$ begin perform pg_notify('own', ''); return null; end $$;
		create table river.told (n integer);
		create trigger tell after insert on river.told execute function river.tell();
		create table river.told_late (n integer);
		create constraint trigger tell after insert on river.told_late initially deferred for each row execute function river.tell();
		grant insert on river.told, river.told_late to colophon_app`); err != nil {
		t.Fatal(err)
	}
	const told = `insert into river.told values (1)`
	inTx := func(sql string) func(*pgx.Conn) error {
		return func(conn *pgx.Conn) error {
			return pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), sql)
				return err
			})
		}
	}
	for name, notify := range map[string]func(*pgx.Conn) error{
		"statement":        inTx(`notify own`),
		"function":         inTx(`select pg_notify('own', '')`),
		"trigger":          inTx(told),
		"deferred trigger": inTx(`insert into river.told_late values (1)`),
		"trigger of a statement without a transaction": func(conn *pgx.Conn) error {
			_, err := conn.Exec(t.Context(), told)
			return err
		},
		"batch": func(conn *pgx.Conn) error {
			var b pgx.Batch
			b.Queue(`select pg_notify('own', '')`)
			b.Queue(`select 1`)
			return conn.SendBatch(t.Context(), &b).Close()
		},
	} {
		err := f.db.App.AcquireFunc(t.Context(), func(conn *pgxpool.Conn) error { return notify(conn.Conn()) })
		if inside := g.take(); err != nil || len(inside) == 0 || !strings.HasPrefix(inside[0], "on own,") {
			t.Errorf("%s: the guard saw %q, %v", name, inside, err)
		}
	}
	if _, err := f.db.App.Exec(t.Context(), `select pg_notify('own', '')`); err != nil || len(g.take()) > 0 || g.seen["own"] != 1 {
		t.Errorf("the guard reports an announcement outside a transaction (%v)", err)
	}
}

// TestNoTransactionNotifies lets jobs take every path that adds, changes or closes a queue
// entry. A commit with a pending NOTIFY locks the whole database, so such commits run one
// at a time. No transaction may send one, be it by this program, by River or by a
// trigger.
func TestNoTransactionNotifies(t *testing.T) {
	t.Parallel()
	f, g := newGuardedFixture(t)
	check := func(step string) {
		t.Helper()
		if inside := g.take(); len(inside) > 0 {
			t.Errorf("%s: %d announcements in transactions, such as one %s", step, len(inside), inside[0])
		}
	}
	keyed := request
	keyed.Key = &events.IdempotencyKey{Scope: f.owner.String(), Key: "key"}
	if _, err := f.queue.Cancel(t.Context(), f.submit(keyed), events.JobCancelled{By: "owner"}); err != nil {
		t.Fatal(err)
	}
	check("submit and cancel")
	orphan := f.orphan(12, 0, "-1 second") // its first worker stops and hands the job over
	check("handover")
	e := newEngine()
	e.fail[6+20] = errBroken
	f.work(e)
	if j := f.until(orphan, final); j.State != events.Completed {
		t.Errorf("the job of the dead worker ended as %s", j.State)
	}
	check("requeue, failed attempt and completion")
	pause := make(chan struct{}) // never closed
	e.mu.Lock()
	e.pause[6+20] = pause
	e.mu.Unlock()
	running := f.until(f.submit(request), tokens(1))
	if _, err := f.queue.Cancel(t.Context(), running, events.JobCancelled{By: "owner"}); err != nil {
		t.Fatal(err)
	}
	late := request
	late.CancelAfter = time.Millisecond
	f.until(f.submit(late), final)
	if err := f.queue.Erase(t.Context(), f.owner); err != nil {
		t.Fatal(err)
	}
	check("cancel of a running job, deadline and erasure")
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen["colophon_events"] == 0 || g.seen[migrations.RiverSchema+".river_insert"] == 0 {
		t.Errorf("announcements outside transactions by channel: %v", g.seen)
	}
}

// TestNewEntriesWakeIdleWorkers gives a worker that practically never polls new queue
// entries: those of new jobs, of a job that a stopping worker hands over, and of a dead
// worker's job. Only an announcement can tell the idle worker of them.
func TestNewEntriesWakeIdleWorkers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dead := f.orphan(12, 0, "-1 second")
	hide := func(from, to string) { // hides the dead worker's entry from the search for such entries, or shows it
		t.Helper()
		tag, err := f.db.Owner.Exec(t.Context(), `
			update `+migrations.RiverJobs+` set state = $2::text::river.river_job_state, finalized_at = case $2 when 'completed' then now() end
			where state = $1::text::river.river_job_state and args->>'job' = $3 and attempted_at < now() - interval '9 seconds'`, from, to, dead.ID.String())
		if err != nil || tag.RowsAffected() != 1 {
			t.Fatal(tag, err)
		}
	}
	hide("running", "completed")
	stopping := newEngine()
	stopping.pause[6+20] = make(chan struct{}) // never closed
	stop := f.workSlots(stopping, 1)
	moved := f.until(f.submit(request), tokens(1))

	f.workSlots(newEngine(), 8, func(w *jobs.Worker) { w.PollEvery(24 * time.Hour) })
	for range 4 { // the idle worker may find the first job when it starts
		f.until(f.submit(request), final)
	}
	stop()
	f.until(moved, final)
	hide("completed", "running")
	f.until(dead, final)
}

// TestLostAnnouncementDelaysAJobByAPoll submits jobs in a process that dies before it
// announces them. An idle worker must find them by polling.
func TestLostAnnouncementDelaysAJobByAPoll(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.work(newEngine())
	f.until(f.submit(request), final) // the worker has started, and is idle
	dying := *f
	dying.store = f.newSilentStore()
	dying.queue = dying.newQueue(jobs.Limits{})
	for range 3 {
		if j := f.until(dying.submit(request), final); j.State != events.Completed || j.StartedAt.Sub(j.AcceptedAt) > 10*time.Second {
			t.Errorf("the job ended as %s and waited for %v", j.State, j.StartedAt.Sub(j.AcceptedAt))
		}
	}
}

// newSilentStore returns a store whose announcements all fail, as if its process died after
// each commit.
func (f *fixture) newSilentStore() *events.Store {
	f.t.Helper()
	config := f.db.App.Config()
	config.ConnConfig.Tracer = muteTracer{}
	pool, err := pgxpool.NewWithConfig(f.t.Context(), config)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(pool.Close)
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize))
	if err != nil {
		f.t.Fatal(err)
	}
	return events.NewStore(pool, v, slog.New(slog.DiscardHandler))
}

// muteTracer cancels each announcement before it is sent.
type muteTracer struct{}

func (muteTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if !strings.Contains(data.SQL, "pg_notify") {
		return ctx
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}
func (muteTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
