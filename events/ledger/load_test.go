package ledger_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events/ledger"
	"colophon/internal/pg/pgtest"
	"colophon/migrations"
)

// TestLogIsDenseUnderLoad is the property test: many writers, some of which roll back, wait
// before their commit, or write elsewhere before they lock a stream; two sequencers that are
// killed again and again; and readers. Each reader must read each committed event once,
// without a gap, and the events of each stream in order.
func TestLogIsDenseUnderLoad(t *testing.T) {
	t.Parallel()
	const writers, sequencers, readers = 64, 2, 8
	transactions := 12
	if testing.Short() {
		transactions = 2
	}
	db := pgtest.New(t, migrations.Up)
	config := db.App.Config()
	config.MaxConns = 24
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	must(t, err)
	defer pool.Close()
	shared := make([]string, 12) // the streams to which all writers append
	for i := range shared {
		shared[i] = newStream()
	}
	var committed atomic.Int64
	var writing, running sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			for range transactions {
				n, err := write(t.Context(), pool, r, shared)
				if err != nil {
					t.Error(err)
					return
				}
				committed.Add(int64(n))
			}
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var done atomic.Bool // all events are committed and in the log
	for n := range sequencers {
		running.Go(func() { runSequencer(ctx, t, pool, rand.New(rand.NewPCG(2, uint64(n)))) })
	}
	read := make([]sequence, readers)
	for n := range readers {
		running.Go(func() {
			for next := byIndex(); ; {
				finished := done.Load()
				more, err := next(t.Context(), pool)
				if err != nil {
					t.Error(err)
					return
				}
				read[n] = append(read[n], more...)
				if finished && len(more) == 0 {
					return
				}
			}
		})
	}
	writing.Wait()
	want := int(committed.Load())
	s := newSequencerOf(pool)
	for deadline := time.Now().Add(time.Minute); ; {
		p, err := s.Pass(t.Context())
		if err != nil || time.Now().After(deadline) {
			t.Errorf("%d of %d events are in the log, %v", p.Size, want, err)
			break
		}
		if p.Leading && p.Added == 0 && p.Size >= int64(want) {
			break
		}
	}
	stop()
	done.Store(true)
	running.Wait()
	for n, s := range read {
		if faults := s.faults(want); len(faults) > 0 {
			t.Errorf("reader %d: %d faults, such as %s", n, len(faults), faults[0])
		}
	}
	var stored int
	must(t, pool.QueryRow(t.Context(), `select count(*) from events`).Scan(&stored))
	if stored != want {
		t.Errorf("%d events are stored, the writers have committed %d", stored, want)
	}
}

// write runs one transaction that appends a few events, and returns how many it has
// committed.
func write(ctx context.Context, pool *pgxpool.Pool, r *rand.Rand, shared []string) (events int, err error) {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	pause := func() {
		if r.IntN(2) == 0 {
			_, err = tx.Exec(ctx, `select pg_sleep($1)`, r.Float64()/100)
		}
	}
	if r.IntN(2) == 0 { // the transaction gets its id before it waits for a stream
		_, err = tx.Exec(ctx, `select pg_current_xact_id()`)
		pause()
	}
	stream := shared[r.IntN(len(shared))]
	own := newStream()
	var version int
	if err == nil {
		_, err = tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended($1, 0))`, stream)
	}
	if err == nil {
		err = tx.QueryRow(ctx, `select coalesce(max(version), 0) from events where stream = $1`, stream).Scan(&version)
	}
	for n := range 1 + r.IntN(3) {
		if err == nil {
			err = insert(ctx, tx, stream, version+n+1)
		}
		if err == nil {
			err = insert(ctx, tx, own, n+1)
		}
		events += 2
		pause()
	}
	if err != nil || r.IntN(10) == 0 {
		return 0, err
	}
	return events, tx.Commit(ctx)
}

// runSequencer runs a sequencer until ctx ends. Some of its passes are killed before their
// commit, and others while they run. After that, a new sequencer goes on.
func runSequencer(ctx context.Context, t *testing.T, pool *pgxpool.Pool, r *rand.Rand) {
	killed := errors.New("killed")
	start := func() *ledger.Sequencer {
		s := newSequencerOf(pool)
		s.SetLimit(1 + r.IntN(40))
		s.SetBeforeCommit(func(int) error {
			if r.IntN(4) == 0 {
				return killed
			}
			return nil
		})
		return s
	}
	for s := start(); ctx.Err() == nil; {
		pass, cancel := context.WithCancel(ctx)
		if r.IntN(6) == 0 {
			time.AfterFunc(time.Duration(r.IntN(5))*time.Millisecond, cancel)
		}
		_, err := s.Pass(pass)
		interrupted := pass.Err() != nil
		cancel()
		if err != nil && !errors.Is(err, killed) && !interrupted {
			t.Error(err)
			return
		}
		if err != nil && r.IntN(2) == 0 {
			s = start()
		}
	}
}
