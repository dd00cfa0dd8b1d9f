package auth

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/flight"
)

// silent returns a connection pool for a server that accepts connections but never
// answers.
func silent(t *testing.T) *pgxpool.Pool {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var accepted []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted = append(accepted, c)
		}
	})
	pool, err := pgxpool.New(t.Context(), "postgres://u@"+l.Addr().String()+"/d?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		for _, c := range accepted {
			c.Close()
		}
		pool.Close()
	})
	return pool
}

// hanging returns a service over a silent server. The service's queries end after timeout.
// The service's clock stands still, so a failed query is not repeated. The function verify
// runs concurrent calls of Verify. All calls must fail with the database's error. Half of
// the calls need the database because their key is unknown. The other calls need the
// database because the ended sessions are stale.
func hanging(t *testing.T, timeout time.Duration) (s *Service, verify func(ctx context.Context, callers int)) {
	t.Helper()
	pool := silent(t)
	s = offline(t)
	current := s.keys.current.Load()
	forger := newForger(t, s)
	s.keys = &keyring{pool: pool, vault: newVault(t, 7), clocks: clocks{s.now, s.now}, maxAge: keysMaxAge, reads: flight.Group[*keySet]{Timeout: timeout, Keep: keysMinInterval, Now: s.now}}
	s.keys.current.Store(current)
	s.ended = newEndedSessions(pool, DefaultAccessTTL, s.now)
	s.ended.queries.Timeout = timeout
	valid := forger.with(nil, nil)
	return s, func(ctx context.Context, callers int) {
		var wg sync.WaitGroup
		for i := range callers {
			token := valid
			if i%2 == 0 {
				token = forger.with(members{"kid": uuid.NewString()}, nil)
			}
			wg.Go(func() {
				if _, err := s.Verify(ctx, token); err == nil || errors.Is(err, ErrAccessToken) {
					t.Errorf("error %v, want the database's", err)
				}
			})
		}
		wg.Wait()
	}
}

// TestHangingDatabaseFailsRequestsTogether uses a database that does not answer.
// Concurrent requests for the same data must share one query and fail when the query
// times out. Later requests must fail at once, without a query.
func TestHangingDatabaseFailsRequestsTogether(t *testing.T) {
	t.Parallel()
	if s := newFixture(t); s.keys.reads.Timeout != 2*time.Second || s.Service.ended.queries.Timeout != 2*time.Second {
		t.Errorf("queries time out after %v and %v, want 2 s", s.keys.reads.Timeout, s.Service.ended.queries.Timeout)
	}
	s, verify := hanging(t, 50*time.Millisecond)
	verify(t.Context(), 25)
	verify(t.Context(), 25)
	if n := s.ended.pool.Stat().CanceledAcquireCount(); n != 2 {
		t.Errorf("%d queries for 50 requests, want one for the keys and one for the ended sessions", n)
	}
}

func TestClientThatLeavesDoesNotWaitForTheDatabase(t *testing.T) {
	t.Parallel()
	s, verify := hanging(t, time.Hour)
	left, leave := context.WithCancel(t.Context())
	stays, end := context.WithCancel(t.Context())
	var leaving, waiting sync.WaitGroup
	leaving.Go(func() { verify(left, 25) })
	waiting.Go(func() { verify(stays, 25) })
	begin := time.Now()
	for !s.keys.reads.Busy(keysRead) || !s.ended.queries.Busy(endedQuery) { // polls, because no event announces that the queries are running
		if time.Since(begin) > time.Minute {
			t.Fatal("no query is under way")
		}
		time.Sleep(time.Millisecond)
	}
	leave()
	leaving.Wait() // returns at once, although the queries time out only after an hour
	verify(left, 25)
	if !s.keys.reads.Busy(keysRead) || !s.ended.queries.Busy(endedQuery) {
		t.Error("the clients that left have ended the queries for the others")
	}
	end()
	waiting.Wait()
}
