package limit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	limiter "github.com/sethvargo/go-limiter"
	"github.com/sethvargo/go-limiter/memorystore"
	"pgregory.net/rapid"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
	"colophon/migrations"
)

// age moves the ends of all windows back in time.
func age(t testing.TB, pool *pgxpool.Pool, by time.Duration) {
	t.Helper()
	if _, err := pool.Exec(context.Background(), `update rate_limits set ends_at = ends_at - $1::interval`, by); err != nil {
		t.Fatal(err)
	}
}

// TestStoreBehavesLikeTheMemoryStore runs the same operations on the memory store and on
// Store, within one window. Both stores must return the same results.
func TestStoreBehavesLikeTheMemoryStore(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		tokens := rapid.Uint64Range(1, 4).Draw(t, "tokens")
		memory, err := memorystore.New(&memorystore.Config{Tokens: tokens, Interval: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		defer memory.Close(ctx)
		runs++
		// The two stores stand for two processes. A process that has cached a refusal
		// applies a Set or Burst of the other process within a second. The call of
		// forget makes it do so at once.
		shared := []*Store{
			NewStore(db.App, fmt.Sprint("run-", runs), Rate{tokens, time.Hour}),
			NewStore(db.App, fmt.Sprint("run-", runs), Rate{tokens, time.Hour}),
		}
		keys := rapid.SampledFrom([]string{"user a", "user b", "address ::1", ""})
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				key := keys.Draw(t, "key")
				s := rapid.SampledFrom(shared).Draw(t, "process")
				t1, r1, reset1, ok1, err1 := memory.Take(ctx, key)
				t2, r2, reset2, ok2, err2 := s.Take(ctx, key)
				if err1 != nil || err2 != nil || t1 != t2 || r1 != r2 || ok1 != ok2 {
					t.Fatalf("take %q: memory %d %d %v %v, shared %d %d %v %v", key, t1, r1, ok1, err1, t2, r2, ok2, err2)
				}
				if diff := time.Duration(int64(reset1) - int64(reset2)); diff.Abs() > time.Minute {
					t.Fatalf("the windows end %s apart", diff)
				}
			},
			"get": func(t *rapid.T) {
				key := keys.Draw(t, "key")
				t1, r1, _ := memory.Get(ctx, key)
				t2, r2, err := shared[0].Get(ctx, key)
				if err != nil || t1 != t2 || r1 != r2 {
					t.Fatalf("get %q: memory %d %d, shared %d %d %v", key, t1, r1, t2, r2, err)
				}
			},
			"set": func(t *rapid.T) {
				key, n := keys.Draw(t, "key"), rapid.Uint64Range(0, 5).Draw(t, "n")
				if err := errors.Join(memory.Set(ctx, key, n, 2*time.Hour), shared[0].Set(ctx, key, n, 2*time.Hour)); err != nil {
					t.Fatal(err)
				}
				shared[1].forget(key)
			},
			"burst": func(t *rapid.T) {
				key, n := keys.Draw(t, "key"), rapid.Uint64Range(0, 5).Draw(t, "n")
				if err := errors.Join(memory.Burst(ctx, key, n), shared[0].Burst(ctx, key, n)); err != nil {
					t.Fatal(err)
				}
				shared[1].forget(key)
			},
		})
	})
}

// TestWindowsStayAligned takes requests of one key over several windows. The windows must
// stay aligned to the first request, even after a long pause. A change of the database's
// clock must not make a window longer.
func TestWindowsStayAligned(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	l := Shared(db.App, "calls", Rate{2, time.Hour})
	take := func(ok bool, remaining uint64, minReset, maxReset time.Duration) {
		t.Helper()
		l.store.(*Store).forget("k")
		c, err := l.Take(t.Context(), Use{Key: "k"})
		if err != nil {
			t.Fatal(err)
		}
		if c.OK != ok || c.Remaining != remaining || c.Limit != 2 || c.Reset < minReset || c.Reset > maxReset {
			t.Errorf("%+v, want %v, %d remaining, a reset in %s to %s", c, ok, remaining, minReset, maxReset)
		}
	}
	const slack = 5 * time.Minute // the time that a slow machine may take
	take(true, 1, time.Hour-slack, time.Hour)
	take(true, 0, time.Hour-slack, time.Hour)
	take(false, 0, time.Hour-slack, time.Hour)
	take(false, 0, time.Hour-slack, time.Hour)
	age(t, db.Owner, 20*time.Minute)
	take(false, 0, 40*time.Minute-slack, 40*time.Minute)
	age(t, db.Owner, 45*time.Minute) // five minutes into the second window
	take(true, 1, 55*time.Minute-slack, 55*time.Minute)
	age(t, db.Owner, 3*time.Hour+20*time.Minute) // 25 minutes into the fifth window
	take(true, 1, 35*time.Minute-slack, 35*time.Minute)
	age(t, db.Owner, -100*time.Hour) // as if the database's clock had been set back
	take(true, 0, time.Hour-slack, time.Hour)
	take(false, 0, time.Hour-slack, time.Hour)
	// A process with another rate must count in the same window.
	l = Shared(db.App, "calls", Rate{2, time.Minute})
	take(false, 0, 0, time.Minute)
}

// Keys of one group must together get groupShare times the rate of one key, in memory and
// in the database. Keys without a group and keys of other groups must not be affected.
func TestGroupsHaveALargerLimit(t *testing.T) {
	t.Parallel()
	memory, err := InMemory("calls", Rate{2, time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]*Limit{"memory": memory, "shared": Shared(pgtest.New(t, migrations.Up).App, "calls", Rate{2, time.Hour})} {
		take := func(key, group string) Count {
			t.Helper()
			c, err := l.Take(t.Context(), Use{Key: key, Group: group})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		for i := range groupShare {
			for range 2 {
				if c := take(fmt.Sprint("key ", i), "a"); !c.OK || c.Limit != 2 {
					t.Fatalf("%s: key %d: %+v", name, i, c)
				}
			}
			if c := take(fmt.Sprint("key ", i), "a"); c.OK { // this refused request must not count for the group
				t.Fatalf("%s: key %d got a third request", name, i)
			}
		}
		if c := take("one more key", "a"); c.OK || c.Limit != 2*groupShare || c.Reset <= 0 {
			t.Errorf("%s: beyond the group's limit: %+v", name, c)
		}
		if c := take("another key", "b"); !c.OK {
			t.Errorf("%s: another group: %+v", name, c)
		}
		if c := take("a key without a group", ""); !c.OK {
			t.Errorf("%s: no group: %+v", name, c)
		}
	}
}

// TestProcessesShareOneLimit sends concurrent requests through several pools. Exactly 37
// requests, the limit, must be allowed. Each allowed request must get a different number
// of remaining requests.
func TestProcessesShareOneLimit(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	const limit, processes, each = 37, 3, 60
	var allowed atomic.Int64
	remaining := make([]atomic.Int64, limit)
	var wg sync.WaitGroup
	for range processes {
		pool, err := pg.Connect(t.Context(), db.URL, migrations.AppRole)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		l := Shared(pool, "jobs", Rate{limit, time.Hour})
		for range each {
			wg.Go(func() {
				c, err := l.Take(t.Context(), Use{Key: "user x"})
				if err != nil {
					t.Error(err)
				}
				if c.OK {
					allowed.Add(1)
					remaining[c.Remaining].Add(1)
				}
			})
		}
	}
	wg.Wait()
	if n := allowed.Load(); n != limit {
		t.Errorf("%d of %d requests were allowed, want %d", n, processes*each, limit)
	}
	for left := range remaining {
		if n := remaining[left].Load(); n != 1 {
			t.Errorf("%d requests got %d remaining, want 1", n, left)
		}
	}
}

// TestRefusedKeyNeedsNoQuery drops the table of counts after a key has been refused. The
// key must be refused again, without an error.
func TestRefusedKeyNeedsNoQuery(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	s := NewStore(db.App, "jobs", Rate{1, time.Hour})
	for range 3 {
		if _, _, _, _, err := s.Take(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
	}
	r, ok := s.refused.Peek("k")
	if !ok {
		t.Fatal("the refusal is not cached")
	}
	r.until = time.Now().Add(time.Hour) // so that the refusal does not expire on a slow machine
	s.cache("k", r)
	if _, err := db.Owner.Exec(t.Context(), `drop table rate_limits`); err != nil {
		t.Fatal(err)
	}
	if _, _, _, ok, err := s.Take(t.Context(), "k"); ok || err != nil {
		t.Errorf("a refused key: %v, %v", ok, err)
	}
	if _, _, _, _, err := s.Take(t.Context(), "another"); err == nil {
		t.Error("another key was counted without the table")
	}
	// The cache must hold at most maxRefused keys.
	for i := range 2*maxRefused + 5 {
		s.cache(fmt.Sprint(i), refusal{until: time.Now().Add(time.Hour)})
	}
	if n := s.refused.Len(); n > maxRefused {
		t.Errorf("%d keys are cached, want at most %d", n, maxRefused)
	}
}

func TestOldCountsAreRemoved(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	s := NewStore(db.App, "jobs", Rate{1, time.Minute})
	old, fresh := removeBatch+5, 3
	fill := func(n int, name string) {
		t.Helper()
		_, err := db.Owner.Exec(t.Context(), `insert into rate_limits (key, remaining, ends_at)
			select decode(md5($1 || i), 'hex'), 0, now() from generate_series(1, $2::int) i`, name, n)
		if err != nil {
			t.Fatal(err)
		}
	}
	fill(old, "old")
	age(t, db.Owner, 11*time.Minute)
	fill(fresh, "fresh")
	// A row that another transaction has locked must be skipped.
	tx, err := db.Owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `update rate_limits set remaining = 1 where key = decode(md5('old7'), 'hex')`); err != nil {
		t.Fatal(err)
	}
	if n, err := removeOld(t.Context(), db.App); err != nil || n != int64(old-1) {
		t.Errorf("%d rows were removed, want %d, error %v", n, old-1, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := removeOld(t.Context(), db.App); err != nil || n != 1 {
		t.Errorf("%d rows were removed, want 1, error %v", n, err)
	}
	// Counting and removing at the same time must not give an error.
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 30 {
				if i == 0 {
					age(t, db.Owner, time.Hour)
					if _, err := removeOld(t.Context(), db.App); err != nil {
						t.Error(err)
					}
				} else if _, _, _, _, err := s.Take(t.Context(), "k"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestKeysAreStoredAsHashes reads the row of a key from the database. The row must not
// contain the key itself.
func TestKeysAreStoredAsHashes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	if _, _, _, _, err := NewStore(db.App, "jobs", Rate{1, time.Hour}).Take(t.Context(), "address 192.0.2.77"); err != nil {
		t.Fatal(err)
	}
	var row string
	if err := db.Owner.QueryRow(t.Context(), `select row_to_json(r)::text from rate_limits r`).Scan(&row); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(row, "192.0.2") || strings.Contains(row, fmt.Sprintf("%x", "192.0.2")) {
		t.Errorf("the row holds the key: %s", row)
	}
}

func TestDatabaseOutageIsAnError(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	pool, err := pg.Connect(t.Context(), db.URL, migrations.AppRole)
	if err != nil {
		t.Fatal(err)
	}
	l := Shared(pool, "jobs", Rate{1, time.Hour})
	store := l.store.(*Store)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := l.Take(ctx, Use{Key: "k"}); err == nil || c.OK {
		t.Errorf("%+v, %v", c, err)
	}
	if err := store.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Take(t.Context(), Use{Key: "k"}); !errors.Is(err, limiter.ErrStopped) {
		t.Errorf("after Close: %v", err)
	}
	pool.Close()
}

func TestInMemoryLimitRefusesFurtherRequests(t *testing.T) {
	t.Parallel()
	l, err := InMemory("calls", Rate{1, time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false} {
		c, err := l.Take(t.Context(), Use{Key: "k"})
		if err != nil || c.OK != want || c.Limit != 1 || c.Remaining != 0 || c.Reset > time.Hour || c.Reset < 30*time.Minute {
			t.Errorf("request %d: %+v, %v", i, c, err)
		}
	}
}

// BenchmarkTake measures the time of one Take, for allowed and for refused requests.
func BenchmarkTake(b *testing.B) {
	db := pgtest.New(b, migrations.Up)
	memory, err := InMemory("calls", Rate{1 << 40, time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	used, err := InMemory("calls", Rate{1, time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	for name, l := range map[string]*Limit{
		"memory": memory, "memory-refused": used,
		"shared": Shared(db.App, "calls", Rate{1 << 40, time.Minute}), "shared-refused": Shared(db.App, "used", Rate{1, time.Hour}),
	} {
		b.Run(name, func(b *testing.B) {
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, err := l.Take(context.Background(), Use{Key: "user 0190a0c0-0000-7000-8000-000000000000"}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
