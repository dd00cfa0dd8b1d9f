package events

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"colophon/internal/pg"
	"colophon/internal/vault"
)

const (
	// syncEvery is the interval between two reads of the database's clock.
	syncEvery = time.Second

	// syncTimeout bounds a read of the database's clock.
	syncTimeout = 2 * time.Second
)

// Clock returns a clock that shows the database's time. [Store.Run] keeps the clock up to
// date.
func (s *Store) Clock() *pg.Clock { return s.clock }

// Now returns the database's time in UTC, to the microsecond. Unlike [Store.Clock], it
// reads the database's clock if nothing has read it yet.
func (s *Store) Now(ctx context.Context) (time.Time, error) { return s.now(ctx, s.pool, time.Time{}) }

// now returns the database's time at Postgres's resolution, so that an event in memory
// equals the stored event. The result is not before the time of the stream's last event.
// So no duration between two events of a stream is negative, even if the database's clock
// is set back.
func (s *Store) now(ctx context.Context, db vault.DB, last time.Time) (time.Time, error) {
	if err := s.clock.Ensure(ctx, db); err != nil {
		return last, err
	}
	now := s.clock.Now().Truncate(time.Microsecond)
	if now.Before(last) {
		return last, nil
	}
	return now, nil
}

// keepTime keeps the clock in step with the database's clock until ctx is done. It logs
// when the difference between this process's clock and the database's clock changes by
// more than pg.MaxAhead.
func (s *Store) keepTime(ctx context.Context) {
	tick := time.NewTicker(s.syncEvery)
	defer tick.Stop()
	logged := time.Duration(0)
	for {
		// An error is not logged, because everything else that uses the database reports
		// it too.
		reading, cancel := context.WithTimeout(ctx, syncTimeout)
		if s.clock.Sync(reading, s.pool) == nil {
			logged = logAhead(ctx, s.log, s.clock.Ahead(), logged)
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// logAhead logs how far the process's clock is ahead of the database's clock. It does so
// only if this value differs by more than pg.MaxAhead from the value that was logged
// last. It returns the value that was logged last.
func logAhead(ctx context.Context, log *slog.Logger, ahead, logged time.Duration) time.Duration {
	if (ahead - logged).Abs() <= pg.MaxAhead {
		return logged
	}
	ahead = ahead.Round(time.Millisecond)
	if ahead.Abs() > pg.MaxAhead {
		log.WarnContext(ctx, "clock of this process differs from the database's clock, which the service uses", "ahead", ahead)
	} else {
		log.InfoContext(ctx, "clock of this process agrees with the database's clock again", "ahead", ahead)
	}
	return ahead
}

// ids keeps the ids of one store in increasing order.
type ids struct {
	mu   sync.Mutex
	last int64 // time of the last id, in units of 1/4096 of a millisecond
}

// NewID returns a UUID of version 7 with the database's time. Ids of one store are in
// increasing order, even if the database's clock is set back.
func (s *Store) NewID() uuid.UUID {
	id := uuid.New() // bits that are not overwritten below stay random
	now := s.clock.Now().UnixNano()
	const ms = int64(time.Millisecond)
	next := now/ms<<12 | now%ms*4096/ms
	s.ids.mu.Lock()
	next = max(next, s.ids.last+1)
	s.ids.last = next
	s.ids.mu.Unlock()
	for i := range 6 {
		id[i] = byte(next >> (52 - 8*i))
	}
	id[6], id[7] = 0x70|byte(next>>8)&0x0f, byte(next)
	return id
}
