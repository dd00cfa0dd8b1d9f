package pg

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// MaxAhead is the difference between the clocks of a process and its database above which
// the operator is told.
const MaxAhead = 5 * time.Second

// Clock tells the time of a database. [Clock.Sync] reads the database's clock. Between
// two reads, Clock adds the time that has passed on this process's monotonic clock. So a
// wrong or changing wall clock of this process does not matter.
//
// After a Sync, Clock differs from the database's clock by at most the duration of that
// read. Clock goes back only if the database's clock was set back, or is slower than this
// process's clock. If the database's clock is set, Clock follows at the next Sync. Clock is
// safe for concurrent use.
type Clock struct {
	local func() time.Time // the process's clock
	start time.Time        // the time of NewClock, by the process's clock
	epoch atomic.Int64     // time of NewClock by the database's clock, in Unix nanoseconds; 0 before the first Sync

	mu   sync.Mutex
	read time.Duration // when the latest reading began, since NewClock
}

// NewClock returns a clock that tells this process's time until the first Sync.
func NewClock() *Clock { return newClock(time.Now) }

func newClock(local func() time.Time) *Clock { return &Clock{local: local, start: local()} }

// Now returns the database's time in UTC. The result has no monotonic reading, so
// differences between results follow the database's clock.
func (c *Clock) Now() time.Time { return c.Epoch().Add(c.elapsed()) }

// Epoch returns the time at which the clock was made, by the database's clock. It stays
// the same until Sync finds that the database's clock was set.
func (c *Clock) Epoch() time.Time {
	if epoch := c.epoch.Load(); epoch != 0 {
		return time.Unix(0, epoch).UTC()
	}
	return c.start.Round(0).UTC()
}

// Ahead returns the time by which the wall clock of this process is ahead of the
// database's clock. It is negative if the process's clock is behind.
func (c *Clock) Ahead() time.Duration { return c.local().Round(0).Sub(c.Now()) }

// elapsed returns the time since NewClock.
func (c *Clock) elapsed() time.Duration { return c.local().Sub(c.start) }

// queryRower is a pool, a connection or a transaction.
type queryRower interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Sync reads the database's clock.
func (c *Clock) Sync(ctx context.Context, db queryRower) error {
	before := c.elapsed()
	var now time.Time
	if err := db.QueryRow(ctx, `select clock_timestamp()`).Scan(&now); err != nil {
		return fmt.Errorf("read the database's clock: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if before < c.read {
		return nil // a reading that began later is known, and the database's clock may have been set between the two
	}
	c.read = before
	earliest, latest := now.Add(-c.elapsed()).UnixNano(), now.Add(-before).UnixNano()
	// The database's clock was read at an unknown moment of the query. The first read counts
	// as its earliest possible result, and later ones correct it no further than they must. So
	// the correction of a slow read only moves the clock forward, and a read that agrees with
	// the clock does not change it.
	epoch := c.epoch.Load()
	if epoch == 0 {
		epoch = earliest
	}
	c.epoch.Store(min(max(epoch, earliest), latest))
	return nil
}

// Ensure calls Sync if no Sync has succeeded yet.
func (c *Clock) Ensure(ctx context.Context, db queryRower) error {
	if c.epoch.Load() != 0 {
		return nil
	}
	return c.Sync(ctx, db)
}
