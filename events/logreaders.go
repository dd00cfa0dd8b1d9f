package events

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// logReaders wakes those who follow the feeds of owners. The zero logReaders is ready for
// use.
type logReaders struct {
	mu sync.Mutex
	of map[uuid.UUID]map[chan struct{}]struct{} // by owner
}

// join returns a channel that receives a value when the log may have new events of the owner.
// It is closed when the log has lost events. The caller must call leave when it stops reading.
func (l *logReaders) join(owner uuid.UUID) (wake <-chan struct{}, leave func()) {
	own := make(chan struct{}, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[uuid.UUID]map[chan struct{}]struct{}{}
	}
	if l.of[owner] == nil {
		l.of[owner] = map[chan struct{}]struct{}{}
	}
	l.of[owner][own] = struct{}{}
	return own, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.of[owner], own)
		if len(l.of[owner]) == 0 {
			delete(l.of, owner)
		}
	}
}

func (l *logReaders) none() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.of) == 0
}

// grown wakes the readers of an owner.
func (l *logReaders) grown(owner uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for wake := range l.of[owner] {
		wakeUp(wake)
	}
}

// wakeAll wakes all readers.
func (l *logReaders) wakeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, readers := range l.of {
		for wake := range readers {
			wakeUp(wake)
		}
	}
}

// endAll ends all readers, because the log has lost events.
func (l *logReaders) endAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, readers := range l.of {
		for wake := range readers {
			close(wake)
		}
	}
	clear(l.of)
}

// logGrew is the topic of the log's growth. It names no stream of events.
const logGrew Stream = "log"

const (
	// logPoll is the longest time between two checks of the log while somebody reads a feed.
	// It bounds the delay by a lost announcement.
	logPoll = time.Second

	// logChunk is the number of entries that one check reads at most.
	logChunk = 10_000
)

// LogGrew announces to all processes that the log has new entries. It must not be called
// before they are committed.
func (s *Store) LogGrew() {
	s.broker.announced(logGrew)
	s.Announce(Announcement{channel, string(logGrew) + " " + s.name})
}

// watchLog wakes the readers of feeds until ctx is done. One query serves all of them.
// While there are no readers, it makes no query.
func (s *Store) watchLog(ctx context.Context) {
	f := s.broker.subscribe(logGrew, make(chan struct{}, 1))
	defer s.broker.unsubscribe(logGrew, f)
	last, failed := int64(unknown), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-time.After(logPoll):
		}
		if s.readers.none() {
			last = unknown
			continue
		}
		for more := true; more; {
			next, full, err := s.checkLog(ctx, last)
			if err != nil && !failed && ctx.Err() == nil {
				s.log.WarnContext(ctx, "log not watched, retrying", "err", err)
			}
			failed, more = err != nil, err == nil && full
			if err == nil {
				last = next
			}
		}
	}
}

// unknown is the index of the last entry before the first check of the log.
const unknown = -2

// checkLog wakes the owners of the entries after the index last, and returns the index of the
// last entry that it has seen. It reports full if there may be more.
func (s *Store) checkLog(ctx context.Context, last int64) (next int64, full bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	if last == unknown {
		// Readers that joined before this query may have read before it.
		if next, err = s.LogEnd(ctx); err != nil {
			return last, false, err
		}
		s.readers.wakeAll()
		return next, false, nil
	}
	// The entry last is read again. If it is gone, the log is shorter than before.
	rows, _ := s.pool.Query(ctx, `select idx, owner from log_entries where idx >= $1 order by idx limit $2`, last, logChunk)
	var owner uuid.UUID
	next = -1
	owners := map[uuid.UUID]struct{}{}
	tag, err := pgx.ForEachRow(rows, []any{&next, &owner}, func() error {
		if next > last {
			owners[owner] = struct{}{}
		}
		return nil
	})
	if err != nil {
		return last, false, err
	}
	if next < last {
		s.readers.endAll()
		return unknown, false, nil
	}
	for owner := range owners {
		s.readers.grown(owner)
	}
	return next, tag.RowsAffected() == logChunk, nil
}
