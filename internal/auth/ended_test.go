package auth

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
)

// process returns the service and the store of another process over the same database.
// Both run until the test ends. The service polls often, unless a function in changes sets
// another interval.
func (f *fixture) process(t *testing.T, now func() time.Time, changes ...func(*Service)) (*Service, *events.Store) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	store := events.NewStore(f.db.App, f.vault, log)
	s, err := newService(t.Context(), f.db.App, store, f.vault, testOptions, newHasher(cheapParams), clocks{now, now})
	if err != nil {
		t.Fatal(err)
	}
	s.pollInterval = pollGap
	for _, change := range changes {
		change(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	listening := make(chan struct{})
	wg.Go(func() { store.Run(ctx, func() { close(listening) }) })
	wg.Go(func() { s.Run(ctx, log) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	<-listening
	return s, store
}

// waitRefused waits until a service refuses an access token. It returns the duration of
// the wait.
func waitRefused(t *testing.T, s *Service, token string) time.Duration {
	t.Helper()
	return waitFor(t, ErrAccessToken, func() (Identity, error) { return s.Verify(t.Context(), token) })
}

// waitFor calls verify until it returns the refusal. It returns the duration of the wait.
func waitFor(t *testing.T, refusal error, verify func() (Identity, error)) time.Duration {
	t.Helper()
	begin := time.Now()
	for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
		_, err := verify()
		if errors.Is(err, refusal) {
			return time.Since(begin)
		}
		if err != nil || time.Since(begin) > 20*time.Second {
			t.Fatalf("still accepted after %v: %v", time.Since(begin), err)
		}
	}
}

func TestEndedSessionsAreRefusedEverywhere(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other, _ := f.process(t, f.clock.Now)
	f.mustRegister(t)
	bystander := f.mustSignIn(t)
	for _, c := range []struct {
		how    string
		here   bool // true if the session ends by a call in this process
		others bool // true if the other sessions of the account end too
		end    func(*testing.T, Tokens, Identity)
	}{
		{"signed out", true, false, func(t *testing.T, tokens Tokens, _ Identity) {
			if err := f.Revoke(t.Context(), tokens.RefreshToken); err != nil {
				t.Error(err)
			}
		}},
		{"signed out by access token", true, false, func(t *testing.T, tokens Tokens, _ Identity) {
			if err := f.Revoke(t.Context(), tokens.AccessToken); err != nil {
				t.Error(err)
			}
		}},
		{"ended by its user", true, false, func(t *testing.T, _ Tokens, id Identity) {
			if err := f.EndSession(t.Context(), id.Account, id.Session); err != nil {
				t.Error(err)
			}
		}},
		{"refresh token reused", true, false, func(t *testing.T, tokens Tokens, _ Identity) {
			f.mustRefresh(t, tokens.RefreshToken)
			f.clock.Advance(Grace + time.Second)
			_, err := f.Refresh(t.Context(), tokens.RefreshToken)
			wantError(t, err, ErrRefreshToken)
		}},
		// In the following cases, another program changes the tables, without an
		// announcement.
		{"revoked", false, false, func(t *testing.T, _ Tokens, id Identity) {
			f.exec(t, `update sessions set revoked_at = $2 where id = $1`, id.Session, f.clock.Now())
		}},
		{"removed", false, false, func(t *testing.T, _ Tokens, id Identity) {
			f.exec(t, `delete from sessions where id = $1`, id.Session)
		}},
		{"account disabled", false, true, func(t *testing.T, _ Tokens, id Identity) {
			f.exec(t, `update accounts set disabled_at = now() where id = $1`, id.Account)
		}},
		{"account removed", false, true, func(t *testing.T, _ Tokens, id Identity) {
			f.exec(t, `delete from accounts where id = $1`, id.Account)
		}},
	} {
		t.Run(c.how, func(t *testing.T) {
			user := strings.ReplaceAll(c.how, " ", "-")
			if _, err := f.Register(t.Context(), user, password); err != nil {
				t.Fatal(err)
			}
			var sessions [2]Tokens
			for i := range sessions {
				var err error
				if sessions[i], err = f.SignIn(t.Context(), user, password); err != nil {
					t.Fatal(err)
				}
			}
			ended, id := sessions[0], f.mustVerify(t, sessions[0].AccessToken)
			waiting, stop := other.While(t.Context(), id)
			defer stop()
			if waiting.Err() != nil {
				t.Fatal(context.Cause(waiting))
			}
			c.end(t, ended, id)
			if c.here {
				if _, err := f.Verify(t.Context(), ended.AccessToken); !errors.Is(err, ErrAccessToken) {
					t.Errorf("accepted by the process that ended it: %v", err)
				}
			}
			t.Logf("refused elsewhere after %v", waitRefused(t, other, ended.AccessToken))
			wantError(t, context.Cause(waiting), ErrAccessToken)
			_, err := other.Verify(t.Context(), sessions[1].AccessToken)
			if errors.Is(err, ErrAccessToken) != c.others {
				t.Errorf("another session of the account: %v", err)
			}
			if _, err := other.Verify(t.Context(), bystander.AccessToken); err != nil {
				t.Errorf("session of another account: %v", err)
			}
			// A process that starts after the session's end must refuse the token too.
			_, err = f.another(t, newHasher(cheapParams)).Verify(t.Context(), ended.AccessToken)
			wantError(t, err, ErrAccessToken)
		})
	}
}

// TestEndedSessionsAreAnnounced ends a session in one process. Another process must
// refuse the session's tokens soon after. The next poll of that process is an hour
// away, so only the announcement can be the cause.
func TestEndedSessionsAreAnnounced(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	other, _ := f.process(t, f.clock.Now, func(s *Service) { s.pollInterval = time.Hour })
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f.store.Run(ctx, nil) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	for range 8 {
		tokens := f.mustSignIn(t)
		if _, err := other.Verify(t.Context(), tokens.AccessToken); err != nil {
			t.Fatal(err)
		}
		if err := f.Revoke(t.Context(), tokens.RefreshToken); err != nil {
			t.Fatal(err)
		}
		t.Logf("refused elsewhere after %v", waitRefused(t, other, tokens.AccessToken))
	}
}

func TestEnabledAccountMustSignInAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	before := f.mustSignIn(t)
	f.exec(t, `update accounts set disabled_at = now() where username = $1`, name)
	f.exec(t, `update accounts set disabled_at = null where username = $1`, name)
	if err := f.ended.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := f.Verify(t.Context(), before.AccessToken)
	wantError(t, err, ErrAccessToken)
	_, err = f.Refresh(t.Context(), before.RefreshToken)
	wantError(t, err, ErrRefreshToken)
	f.mustVerify(t, f.mustSignIn(t).AccessToken)
}

// TestLateCommitsAreNotMissed ends a session in a transaction that commits only after
// later transactions and after two polls. The next poll must find the ended session.
func TestLateCommitsAreNotMissed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	late, early := f.mustSignIn(t), f.mustSignIn(t)
	const revoke = `update sessions set revoked_at = now() where id = $1`
	tx, err := f.db.Owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), revoke, f.mustVerify(t, late.AccessToken).Session); err != nil {
		t.Fatal(err)
	}
	f.exec(t, revoke, f.mustVerify(t, early.AccessToken).Session)
	poll := func() {
		t.Helper()
		if err := f.ended.poll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	poll()
	poll()
	_, err = f.Verify(t.Context(), early.AccessToken)
	wantError(t, err, ErrAccessToken)
	f.mustVerify(t, late.AccessToken)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	poll()
	_, err = f.Verify(t.Context(), late.AccessToken)
	wantError(t, err, ErrAccessToken)

	// If another server with lower transaction ids answers, the poll must read all recently
	// ended sessions.
	another := f.mustSignIn(t)
	f.ended.horizon = 1 << 60
	f.exec(t, revoke, f.mustVerify(t, another.AccessToken).Session)
	poll()
	_, err = f.Verify(t.Context(), another.AccessToken)
	wantError(t, err, ErrAccessToken)
}

func TestVerifyDoesNotQueryTheDatabase(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	token, gone := f.mustSignIn(t).AccessToken, f.mustSignIn(t).AccessToken
	if err := f.Revoke(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	before := f.db.App.Stat().AcquireCount()
	for range 200 {
		f.mustVerify(t, token)
		_, err := f.Verify(t.Context(), gone)
		wantError(t, err, ErrAccessToken)
	}
	if n := f.db.App.Stat().AcquireCount() - before; n != 0 {
		t.Errorf("%d connections for 400 calls", n)
	}
}

// TestVerifyAcceptsNothingWhenPollsFail makes all polls fail. Verify must then return
// the database's error, and contexts returned by While must stay open.
func TestVerifyAcceptsNothingWhenPollsFail(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	token, gone := f.mustSignIn(t).AccessToken, f.mustSignIn(t).AccessToken
	waiting, stop := f.While(t.Context(), f.mustVerify(t, gone))
	defer stop()
	f.exec(t, `revoke select on ended_sessions from colophon_app`)
	f.clock.Advance(staleAfter)
	f.mustVerify(t, token)
	f.clock.Advance(time.Microsecond)
	f.JWKS(t.Context()) // reads the keys, because they are stale as well
	before := f.db.App.Stat().AcquireCount()
	for range 10 {
		if _, err := f.Verify(t.Context(), token); err == nil || errors.Is(err, ErrAccessToken) {
			t.Fatalf("error %v, want the database's", err)
		}
	}
	if n := f.db.App.Stat().AcquireCount() - before; n != 1 {
		t.Errorf("%d polls failed within a second, want 1", n)
	}
	f.exec(t, `update sessions set revoked_at = now() where id = $1`, func() uuid.UUID {
		id, err := f.readClaims(claimsOf(t, gone))
		if err != nil {
			t.Fatal(err)
		}
		return id.Session
	}())
	if waiting.Err() != nil {
		t.Error("the context of While has ended")
	}
	f.exec(t, `grant select on ended_sessions to colophon_app`)
	f.clock.Advance(pollRetry)
	f.mustVerify(t, token)
	_, err := f.Verify(t.Context(), gone)
	wantError(t, err, ErrAccessToken)
	wantError(t, context.Cause(waiting), ErrAccessToken)
}

// TestEndedSessionsAreForgotten expects that an ended session is removed from memory
// when all its access tokens have expired, and not earlier.
func TestEndedSessionsAreForgotten(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	tokens := f.mustSignIn(t)
	id := f.mustVerify(t, tokens.AccessToken)
	f.exec(t, `insert into ended_sessions (session, ended_at) values ($1, now() - interval '62 minutes 1 second'), ($2, now() - interval '61 minutes')`,
		uuid.New(), uuid.New())
	if err := f.Revoke(t.Context(), tokens.RefreshToken); err != nil {
		t.Fatal(err)
	}
	f.clock.Advance(DefaultAccessTTL + 2*maxSkew)
	f.ended.forget()
	if err := f.collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := f.count(t, `select count(*) from ended_sessions`); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
	if _, ok := f.ended.forgetAt[id.Session]; !ok {
		t.Error("the session was forgotten too early")
	}
	f.clock.Advance(time.Minute)
	f.ended.forget()
	if n := len(f.ended.forgetAt); n != 0 {
		t.Errorf("%d ended sessions are held, want 0", n)
	}
}

// TestLongOutageEndsWhatItMayHide reads the ended sessions after a time in which their rows
// may have been removed. Streams that were open meanwhile must end.
func TestLongOutageEndsWhatItMayHide(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	id := f.mustVerify(t, f.mustSignIn(t).AccessToken)
	waiting, stop := f.While(t.Context(), id)
	defer stop()
	for _, c := range []struct {
		later time.Duration
		ends  bool
	}{{0, false}, {f.ended.keep, false}, {f.ended.keep + time.Microsecond, true}} {
		f.clock.Advance(c.later)
		if err := f.ended.poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if ended := waiting.Err() != nil; ended != c.ends {
			t.Errorf("%s after the last poll: ended %v", c.later, ended)
		}
	}
	wantError(t, context.Cause(waiting), ErrAccessToken)
}

func TestWhileEndsWithTheSession(t *testing.T) {
	t.Parallel()
	s := offline(t)
	id, other := Identity{Session: uuid.New()}, Identity{Session: uuid.New()}
	a, stopA := s.While(t.Context(), id)
	b, stopB := s.While(t.Context(), id)
	c, stopC := s.While(t.Context(), other)
	stopB()
	if context.Cause(b) != context.Canceled {
		t.Errorf("stopped: %v", context.Cause(b))
	}
	s.ended.add(id.Session)
	wantError(t, context.Cause(a), ErrAccessToken)
	if c.Err() != nil {
		t.Error("another session has ended with it")
	}
	d, stopD := s.While(t.Context(), id)
	wantError(t, context.Cause(d), ErrAccessToken)
	for _, stop := range []func(){stopA, stopC, stopD} {
		stop()
	}
	if n := len(s.ended.watchers); n != 0 {
		t.Errorf("%d sessions are watched, want 0", n)
	}
}
