package auth

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
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

// Requests that need a database that does not answer are told so together, and
// those that come then at once.
func TestADatabaseThatHangs(t *testing.T) {
	pool := silent(t)
	s := offline(t)
	known := s.keys.current.Load()
	forger := newForger(t, s)
	s.now = time.Now
	forger.now = time.Now()
	s.keys = &keyring{pool: pool, vault: newVault(t, 7), now: s.now, known: keysFor, every: keysEvery, reading: asking{now: s.now}}
	s.keys.current.Store(known)
	s.ended = newEndings(pool, DefaultAccessTTL, s.now)
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
	for !s.keys.reading.busy() || !s.ended.asking.busy() { // which nothing announces
		if time.Since(begin) > time.Minute {
			t.Fatal("nobody is asking")
		}
		time.Sleep(time.Millisecond)
	}
	leave()
	ask(left, 25) // who has left waits for nothing
	if took := time.Since(begin); took > lookTimeout*3/4 {
		t.Errorf("who has left waited %v", took)
	}
	waiting.Wait()
	ask(t.Context(), 25)
	if took := time.Since(begin); took > 3*lookTimeout {
		t.Errorf("all have waited %v, want little more than %v", took, lookTimeout)
	}
}

func TestAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := asking{now: time.Now}
		failing := errors.New("no answer")
		var asked atomic.Int32
		slowly := func() error {
			n := asked.Add(1)
			time.Sleep(2 * time.Second)
			if n%2 == 1 {
				return failing
			}
			return nil
		}
		const apart = time.Second
		const whatever = 0 // inquiries: another may begin at the moment when one ends
		begin := time.Now()
		expect := func(what string, err, want error, inquiries int32, at time.Duration) {
			t.Helper()
			if !errors.Is(err, want) || inquiries != whatever && asked.Load() != inquiries || time.Since(begin) != at {
				t.Errorf("%s: %v after %v and %d inquiries, want %v after %v and %d", what, err, time.Since(begin), asked.Load(), want, at, inquiries)
			}
		}
		var wg sync.WaitGroup
		for range 25 {
			wg.Go(func() {
				expect("at once", a.share(t.Context(), apart, slowly), failing, 1, 2*time.Second)
			})
		}
		synctest.Wait()
		gone, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		expect("who leaves", a.share(gone, apart, slowly), context.DeadlineExceeded, 1, time.Second)
		wg.Wait()
		expect("just afterwards", a.share(t.Context(), apart, slowly), failing, 1, 2*time.Second)
		time.Sleep(apart)
		// A pause is counted from the end: what takes longer than it is not begun
		// anew by everybody who has waited.
		wg.Go(func() { expect("a second later", a.share(t.Context(), apart, slowly), nil, whatever, 5*time.Second) })
		synctest.Wait()
		if !a.busy() {
			t.Error("nobody is asking")
		}
		wg.Go(func() { expect("meanwhile", a.share(t.Context(), apart, slowly), nil, whatever, 5*time.Second) })
		gone, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		expect("who leaves", a.anew(gone, slowly), context.DeadlineExceeded, 2, 4*time.Second)
		// Who needs what is new does not go by what has begun before.
		expect("anew", a.anew(t.Context(), slowly), failing, 3, 7*time.Second)
		wg.Wait()
		if a.busy() {
			t.Error("somebody is asking")
		}
		func() {
			defer func() { _ = recover() }()
			_ = a.anew(t.Context(), func() error { panic("a mistake") })
		}()
		expect("after a panic", a.share(t.Context(), apart, slowly), errAskedInVain, 3, 7*time.Second)
	})
}
