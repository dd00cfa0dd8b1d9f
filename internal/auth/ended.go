package auth

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/flight"
)

const (
	// queryTimeout bounds a query, because a request may be waiting for the result.
	queryTimeout = 2 * time.Second

	// staleAfter is the maximum age of the last successful poll. When that poll is
	// older, Verify polls too. If this poll fails, Verify accepts no access token.
	staleAfter = 10 * time.Second

	// pollRetry is the minimum time between a failed poll and the next poll of Verify.
	pollRetry = time.Second
)

// errSessionEnded occurs when the session of an access token has ended. VerifyKey and While
// return errKeyEnded in its place for an API key.
var errSessionEnded = fmt.Errorf("%w: its session has ended", ErrAccessToken)

// endedSessions holds sessions in memory that ended early and whose access tokens may
// not have expired yet. It also holds API keys that have ended, in the same way: to this
// type, a key is a session. They are few. So a request is checked without a query.
type endedSessions struct {
	pool *pgxpool.Pool
	keep time.Duration    // time for which an ended session is held in memory
	now  func() time.Time // this process's clock

	queries flight.Group[struct{}]
	horizon int64 // id of the oldest transaction that may be unread, or 0 before the first query, accessed only by query

	mu       sync.RWMutex
	polled   time.Time                                           // start time of the last successful poll
	forgetAt map[uuid.UUID]time.Time                             // time at which an ended session may be forgotten, by session
	watchers map[uuid.UUID]map[*context.CancelCauseFunc]struct{} // functions to call when a session ends, by session
}

// newEndedSessions returns an empty list. The duration validity is the longest time for which
// a process may accept an access token, or what it has read of an API key.
func newEndedSessions(pool *pgxpool.Pool, validity time.Duration, now func() time.Time) *endedSessions {
	return &endedSessions{
		// A transaction that began before the end of a session may sign the session's
		// last access token a few seconds after that end. The additional minute covers
		// these seconds.
		pool: pool, keep: validity + time.Minute, now: now,
		queries:  flight.Group[struct{}]{Timeout: queryTimeout, Keep: pollRetry, Now: now},
		forgetAt: map[uuid.UUID]time.Time{}, watchers: map[uuid.UUID]map[*context.CancelCauseFunc]struct{}{},
	}
}

// endedQuery is the only key that endedSessions uses in its flight.Group.
const endedQuery = "ended sessions"

// poll reads the sessions that have ended since the last poll. The query begins after
// the call of poll, so it sees everything that was committed before the call.
func (e *endedSessions) poll(ctx context.Context) error {
	_, err := e.queries.DoFresh(ctx, endedQuery, e.query)
	return err
}

// query reads the sessions that have ended since the last query, and marks these sessions
// as ended in memory.
func (e *endedSessions) query(ctx context.Context) (none struct{}, err error) {
	began := e.now()
	horizon, sessions, err := e.newlyEnded(ctx)
	if err != nil {
		return none, err
	}
	e.horizon = horizon
	e.add(sessions...)
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.polled.IsZero() && began.Sub(e.polled) > e.keep {
		// Sessions and keys that ended meanwhile may be gone from the table. Their streams
		// would go on for ever.
		for _, watchers := range e.watchers {
			for cancel := range watchers {
				(*cancel)(errSessionEnded)
			}
		}
		clear(e.watchers)
	}
	e.polled = began
	return none, nil
}

const (
	// recentlyEnded reads the sessions that ended within a duration, for a process that
	// has just started. endedSince reads the sessions that were ended by transactions
	// with at least a given id, the horizon. Both queries also return the next horizon.
	// All sessions ended by transactions older than the next horizon are in this result
	// or in an earlier result.
	recentlyEnded = `
		select now.horizon::text::bigint, e.session
		from (select pg_snapshot_xmin(pg_current_snapshot()) as horizon) now
		left join ended_sessions e on e.ended_at > now() - $1::interval`
	endedSince = `
		select now.horizon::text::bigint, e.session
		from (select pg_snapshot_xmin(pg_current_snapshot()) as horizon) now
		left join ended_sessions e on e.tx >= $1::bigint::text::xid8`
)

// newlyEnded returns the sessions ended since the last horizon, and the next horizon.
func (e *endedSessions) newlyEnded(ctx context.Context) (horizon int64, sessions []uuid.UUID, err error) {
	if e.horizon > 0 {
		horizon, sessions, err = e.read(ctx, endedSince, e.horizon)
	}
	if err == nil && horizon < e.horizon || e.horizon == 0 {
		// This is the first query, or the answer comes from another server whose
		// transaction ids are lower.
		horizon, sessions, err = e.read(ctx, recentlyEnded, e.keep)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("read the ended sessions: %w", err)
	}
	return horizon, sessions, nil
}

func (e *endedSessions) read(ctx context.Context, query string, from any) (horizon int64, sessions []uuid.UUID, err error) {
	rows, _ := e.pool.Query(ctx, query, from)
	var session *uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&horizon, &session}, func() error {
		if session != nil {
			sessions = append(sessions, *session)
		}
		return nil
	})
	return horizon, sessions, err
}

// add marks sessions as ended and cancels their watchers.
func (e *endedSessions) add(sessions ...uuid.UUID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, session := range sessions {
		if _, ok := e.forgetAt[session]; ok {
			continue // a poll may read a session that an earlier poll has read
		}
		e.forgetAt[session] = e.now().Add(e.keep)
		for cancel := range e.watchers[session] {
			(*cancel)(errSessionEnded)
		}
		delete(e.watchers, session)
	}
}

// check returns errSessionEnded if the session has ended. If the last successful poll
// is too old, check polls, and returns another error if this poll fails.
func (e *endedSessions) check(ctx context.Context, session uuid.UUID) error {
	e.mu.RLock()
	_, ended := e.forgetAt[session]
	stale := e.now().Sub(e.polled) > staleAfter
	e.mu.RUnlock()
	if ended {
		return errSessionEnded
	}
	if !stale {
		return nil
	}
	if err := e.pollShared(ctx); err != nil {
		return err
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	if _, ended = e.forgetAt[session]; ended {
		return errSessionEnded
	}
	return nil
}

// pollShared polls on behalf of a request. It waits for the running query, or returns
// the result of a query that ended less than pollRetry ago. Otherwise it starts a query.
func (e *endedSessions) pollShared(ctx context.Context) error {
	_, err := e.queries.Do(ctx, endedQuery, e.query)
	return err
}

// watch calls cancel when the session ends. If the session has ended already, watch
// calls cancel at once. The caller must call stop to release the watcher.
func (e *endedSessions) watch(session uuid.UUID, cancel context.CancelCauseFunc) (stop func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ended := e.forgetAt[session]; ended {
		cancel(errSessionEnded)
		return func() {}
	}
	if e.watchers[session] == nil {
		e.watchers[session] = map[*context.CancelCauseFunc]struct{}{}
	}
	e.watchers[session][&cancel] = struct{}{}
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watchers[session], &cancel)
		if len(e.watchers[session]) == 0 {
			delete(e.watchers, session)
		}
	}
}

// forget removes the sessions whose access tokens have all expired.
func (e *endedSessions) forget() {
	now := e.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.DeleteFunc(e.forgetAt, func(_ uuid.UUID, at time.Time) bool { return now.After(at) })
}

// While returns a context that ends with ctx or with the identity's session or API key. If
// the session ends, the context's cause is an ErrAccessToken. If the key ends, the cause is
// an ErrAPIKey. The caller must call the returned function.
func (s *Service) While(ctx context.Context, id Identity) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	end := cancel
	if id.Key != nil {
		end = func(error) { cancel(errKeyEnded) }
	}
	stop := s.ended.watch(id.credential(), end)
	return ctx, func() { stop(); cancel(nil) }
}
