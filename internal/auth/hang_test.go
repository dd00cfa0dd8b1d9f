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

// silent returns a pool of connections to a server that accepts them and never
// says anything.
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

// Requests that need a database that does not answer fail together, and later
// ones fail at once.
func TestADatabaseThatHangs(t *testing.T) {
	pool := silent(t)
	s := offline(t)
	known := s.keys.current.Load()
	forger := newForger(t, s)
	s.now = time.Now
	forger.now = time.Now()
	s.keys = &keyring{pool: pool, vault: newVault(t, 7), now: s.now, maxAge: keysMaxAge, reads: flight.Group[*keySet]{Timeout: keysTimeout, Keep: keysMinInterval, Now: s.now}}
	s.keys.current.Store(known)
	s.ended = newEndedSessions(pool, DefaultAccessTTL, s.now)
	good := forger.with(nil, nil)
	ask := func(ctx context.Context, callers int) {
		var wg sync.WaitGroup
		for i := range callers {
			token := good
			if i%2 == 0 {
				token = forger.with(members{"kid": uuid.NewString()}, nil)
			}
			wg.Go(func() {
				if _, err := s.Verify(ctx, token); err == nil || errors.Is(err, ErrAccessToken) {
					t.Errorf("error %v, want that of the database", err)
				}
			})
		}
		wg.Wait()
	}
	left, leave := context.WithCancel(t.Context())
	begin := time.Now()
	var waiting sync.WaitGroup
	waiting.Go(func() { ask(t.Context(), 25) })
	for !s.keys.reads.Busy(keysRead) || !s.ended.queries.Busy(endedQuery) { // which nothing announces
		if time.Since(begin) > time.Minute {
			t.Fatal("no query is under way")
		}
		time.Sleep(time.Millisecond)
	}
	leave()
	ask(left, 25) // who has left waits for nothing
	if took := time.Since(begin); took > queryTimeout*3/4 {
		t.Errorf("who has left waited %v", took)
	}
	waiting.Wait()
	ask(t.Context(), 25)
	if took := time.Since(begin); took > 3*queryTimeout {
		t.Errorf("all have waited %v, want little more than %v", took, queryTimeout)
	}
}
