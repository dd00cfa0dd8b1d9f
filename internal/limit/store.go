package limit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	limiter "github.com/sethvargo/go-limiter"

	"colophon/internal/periodic"
	"colophon/internal/pg"
)

// Store implements go-limiter's Store in Postgres. It behaves like go-limiter's memory
// store, but all processes share the counts. Each call is at most one statement and uses
// the database's clock.
type Store struct {
	pool    *pgxpool.Pool
	name    string
	rate    Rate
	stopped atomic.Bool

	mu      sync.Mutex
	refused *simplelru.LRU[string, refusal] // refusals of keys that are refused without a query
}

var _ limiter.Store = (*Store)(nil)

// refusal is the cached result for a key whose window is used up.
type refusal struct {
	tokens uint64    // requests per window
	most   uint64    // the key's own limit
	reset  time.Time // the end of the window
	until  time.Time // time at which the cached result expires
}

const (
	// statementTimeout bounds a statement, because a silently cut connection reports
	// no error for minutes.
	statementTimeout = 5 * time.Second

	// refusedFor is the time for which a process caches a refusal. A flood of requests
	// of one key then costs the database one statement per second. Without the cache, it
	// would cost one statement per request.
	refusedFor = time.Second

	// maxRefused is the maximum number of cached refusals. Beyond it, the refusal that was
	// used least recently is dropped.
	maxRefused = 10_000
)

// NewStore returns a store. Stores of the same name share their counts.
func NewStore(pool *pgxpool.Pool, name string, rate Rate) *Store {
	refused, _ := simplelru.NewLRU[string, refusal](maxRefused, nil) // fails only for a size below 1
	return &Store{pool: pool, name: name, rate: rate, refused: refused}
}

// rowKey returns the primary key of a key's row.
func (s *Store) rowKey(key string) []byte {
	sum := sha256.Sum256([]byte(s.name + "\x00" + key))
	return sum[:16]
}

// takeSQL counts n requests ($4) if the key has as many left, and if its own limit ($5) allows
// them. The column remaining has the requests that are left. After a refusal it has them as
// -1 - left, because the statement returns only the new row. A statement may have to wait for
// the row. If a new window begins during the wait, the requests count in the new window. If the
// database's clock was set back, the window ends at most one window length from now.
const takeSQL = `
insert into rate_limits as r (key, remaining, ends_at)
values ($1, case when $4::bigint <= least($2::bigint, $5::bigint) then $2::bigint - $4::bigint else -1 - $2::bigint end, statement_timestamp() + $3::interval)
on conflict (key) do update set
    remaining = (
        select case when $4 <= has - greatest(rate - $5, 0) then has - $4 else -1 - has end
        from (select coalesce(r.tokens, $2) as rate, case
            when r.ends_at <= statement_timestamp() then coalesce(r.tokens, $2)
            when r.remaining < 0 then -1 - r.remaining
            else r.remaining end as has) as before),
    ends_at = case when r.ends_at <= statement_timestamp()
        then r.ends_at + coalesce(r.per, $3) * (1 + floor(
            extract(epoch from statement_timestamp() - r.ends_at) / extract(epoch from coalesce(r.per, $3)))::double precision)
        else least(r.ends_at, statement_timestamp() + coalesce(r.per, $3)) end
returning coalesce(tokens, $2), remaining, greatest(extract(epoch from ends_at - statement_timestamp()), 0)::double precision, ends_at`

// undoSQL takes back n requests ($2) that have counted in the window that ends at $3.
const undoSQL = `
update rate_limits set remaining = case when remaining < 0 then -1 - remaining else remaining end + $2 where key = $1 and ends_at = $3`

// Take takes one token of a key, if the key's current window has a token left. It
// returns the tokens per window and the tokens left in the current window. The result
// reset is the end of the current window as Unix time in nanoseconds, by this process's
// clock.
func (s *Store) Take(ctx context.Context, key string) (tokens, remaining, reset uint64, ok bool, err error) {
	c, _, err := s.take(ctx, key, 1, math.MaxInt64)
	if err != nil {
		return 0, 0, 0, false, err
	}
	return c.Limit, c.Remaining, uint64(time.Now().Add(c.Reset).UnixNano()), c.OK, nil
}

// take is described at store.
func (s *Store) take(ctx context.Context, key string, n, most uint64) (c Count, undo func(context.Context) error, err error) {
	if s.stopped.Load() {
		return c, nil, limiter.ErrStopped
	}
	if r, ok := s.cached(key); ok && r.most == most {
		return Count{Limit: r.tokens, Reset: max(0, time.Until(r.reset))}, nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var tokens, left int64
	var seconds float64
	var ends time.Time
	if err := s.pool.QueryRow(ctx, takeSQL, s.rowKey(key), int64(s.rate.Requests), s.rate.Per, int64(n), int64(most)).Scan(&tokens, &left, &seconds, &ends); err != nil {
		return c, nil, err
	}
	c.OK = left >= 0
	if !c.OK {
		left = -1 - left
	}
	c.Limit = min(uint64(tokens), most)
	c.Remaining = uint64(max(0, left-(tokens-int64(c.Limit))))
	c.Reset = time.Duration(seconds * float64(time.Second))
	if c.OK {
		return c, func(ctx context.Context) error { return s.exec(ctx, undoSQL, s.rowKey(key), int64(n), ends) }, nil
	}
	if c.Remaining == 0 { // otherwise fewer requests would be allowed
		now := time.Now()
		s.cache(key, refusal{c.Limit, most, now.Add(c.Reset), now.Add(min(refusedFor, c.Reset))})
	}
	return c, nil, nil
}

func (s *Store) cached(key string) (refusal, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.refused.Get(key)
	if ok && time.Now().Before(r.until) {
		return r, true
	}
	s.refused.Remove(key)
	return refusal{}, false
}

func (s *Store) cache(key string, r refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused.Add(key, r)
}

func (s *Store) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused.Remove(key)
}

// Get returns the tokens of a key per window, and the tokens left after the last
// Take. It returns zeros for an unknown key.
func (s *Store) Get(ctx context.Context, key string) (tokens, remaining uint64, err error) {
	if s.stopped.Load() {
		return 0, 0, limiter.ErrStopped
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var limit, left int64
	err = s.pool.QueryRow(ctx, `select coalesce(tokens, $2), case when remaining < 0 then -1 - remaining else remaining end from rate_limits where key = $1`,
		s.rowKey(key), int64(s.rate.Requests)).Scan(&limit, &left)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, err
	}
	return uint64(limit), uint64(left), nil
}

// Set gives a key its own rate and starts a new window. Another process that has cached
// a refusal of the key applies the new rate within a second.
func (s *Store) Set(ctx context.Context, key string, tokens uint64, per time.Duration) error {
	defer s.forget(key)
	return s.exec(ctx, `
		insert into rate_limits as r (key, remaining, ends_at, tokens, per)
		values ($1, $2, statement_timestamp() + $3::interval, $2, $3)
		on conflict (key) do update set
		    remaining = excluded.remaining, ends_at = excluded.ends_at, tokens = excluded.tokens, per = excluded.per`,
		s.rowKey(key), int64(tokens), per)
}

// Burst adds tokens to the current window of a key. An unknown key gets the additional
// tokens in every window. Another process that has cached a refusal of the key applies
// the burst within a second.
func (s *Store) Burst(ctx context.Context, key string, tokens uint64) error {
	defer s.forget(key)
	return s.exec(ctx, `
		insert into rate_limits as r (key, remaining, ends_at, tokens)
		values ($1, $2::bigint + $3::bigint, statement_timestamp() + $4::interval, $2::bigint + $3::bigint)
		on conflict (key) do update set
		    remaining = case when r.remaining < 0 then -1 - r.remaining else r.remaining end + $3`,
		s.rowKey(key), int64(s.rate.Requests), int64(tokens), s.rate.Per)
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

// Close makes later calls return limiter.ErrStopped. The counts stay stored.
func (s *Store) Close(context.Context) error {
	s.stopped.Store(true)
	return nil
}

const (
	removeEvery = time.Minute
	removeBatch = 10_000 // the largest number of rows that one statement removes
)

// RemoveOld removes the windows that ended at least ten minutes ago. It does so once a
// minute until ctx is done. Any number of processes may run RemoveOld at the same time.
func RemoveOld(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) {
	periodic.Run(ctx, removeEvery, log, "old request counts not removed", func(ctx context.Context) error {
		_, err := removeOld(ctx, pool)
		return err
	})
}

// removeOld removes old windows and returns their number.
func removeOld(ctx context.Context, pool *pgxpool.Pool) (removed int64, err error) {
	removed, err = pg.DeleteBatches(ctx, pool, removeBatch, statementTimeout, `
		delete from rate_limits where ctid = any(array(
		    select ctid from rate_limits where ends_at < statement_timestamp() - interval '10 minutes'
		    limit $1 for update skip locked))`)
	if err != nil {
		return removed, fmt.Errorf("remove old request counts: %w", err)
	}
	return removed, nil
}
