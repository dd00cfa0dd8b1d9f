package auth

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/flight"
	"colophon/internal/periodic"
)

const (
	// lookEvery is how often Run asks which sessions have ended; announcements
	// make it ask at once, but no more often than lookApart.
	lookEvery = time.Second
	lookApart = 50 * time.Millisecond

	// lookTimeout bounds a query, for which a request may be waiting.
	lookTimeout = 2 * time.Second

	// lookStale is how old the answer may be until Verify asks itself, and
	// refuses to say anything if there is no answer.
	lookStale = 10 * time.Second

	// lookAgain is how long after it asked in vain Verify asks again.
	lookAgain = time.Second
)

// errSessionEnded is why an access token of such a session is refused.
var errSessionEnded = fmt.Errorf("%w: its session has ended", ErrAccessToken)

// endings has the sessions in memory that ended before their time and of which
// there may still be access tokens that have not expired. That is few, so that
// nobody has to ask the database about a session that has not.
type endings struct {
	pool *pgxpool.Pool
	keep time.Duration // how long an ended session is kept here
	now  func() time.Time

	queries flight.Group[struct{}]
	horizon int64 // the oldest transaction that may not have been seen yet; 0 at first; for query only

	mu    sync.RWMutex
	asked time.Time                                           // when the answer was had that counts
	until map[uuid.UUID]time.Time                             // the ended sessions, and when they may be forgotten
	those map[uuid.UUID]map[*context.CancelCauseFunc]struct{} // who goes on while a session does
}

func newEndings(pool *pgxpool.Pool, accessTTL time.Duration, now func() time.Time) *endings {
	return &endings{
		// From the end of a session, its last access token was signed, by a
		// transaction that had begun then, at the most a few seconds later.
		pool: pool, keep: accessTTL + time.Minute, now: now,
		queries: flight.Group[struct{}]{Timeout: lookTimeout, Keep: lookAgain, Now: now},
		until:   map[uuid.UUID]time.Time{}, those: map[uuid.UUID]map[*context.CancelCauseFunc]struct{}{},
	}
}

// endedQuery is the only key of endings.queries.
const endedQuery = "ended sessions"

// look asks the database which sessions have ended since it was last asked.
func (e *endings) look(ctx context.Context) error {
	_, err := e.queries.DoFresh(ctx, endedQuery, e.query)
	return err
}

// query reads the sessions that have ended since the last query and adds them.
func (e *endings) query(ctx context.Context) (none struct{}, err error) {
	began := e.now()
	horizon, sessions, err := e.news(ctx)
	if err != nil {
		return none, err
	}
	e.horizon = horizon
	e.add(sessions...)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = began
	return none, nil
}

const (
	// recent reads what may matter to who knows nothing yet, since what
	// transactions from a horizon on have ended. What is older than the horizon
	// that they return is in the answer, or has been in an earlier one.
	recent = `
		select now.horizon::text::bigint, e.session
		from (select pg_snapshot_xmin(pg_current_snapshot()) as horizon) now
		left join ended_sessions e on e.ended_at > now() - $1::interval`
	since = `
		select now.horizon::text::bigint, e.session
		from (select pg_snapshot_xmin(pg_current_snapshot()) as horizon) now
		left join ended_sessions e on e.tx >= $1::bigint::text::xid8`
)

// news returns the sessions that have ended from the known horizon on, and the
// next horizon.
func (e *endings) news(ctx context.Context) (horizon int64, sessions []uuid.UUID, err error) {
	if e.horizon > 0 {
		horizon, sessions, err = e.read(ctx, since, e.horizon)
	}
	if err == nil && horizon < e.horizon || e.horizon == 0 {
		// The first time, or on another server, which counts from elsewhere.
		horizon, sessions, err = e.read(ctx, recent, e.keep)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("ask which sessions have ended: %w", err)
	}
	return horizon, sessions, nil
}

func (e *endings) read(ctx context.Context, query string, from any) (horizon int64, sessions []uuid.UUID, err error) {
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

// add notes that sessions have ended, and ends what goes on for them.
func (e *endings) add(sessions ...uuid.UUID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, session := range sessions {
		if _, ok := e.until[session]; ok {
			continue // a transaction may be seen again
		}
		e.until[session] = e.now().Add(e.keep)
		for cancel := range e.those[session] {
			(*cancel)(errSessionEnded)
		}
		delete(e.those, session)
	}
}

// check returns errSessionEnded for a session that has ended, and another error
// if that cannot be said.
func (e *endings) check(ctx context.Context, session uuid.UUID) error {
	e.mu.RLock()
	_, ended := e.until[session]
	stale := e.now().Sub(e.asked) > lookStale
	e.mu.RUnlock()
	if ended {
		return errSessionEnded
	}
	if !stale {
		return nil
	}
	if err := e.renew(ctx); err != nil {
		return err
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	if _, ended = e.until[session]; ended {
		return errSessionEnded
	}
	return nil
}

// renew is look for a request that found the answer stale: it shares the running
// query, or the result of one that has just ended.
func (e *endings) renew(ctx context.Context) error {
	_, err := e.queries.Do(ctx, endedQuery, e.query)
	return err
}

// while registers what is to be cancelled when a session ends, and returns what
// ends that. A session that has ended already cancels at once.
func (e *endings) while(session uuid.UUID, cancel context.CancelCauseFunc) (forget func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ended := e.until[session]; ended {
		cancel(errSessionEnded)
		return func() {}
	}
	if e.those[session] == nil {
		e.those[session] = map[*context.CancelCauseFunc]struct{}{}
	}
	e.those[session][&cancel] = struct{}{}
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.those[session], &cancel)
		if len(e.those[session]) == 0 {
			delete(e.those, session)
		}
	}
}

// forget forgets the sessions that ended so long ago that it does not matter.
func (e *endings) forget() {
	now := e.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.DeleteFunc(e.until, func(_ uuid.UUID, until time.Time) bool { return now.After(until) })
}

// While returns a context that ends with ctx or with the identity's session; in
// that case its cause is an ErrAccessToken.
func (s *Service) While(ctx context.Context, id Identity) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	forget := s.ended.while(id.Session, cancel)
	return ctx, func() { forget(); cancel(nil) }
}

// Run keeps what the service has in memory up to date, and removes from the
// database what has expired, until ctx is done.
func (s *Service) Run(ctx context.Context, log *slog.Logger) {
	wake, unsubscribe := s.store.Accounts()
	defer unsubscribe()
	var collecting sync.WaitGroup
	defer collecting.Wait()
	collecting.Go(func() { periodic.Run(ctx, collectEvery, log, "could not clean up", s.collect) })
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	failing := false
	for age := s.keys.known / 2; ; {
		err := s.ended.look(ctx)
		s.keys.within(ctx, age)
		age = s.keys.known / 2
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			log.WarnContext(ctx, "does not learn of ended sessions; access tokens are refused until it does", "err", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookApart):
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
			age = s.keys.reads.Keep // it may have been a rotation
		case <-tick.C:
		}
	}
}
