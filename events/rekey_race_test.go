package events_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events"
	"colophon/internal/pg"
	"colophon/internal/vault"
)

// hooks calls a function before each statement and batch of a pool.
type hooks struct {
	before func(context.Context, *pgx.Batch) context.Context // the batch is nil for a statement
}

func (h hooks) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return h.before(ctx, nil)
}
func (hooks) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (h hooks) TraceBatchStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchStartData) context.Context {
	return h.before(ctx, d.Batch)
}
func (hooks) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (hooks) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// hooked returns a pool of the database's owner that calls before.
func (f *fixture) hooked(t testing.TB, before func(context.Context, *pgx.Batch) context.Context) *pgxpool.Pool {
	t.Helper()
	config := f.db.Owner.Config()
	config.ConnConfig.Tracer = hooks{before}
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(t.Context()), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// TestRekeyBesideWritersAndReaders replaces a key again and again, in a process that dies
// before one statement after another. Meanwhile processes write and read. Nothing waits for
// their keys in memory, so they often have an earlier one.
func TestRekeyBesideWritersAndReaders(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.SetKeyWait(0)
	first := f.key(t)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var wg sync.WaitGroup
	var written atomic.Int64
	newest := make(chan events.Job)
	for n := range 3 {
		process, _ := f.process(t)
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				j := f.newJob()
				for _, fact := range completedFacts() {
					err := again(func() (err error) {
						j, err = process.AppendJob(context.Background(), j, fact)
						return err
					})
					if err != nil {
						t.Errorf("append: %v", err)
						return
					}
				}
				if err := again(func() error { return f.claim(context.Background(), process, fmt.Sprint(n, "/", i)) }); err != nil {
					t.Errorf("claim: %v", err)
					return
				}
				written.Add(1)
				select {
				case newest <- j:
				case <-ctx.Done():
				}
			}
		})
	}
	for range 2 {
		process, _ := f.process(t)
		wg.Go(func() {
			for {
				var j events.Job
				select {
				case <-ctx.Done():
					return
				case j = <-newest:
				}
				if got, err := process.Job(context.Background(), j.ID); err != nil || got.Text != j.Text || got.Prompt != j.Prompt {
					t.Errorf("read: %+v, %v", got, err)
				}
				if _, err := process.Evidence(context.Background(), j.ID, []string{"text"}); err != nil {
					t.Errorf("evidence: %v", err)
				}
				if _, err := process.History(context.Background(), f.owner, uuid.UUID{}, 20); err != nil {
					t.Errorf("history: %v", err)
				}
			}
		})
	}
	const kills = 70 // a replacement has about as many statements, and those of its pages are alike from the 22nd on
	ended := 0
	for at := int64(1); at <= kills+14 && !t.Failed(); at++ {
		if at > 22 {
			at += 6
		}
		runCtx, kill := context.WithCancel(t.Context())
		var statements atomic.Int64
		pool := f.hooked(t, func(ctx context.Context, _ *pgx.Batch) context.Context {
			if statements.Add(1) == at && at <= kills {
				kill()
			}
			return ctx
		})
		process, _ := f.process(t)
		_, err := process.Rekey(runCtx, pool, f.owner, events.RekeyObserver{})
		kill()
		pool.Close()
		switch {
		case err == nil:
			ended++
		case !errors.Is(err, context.Canceled) || at > kills:
			t.Errorf("killed at statement %d: %v", at, err)
		}
	}
	stop()
	wg.Wait()
	if _, err := f.Rekey(t.Context(), f.db.Owner, f.owner, events.RekeyObserver{}); err != nil {
		t.Error(err)
	}
	if number := f.key(t).Number(); number < 4 || ended < 2 || written.Load() < 10 || f.replaced(t) != 0 {
		t.Errorf("key %d, %d replacements, %d jobs, %d replaced keys", number, ended, written.Load(), f.replaced(t))
	}
	if n := f.openedEvents(t, first); n != 0 {
		t.Errorf("the first key opens %d events", n)
	}
	f.mustBeIntact(t)
}

// again calls fn again while the owner's key was replaced meanwhile, as workers and clients do.
func again(fn func() error) (err error) {
	for range 20 {
		if err = fn(); !errors.Is(pg.State(err), pg.ErrContended) {
			break
		}
	}
	return err
}

// openedEvents is opened for events alone.
func (f *fixture) openedEvents(t testing.TB, key *vault.Key) (n int) {
	t.Helper()
	rows, _ := f.db.Owner.Query(t.Context(), `select 'event ' || stream || '@' || version, sealed from events where sealed is not null`)
	type row struct {
		AAD    string
		Sealed []byte
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if _, err := key.Open(r.Sealed, r.AAD); err == nil {
			n++
		}
	}
	return n
}

// TestErasureWinsOverRekey erases a job, and an owner, just before their values are sealed
// again.
func TestErasureWinsOverRekey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.SetKeyWait(0)
	j, err := f.put(t.Context(), f.newJob(), completedFacts()...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.put(t.Context(), f.newJob(), completedFacts()...); err != nil {
		t.Fatal(err)
	}
	erasing, _ := f.process(t)
	before := func(erase func()) *pgxpool.Pool {
		var once sync.Once
		return f.hooked(t, func(ctx context.Context, batch *pgx.Batch) context.Context {
			if batch != nil && batch.Len() > 0 {
				once.Do(erase)
			}
			return ctx
		})
	}
	first := f.key(t)
	got, err := f.Rekey(t.Context(), before(func() { f.erase(t, j) }), f.owner, events.RekeyObserver{})
	if err != nil || got.Events == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	var sealed int
	if err := f.db.Owner.QueryRow(t.Context(), `select count(*) from events where stream = $1 and sealed is not null`, events.JobStream(j.ID)).Scan(&sealed); err != nil || sealed != 0 {
		t.Errorf("%d events of the erased job have a ciphertext, %v", sealed, err)
	}
	if f.opened(t, first) != 0 {
		t.Error("the earlier key opens values")
	}
	f.mustBeIntact(t)

	_, err = f.Rekey(t.Context(), before(func() {
		if err := erasing.Erase(t.Context(), f.owner); err != nil {
			t.Error(err)
		}
	}), f.owner, events.RekeyObserver{})
	if !errors.Is(err, vault.ErrErased) {
		t.Errorf("an erased owner: %v", err)
	}
	if n, _ := f.ciphertexts(t, f.owner); n != 0 || f.replaced(t) != 0 {
		t.Errorf("%d events have a ciphertext, %d replaced keys", n, f.replaced(t))
	}
}

// TestFrozenProcessSealsNothingWithADestroyedKey replaces a key while processes are frozen that
// have it in memory. What they write afterwards must be readable.
func TestFrozenProcessSealsNothingWithADestroyedKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.SetKeyWait(0)
	j, err := f.put(t.Context(), f.newJob(), completedFacts()[:3]...)
	if err != nil {
		t.Fatal(err)
	}
	// Each has the key in memory, and uses it first in another way.
	began := time.Now()
	var frozen [4]*events.Store
	for i := range frozen {
		s, _ := f.process(t)
		if _, err := s.Job(t.Context(), j.ID); err != nil {
			t.Fatal(err)
		}
		frozen[i] = s
	}
	if _, err := f.Rekey(t.Context(), f.db.Owner, f.owner, events.RekeyObserver{}); err != nil {
		t.Fatal(err)
	}
	if _, err := frozen[0].AppendJob(t.Context(), j, completedFacts()[3]); err != nil {
		t.Errorf("a worker: %v", err)
	}
	for name, fn := range map[string]func() error{
		"an accepted job": func() error {
			return frozen[1].Write(t.Context(), func(tx *events.Tx) error {
				_, err := tx.AppendJob(t.Context(), f.newJob(), completedFacts()[0])
				return err
			})
		},
		"a claim": func() error { return f.claim(t.Context(), frozen[2], "k") },
	} {
		err := fn()
		inMemory := time.Since(began) < vault.KeyTTL
		if errors.Is(pg.State(err), pg.ErrContended) {
			err = fn()
		} else if inMemory {
			t.Errorf("%s is not refused: %v", name, err)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.db.Damage(t, `delete from history`)
	if r, err := frozen[3].RebuildHistory(t.Context(), events.Observer{}); err != nil || r.Wrong != 2 {
		t.Errorf("a rebuild: %+v, %v", r, err)
	}
	f.mustBeIntact(t)
}

// TestCheckWithoutTheNewKeyCannotTell checks an event that was sealed again, in a process that
// has the earlier key in memory and cannot open the new one. This is no fault of the event.
func TestCheckWithoutTheNewKeyCannotTell(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j, err := f.put(t.Context(), f.newJob(), completedFacts()...)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := f.process(t)
	other.SetKeyWait(0)
	if _, err := other.Rekey(t.Context(), f.db.Owner, f.owner, events.RekeyObserver{}); err != nil {
		t.Fatal(err)
	}
	f.db.Damage(t, `update owner_keys set master_key_id = '\x00' where owner = $1`, f.owner)
	rows, _ := f.db.App.Query(t.Context(), `select stream, version, owner, type, schema, at, payload, sealed, false from events where stream = $1 and version = 1`, events.JobStream(j.ID))
	row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[events.Row])
	if err != nil {
		t.Fatal(err)
	}
	if err := f.CheckRow(t.Context(), row, nil); !errors.Is(err, events.ErrNoKey) {
		t.Errorf("%v, want ErrNoKey", err)
	}
}
