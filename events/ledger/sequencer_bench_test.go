package ledger_test

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/migrations"
)

// benchmarkPool returns a pool with enough connections for the writers.
func benchmarkPool(b *testing.B) *pgxpool.Pool {
	b.Helper()
	config := pgtest.New(b, migrations.Up).App.Config()
	config.MaxConns = 24
	pool, err := pgxpool.NewWithConfig(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	return pool
}

// appendOne commits one event in a transaction of its own.
func appendOne(ctx context.Context, pool *pgxpool.Pool, payload []byte) (position int64, err error) {
	err = pool.QueryRow(ctx, `insert into events (stream, version, owner, type, at, schema, payload, sealed)
		values ($1, 1, gen_random_uuid(), 'test', now(), 2, $2, $2) returning position`, newStream(), payload).Scan(&position)
	return position, err
}

// BenchmarkIndexLatency commits 1,000 events a second and measures the time from the commit
// of each event until a reader sees its index. Run it with -benchtime=10000x.
func BenchmarkIndexLatency(b *testing.B) {
	const rate, writers = 1000, 16
	pool := benchmarkPool(b)
	ctx, stop := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() { newSequencerOf(pool).Run(ctx) })
	type commit struct {
		position int64
		at       time.Time
	}
	commits := make([]commit, b.N)
	seen := map[int64]time.Time{}
	var failed atomic.Value
	b.ResetTimer()
	running.Go(func() {
		// The reader polls, as readers of the log do. The pause is part of what is measured.
		for next := 0; ctx.Err() == nil && len(seen) < b.N; time.Sleep(2 * time.Millisecond) {
			rows, err := pool.Query(ctx, `select position from log_entries where idx >= $1`, next)
			if err != nil {
				failed.Store(err)
				return
			}
			now := time.Now()
			for rows.Next() {
				var position int64
				if err := rows.Scan(&position); err != nil {
					failed.Store(err)
				}
				seen[position] = now
				next++
			}
			rows.Close()
		}
		stop()
	})
	begin := time.Now()
	var next atomic.Int64
	for range writers {
		running.Go(func() {
			payload := make([]byte, 400)
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				// The event waits for its turn, so that the rate does not follow the database.
				time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / rate)))
				position, err := appendOne(ctx, pool, payload)
				if err != nil {
					failed.Store(err)
					return
				}
				commits[i] = commit{position, time.Now()}
			}
		})
	}
	running.Wait()
	if err := failed.Load(); err != nil {
		b.Fatal(err)
	}
	var delays []time.Duration
	for _, c := range commits {
		delays = append(delays, seen[c.position].Sub(c.at))
	}
	slices.Sort(delays)
	b.ReportMetric(float64(delays[len(delays)/2].Milliseconds()), "p50-ms")
	b.ReportMetric(float64(delays[len(delays)*99/100].Milliseconds()), "p99-ms")
	b.ReportMetric(float64(b.N)/commits[b.N-1].at.Sub(begin).Seconds(), "events/s")
}

// BenchmarkAppend appends the events of jobs as workers do, as fast as the database commits
// them, with and without a sequencer. Each event has a transaction of its own, which also
// changes the history.
func BenchmarkAppend(b *testing.B) {
	for name, sequenced := range map[string]bool{"alone": false, "sequenced": true} {
		b.Run(name, func(b *testing.B) {
			pool := benchmarkPool(b)
			store, owners := newStoreOf(b, pool, 16)
			ctx, stop := context.WithCancel(b.Context())
			var running sync.WaitGroup
			running.Go(func() { store.Run(ctx, func() {}) })
			if sequenced {
				running.Go(func() { newSequencerOf(pool).Run(ctx) })
			}
			var writer atomic.Int64
			b.SetParallelism(8)
			b.ResetTimer()
			b.RunParallel(func(p *testing.PB) {
				owner := owners[int(writer.Add(1))%len(owners)]
				var job events.Job
				for n := 0; p.Next(); n++ {
					fact := events.Fact(events.JobAdvanced{Tokens: []int{1, 2, 3, 4, 5, 6, 7, 8}, Text: " of the Rays which are most refrangible"})
					switch n % 10 {
					case 0:
						job, fact = events.Job{ID: uuid.Must(uuid.NewV7()), Owner: owner}, events.JobAccepted{Prompt: "The nature of light", Model: "m"}
					case 1:
						fact = events.JobStarted{Attempt: 1, Worker: "w", Weights: "w/f32"}
					case 9:
						fact = events.JobCompleted{FinishReason: "stop"}
					}
					var err error
					if job, err = store.AppendJob(ctx, job, fact); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			stop()
			running.Wait()
		})
	}
}

// newStoreOf returns a store with accounts.
func newStoreOf(b *testing.B, pool *pgxpool.Pool, accounts int) (store *events.Store, owners []uuid.UUID) {
	b.Helper()
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize))
	if err != nil {
		b.Fatal(err)
	}
	store = events.NewStore(pool, v, slog.New(slog.DiscardHandler))
	for range accounts {
		owner := uuid.Must(uuid.NewV7())
		owners = append(owners, owner)
		err := store.Write(b.Context(), func(tx *events.Tx) error {
			return tx.AppendAccount(b.Context(), owner, events.AccountRegistered{Username: "somebody"})
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return store, owners
}

// BenchmarkBacklog gives an index to events that have none, as the first start of this
// release does.
func BenchmarkBacklog(b *testing.B) {
	db := pgtest.New(b, migrations.Up)
	_, err := db.Owner.Exec(b.Context(), `
		insert into events (stream, version, owner, type, at, schema, payload)
		select $1, version, gen_random_uuid(), 'test', now(), 1, convert_to(repeat('x', 400) || version, 'UTF8') from generate_series(1, $2::int) as version`, newStream(), b.N)
	if err != nil {
		b.Fatal(err)
	}
	s := newSequencer(db)
	b.ResetTimer()
	for size := int64(0); size < int64(b.N); {
		p, err := s.Pass(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		size = p.Size
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
