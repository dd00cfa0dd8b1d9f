package events

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/internal/pg"
)

// Logged is an event and its place in the log.
type Logged struct {
	Event
	Index int64 // index in the log, from 0

	// Type is the type of the fact, also if the event is damaged.
	Type string

	// Damaged is set if the event cannot be read, so its fact is nil.
	Damaged bool
}

// FeedPage is the maximum number of events that Feed returns and that FollowFeed yields at
// once.
const FeedPage = 256

// ErrLogShorter occurs when the database has lost events of the log that a reader has seen,
// as after a restore from a backup.
var ErrLogShorter = errors.New("the log is shorter than before")

// feedQuery reads a page of a feed. The inner query needs one index alone, and bounds the
// number of rows that are joined.
const feedQuery = `
	select idx, at, ` + eventColumns + `
	from (select idx, position from log_entries where owner = $1 and idx > $2 order by idx limit $3) as page
	join events using (position) order by idx`

// Feed returns the first events of an owner after an index, in the order of the log: those
// of the owner's jobs and those of the owner's account. It returns at most limit events. The
// index -1 comes before the first event. An event that is not in the log yet is not in the
// result, and has a higher index than all events in it.
//
// A damaged event has Damaged set, and its stream is set aside. If the owner's key cannot be
// opened, or if a later version has written an event, Feed returns the events before it, and
// an error.
func (s *Store) Feed(ctx context.Context, owner uuid.UUID, after int64, limit int) ([]Logged, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	rows, _ := s.pool.Query(ctx, feedQuery, owner, after, min(limit, FeedPage))
	type row struct {
		storedEvent
		Index int64
		At    time.Time
	}
	stored, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (row, error) {
		var e row
		err := r.Scan(&e.Index, &e.At, &e.Stream, &e.Version, &e.Owner, &e.Type, &e.Schema, &e.Payload, &e.Sealed, &e.Erased)
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the feed of %s: %w", owner, err)
	}
	feed := make([]Logged, 0, len(stored))
	for _, r := range stored {
		e, err := s.decode(ctx, s.pool, r.storedEvent, nil)
		d, damaged := errors.AsType[*Damage](err)
		if damaged && errors.Is(d, ErrDamaged) {
			if err = s.SetAside(ctx, d); err == nil {
				e = Event{Stream: r.Stream, Version: r.Version, Owner: r.Owner, At: r.At.UTC()}
			}
		}
		if err != nil {
			return feed, fmt.Errorf("read the feed of %s: %w", owner, err)
		}
		feed = append(feed, Logged{Event: e, Index: r.Index, Type: r.Type, Damaged: damaged})
	}
	return feed, nil
}

// FollowFeed yields the events of an owner after an index, in the order of the log, each
// once, as the log grows. It yields them in batches, and an empty batch after each heartbeat
// interval without events. An index beyond the log counts as the index of its last event.
//
// The sequence ends when the caller leaves the loop, or with an error such as the error of
// ctx. While the database is unavailable, FollowFeed tries again. It needs Run.
func (s *Store) FollowFeed(ctx context.Context, owner uuid.UUID, after int64, heartbeat time.Duration) iter.Seq2[[]Logged, error] {
	return func(yield func([]Logged, error) bool) {
		// The subscription begins before the first read, so every event is either read or
		// wakes the reader.
		wake, leave := s.readers.join(owner)
		defer leave()
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for mustRead, clamped, heartbeatDue := true, false, false; ; {
			var batch []Logged
			var err error
			if !clamped {
				if after, err = s.clamp(ctx, after); err == nil {
					clamped = true
				}
			}
			if mustRead && err == nil {
				batch, err = s.Feed(ctx, owner, after, FeedPage)
			}
			if len(batch) > 0 {
				after = batch[len(batch)-1].Index
				tick.Reset(heartbeat)
			}
			if (len(batch) > 0 || heartbeatDue) && !yield(batch, nil) {
				return
			}
			heartbeatDue = false
			var retryRead <-chan time.Time
			switch {
			case err == nil && len(batch) == FeedPage:
				continue // there is more
			case err == nil:
				mustRead = false
			case ctx.Err() == nil && pg.Unavailable(err):
				retryRead = time.After(readRetryDelay)
			default:
				yield(nil, err)
				return
			}
			select {
			case <-ctx.Done():
				yield(nil, ctx.Err())
				return
			case _, ok := <-wake:
				if !ok {
					yield(nil, ErrLogShorter)
					return
				}
				mustRead = true
			case <-retryRead:
			case <-tick.C:
				heartbeatDue = true
			}
		}
	}
}

// clamp returns an index that is not beyond the log: after, or the last index.
func (s *Store) clamp(ctx context.Context, after int64) (int64, error) {
	if after < 0 {
		return after, nil
	}
	last, err := s.LogEnd(ctx)
	if err != nil {
		return after, err
	}
	return min(after, last), nil
}

// LogEnd returns the index of the last event in the log, or -1 if the log is empty.
func (s *Store) LogEnd(ctx context.Context) (last int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	if err := s.pool.QueryRow(ctx, `select coalesce(max(idx), -1) from log_entries`).Scan(&last); err != nil {
		return last, fmt.Errorf("read the size of the log: %w", err)
	}
	return last, nil
}
