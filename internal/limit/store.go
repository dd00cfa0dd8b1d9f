package limit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	limiter "github.com/sethvargo/go-limiter"

	"colophon/internal/periodic"
	"colophon/internal/pg"
)

// Store is go-limiter's store over Postgres: what the memory store does, for all
// processes together. Each call is one statement and uses the database's clock.
type Store struct {
	pool    *pgxpool.Pool
	name    string
	rate    Rate
	stopped atomic.Bool

	mu      sync.Mutex
	refused map[string]refusal // the keys that need no query
}

var _ limiter.Store = (*Store)(nil)

// refusal is what a key was told.
type refusal struct {
	tokens uint64
	reset  time.Time // of the window
	until  time.Time // when the database is asked again
}

const (
	// statementTimeout bounds a statement whose connection was cut without a word.
	statementTimeout = 5 * time.Second

	// refusedFor is how long a process remembers that a window is used up: a flood
	// costs the database one statement a second and not one a request.
	refusedFor = time.Second

	// maxRefused is how many keys it remembers that of.
	maxRefused = 10_000
)

// NewStore returns a store; stores of the same name count together.
func NewStore(pool *pgxpool.Pool, name string, rate Rate) *Store {
	return &Store{pool: pool, name: name, rate: rate, refused: map[string]refusal{}}
}

// row is the primary key of a key.
func (s *Store) row(key string) []byte {
	sum := sha256.Sum256([]byte(s.name + "\x00" + key))
	return sum[:16]
}

// Of statements that wait for each other's row, the later one may have begun
// earlier: it finds a window that began after it, and counts there. A clock that
// was set back shortens the window to its length.
const take = `
insert into rate_limits as r (key, remaining, ends_at)
values ($1, greatest($2::bigint - 1, -1), statement_timestamp() + $3::interval)
on conflict (key) do update set
    remaining = greatest(case when r.ends_at <= statement_timestamp() then coalesce(r.tokens, $2) else r.remaining end - 1, -1),
    ends_at = case when r.ends_at <= statement_timestamp()
        then r.ends_at + coalesce(r.per, $3) * (1 + floor(
            extract(epoch from statement_timestamp() - r.ends_at) / extract(epoch from coalesce(r.per, $3)))::double precision)
        else least(r.ends_at, statement_timestamp() + coalesce(r.per, $3)) end
returning coalesce(tokens, $2), remaining, greatest(extract(epoch from ends_at - statement_timestamp()), 0)::double precision`

// Take takes one of a key's tokens, if there is one left in its window. It
// returns how many a window has, how many remain of this one, and the Unix time
// in nanoseconds, by this process's clock, of its end.
func (s *Store) Take(ctx context.Context, key string) (tokens, remaining, reset uint64, ok bool, err error) {
	if s.stopped.Load() {
		return 0, 0, 0, false, limiter.ErrStopped
	}
	if r, ok := s.remembered(key); ok {
		return r.tokens, 0, uint64(r.reset.UnixNano()), false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var limit, left int64
	var seconds float64
	if err := s.pool.QueryRow(ctx, take, s.row(key), int64(s.rate.Requests), s.rate.Per).Scan(&limit, &left, &seconds); err != nil {
		return 0, 0, 0, false, err
	}
	ends := time.Now().Add(time.Duration(seconds * float64(time.Second)))
	if left < 0 {
		s.remember(key, refusal{uint64(limit), ends, time.Now().Add(min(refusedFor, time.Until(ends)))})
	}
	return uint64(limit), uint64(max(left, 0)), uint64(ends.UnixNano()), left >= 0, nil
}

func (s *Store) remembered(key string) (refusal, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.refused[key]
	if ok && time.Now().Before(r.until) {
		return r, true
	}
	delete(s.refused, key)
	return refusal{}, false
}

func (s *Store) remember(key string, r refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.refused) >= maxRefused {
		clear(s.refused) // it only saves statements
	}
	s.refused[key] = r
}

func (s *Store) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.refused, key)
}

// Get returns how many tokens a key has in a window and how many of them remain,
// as the last Take left it; zeros for a key that is not known.
func (s *Store) Get(ctx context.Context, key string) (tokens, remaining uint64, err error) {
	if s.stopped.Load() {
		return 0, 0, limiter.ErrStopped
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var limit, left int64
	err = s.pool.QueryRow(ctx, `select coalesce(tokens, $2), greatest(remaining, 0) from rate_limits where key = $1`,
		s.row(key), int64(s.rate.Requests)).Scan(&limit, &left)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, err
	}
	return uint64(limit), uint64(left), nil
}

// Set gives a key a limit of its own and a new window. Other processes that have
// refused it notice a second later.
func (s *Store) Set(ctx context.Context, key string, tokens uint64, per time.Duration) error {
	defer s.forget(key)
	return s.exec(ctx, `
		insert into rate_limits as r (key, remaining, ends_at, tokens, per)
		values ($1, $2, statement_timestamp() + $3::interval, $2, $3)
		on conflict (key) do update set
		    remaining = excluded.remaining, ends_at = excluded.ends_at, tokens = excluded.tokens, per = excluded.per`,
		s.row(key), int64(tokens), per)
}

// Burst adds tokens to a key's window; one that is not known gets them in every
// window. Other processes that have refused it notice a second later.
func (s *Store) Burst(ctx context.Context, key string, tokens uint64) error {
	defer s.forget(key)
	return s.exec(ctx, `
		insert into rate_limits as r (key, remaining, ends_at, tokens)
		values ($1, $2::bigint + $3, statement_timestamp() + $4::interval, $2 + $3)
		on conflict (key) do update set remaining = greatest(r.remaining, 0) + $3`,
		s.row(key), int64(s.rate.Requests), int64(tokens), s.rate.Per)
}

func (s *Store) exec(ctx context.Context, sql string, args ...any) error {
	if s.stopped.Load() {
		return limiter.ErrStopped
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, sql, args...)
	return err
}

// Close makes the store refuse to count. What has been counted stays.
func (s *Store) Close(context.Context) error {
	s.stopped.Store(true)
	return nil
}

const (
	collectEvery = time.Minute
	collectBatch = 10_000
)

// Collect removes, until ctx is done, the windows that ended ten minutes ago or
// earlier. Any number of processes may do so.
func Collect(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) {
	periodic.Run(ctx, collectEvery, log, "could not remove old counts of requests", func(ctx context.Context) error {
		_, err := collect(ctx, pool)
		return err
	})
}

// collect returns how many windows it has removed.
func collect(ctx context.Context, pool *pgxpool.Pool) (removed int64, err error) {
	// It skips rows that others count on or remove.
	removed, err = pg.DeleteBatches(ctx, pool, collectBatch, statementTimeout, `
		delete from rate_limits where ctid = any(array(
		    select ctid from rate_limits where ends_at < statement_timestamp() - interval '10 minutes'
		    limit $1 for update skip locked))`)
	if err != nil {
		return removed, fmt.Errorf("remove old counts of requests: %w", err)
	}
	return removed, nil
}
