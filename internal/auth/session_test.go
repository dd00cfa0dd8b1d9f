package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
)

// hasEnded reports whether a session has ended in the database.
func (f *fixture) hasEnded(t *testing.T, session uuid.UUID) bool {
	t.Helper()
	return f.count(t, `select count(*) from sessions where id = $1 and revoked_at is not null`, session) == 1
}

func TestRefreshReturnsNewTokensOfTheSession(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	tokens := f.mustSignIn(t)
	session := f.mustVerify(t, tokens.AccessToken).Session
	seen := map[string]bool{tokens.RefreshToken: true, tokens.AccessToken: true}
	for range 5 {
		f.clock.Advance(time.Hour)
		tokens = f.mustRefresh(t, tokens.RefreshToken)
		identity := f.mustVerify(t, tokens.AccessToken)
		if identity.Session != session || identity.Account != account.ID {
			t.Fatalf("%+v is not of session %s", identity, session)
		}
		if seen[tokens.RefreshToken] || seen[tokens.AccessToken] {
			t.Fatal("a token was issued twice")
		}
		seen[tokens.RefreshToken], seen[tokens.AccessToken] = true, true
	}
}

// TestRefreshMayBeRepeatedWithinGrace repeats a refresh within Grace, like a client
// that has lost the response or sent the request twice. The client must get the same
// refresh token again, with a valid access token.
func TestRefreshMayBeRepeatedWithinGrace(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	first := f.mustSignIn(t)
	a := f.mustRefresh(t, first.RefreshToken)
	f.clock.Advance(Grace)
	b := f.mustRefresh(t, first.RefreshToken)
	if a.RefreshToken != b.RefreshToken {
		t.Error("the repeated exchange gave another refresh token")
	}
	for _, tokens := range []Tokens{a, b} {
		f.mustVerify(t, tokens.AccessToken)
	}
	f.clock.Advance(time.Hour)
	f.mustRefresh(t, b.RefreshToken)
	if facts := f.facts(t, account.ID); len(facts) != 2 {
		t.Errorf("facts: %#v", facts)
	}
}

// A thief who repeats an exchange within Grace must not get a refresh token that lives
// beside the owner's. When both the thief and the owner refresh again, the session must
// end.
func TestRepeatedExchangeDoesNotForkTheSession(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	first := f.mustSignIn(t)
	session := f.mustVerify(t, first.AccessToken).Session
	owner := f.mustRefresh(t, first.RefreshToken)
	thief := f.mustRefresh(t, first.RefreshToken)
	f.clock.Advance(time.Minute)
	f.mustRefresh(t, owner.RefreshToken)
	f.clock.Advance(time.Minute)
	_, err := f.Refresh(t.Context(), thief.RefreshToken)
	wantError(t, err, ErrRefreshToken)
	if !f.hasEnded(t, session) {
		t.Error("the session has not ended")
	}
}

// TestGraceIsNotProlonged repeats the exchange of a token. Grace must begin with the
// first exchange and not with the latest exchange.
func TestGraceIsNotProlonged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	first := f.mustSignIn(t)
	f.mustRefresh(t, first.RefreshToken)
	f.clock.Advance(Grace)
	f.mustRefresh(t, first.RefreshToken)
	f.clock.Advance(time.Second)
	_, err := f.Refresh(t.Context(), first.RefreshToken)
	wantError(t, err, ErrRefreshToken)
}

// TestReuseEndsTheSession uses a refresh token again long after it was exchanged, as a
// thief might. The whole session must end, and the account's history must record the
// reuse once.
//
// security: ASVS 10.4.5
func TestReuseEndsTheSession(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		generations int
		every       time.Duration // time between two refreshes; at 0, the rows of all tokens stay stored
	}{{1, 0}, {10, 0}, {1, time.Hour}, {10, time.Hour}} {
		t.Run(fmt.Sprintf("%d generations every %v", c.generations, c.every), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			account := f.mustRegister(t)
			bystander := f.mustSignIn(t)
			first := f.mustSignIn(t)
			session := f.mustVerify(t, first.AccessToken).Session
			latest := first
			for range c.generations {
				latest = f.mustRefresh(t, latest.RefreshToken)
				f.clock.Advance(c.every)
			}
			f.clock.Advance(Grace + time.Second)
			for range 3 {
				_, err := f.Refresh(t.Context(), first.RefreshToken)
				wantError(t, err, ErrRefreshToken)
			}
			_, err := f.Refresh(t.Context(), latest.RefreshToken)
			wantError(t, err, ErrRefreshToken)
			if !f.hasEnded(t, session) {
				t.Error("the session has not ended")
			}
			facts := f.facts(t, account.ID)
			n := len(slices.DeleteFunc(slices.Clone(facts), func(f events.Fact) bool {
				return f != events.Fact(events.AccountTokenReuseDetected{Session: session})
			}))
			if n != 1 || len(facts) != 4 {
				t.Errorf("facts: %#v", facts)
			}
			f.mustRefresh(t, bystander.RefreshToken) // another session of the account must stay live
		})
	}
}

func TestConcurrentRefreshesAllSucceed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	first := f.mustSignIn(t)
	var wg sync.WaitGroup
	got := make(chan Tokens, 8)
	for range cap(got) {
		wg.Go(func() {
			tokens, err := f.Refresh(context.Background(), first.RefreshToken)
			if err != nil {
				t.Error(err)
			}
			got <- tokens
		})
	}
	wg.Wait()
	close(got)
	f.clock.Advance(time.Hour)
	for tokens := range got {
		f.mustRefresh(t, tokens.RefreshToken)
	}

	// Concurrent requests reuse one token. The reuse must be recorded only once.
	for range 8 {
		wg.Go(func() {
			_, err := f.Refresh(context.Background(), first.RefreshToken)
			wantError(t, err, ErrRefreshToken)
		})
	}
	wg.Wait()
	if facts := f.facts(t, account.ID); len(facts) != 3 {
		t.Errorf("facts: %#v", facts)
	}
}

// TestEndedSessionsAreNotRefreshed refreshes a session after its lifetime, and a session
// whose account was disabled or deleted. Each refresh must be refused.
//
// security: ASVS 7.3.2, ASVS 10.4.8
func TestEndedSessionsAreNotRefreshed(t *testing.T) {
	t.Parallel()
	for what, end := range map[string]func(*testing.T, *fixture){
		"lifetime over":    func(t *testing.T, f *fixture) { f.clock.Advance(DefaultRefreshTTL) },
		"account disabled": func(t *testing.T, f *fixture) { f.exec(t, `update accounts set disabled_at = now()`) },
		"account deleted":  func(t *testing.T, f *fixture) { f.exec(t, `delete from accounts where username <> ''`) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			account := f.mustRegister(t)
			tokens := f.mustSignIn(t)
			end(t, f)
			_, err := f.Refresh(t.Context(), tokens.RefreshToken)
			wantError(t, err, ErrRefreshToken)
			if err := f.Revoke(t.Context(), tokens.RefreshToken); err != nil {
				t.Error(err)
			}
			if facts := f.facts(t, account.ID); len(facts) != 2 {
				t.Errorf("facts: %#v", facts)
			}
		})
	}
}

func TestRevokeEndsTheSession(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	first := f.mustSignIn(t)
	session := f.mustVerify(t, first.AccessToken).Session
	second := f.mustRefresh(t, first.RefreshToken)
	for _, token := range []string{"", "garbage", refreshPrefix + strings.Repeat("A", 43), first.AccessToken + "A"} {
		if err := f.Revoke(t.Context(), token); err != nil || f.hasEnded(t, session) {
			t.Errorf("%q: %v", token, err)
		}
	}
	for _, token := range []string{first.RefreshToken, second.RefreshToken, second.RefreshToken} { // an exchanged token, the current token, and the current token again
		if err := f.Revoke(t.Context(), token); err != nil || !f.hasEnded(t, session) {
			t.Errorf("the session has not ended, error %v", err)
		}
	}
	f.clock.Advance(time.Hour)
	for _, token := range []string{first.RefreshToken, second.RefreshToken} {
		_, err := f.Refresh(t.Context(), token)
		wantError(t, err, ErrRefreshToken)
	}
	facts := f.facts(t, account.ID)
	if len(facts) != 3 || facts[2] != (events.AccountSignedOut{Session: session}) {
		t.Errorf("facts: %#v", facts)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, f.Revoke(ctx, second.RefreshToken), context.Canceled)
	_, err := f.Refresh(ctx, second.RefreshToken)
	wantError(t, err, context.Canceled)
}

// TestAccessTokenRevokesItsSession revokes an access token. This must end its session
// and all tokens of the session. The revocation of an expired access token must change
// nothing.
func TestAccessTokenRevokesItsSession(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	first := f.mustSignIn(t)
	session := f.mustVerify(t, first.AccessToken).Session
	f.clock.Advance(DefaultAccessTTL + maxSkew)
	if err := f.Revoke(t.Context(), first.AccessToken); err != nil || f.hasEnded(t, session) {
		t.Errorf("an expired token: %v", err)
	}
	second := f.mustRefresh(t, first.RefreshToken)
	for range 2 {
		if err := f.Revoke(t.Context(), second.AccessToken); err != nil || !f.hasEnded(t, session) {
			t.Errorf("the session has not ended, error %v", err)
		}
	}
	_, err := f.Refresh(t.Context(), second.RefreshToken)
	wantError(t, err, ErrRefreshToken)
	facts := f.facts(t, account.ID)
	if len(facts) != 3 || facts[2] != (events.AccountSignedOut{Session: session}) {
		t.Errorf("facts: %#v", facts)
	}
}

func TestAccessTokensEndWithTheSession(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	tokens := f.mustSignIn(t)
	end := f.clock.Now().Add(DefaultRefreshTTL)
	f.clock.Advance(DefaultRefreshTTL - 10*time.Minute)
	tokens = f.mustRefresh(t, tokens.RefreshToken)
	if id := f.mustVerify(t, tokens.AccessToken); tokens.ExpiresIn != 10*time.Minute || id.Expires != end.UTC().Truncate(time.Second) {
		t.Errorf("%v, until %v", tokens.ExpiresIn, id.Expires)
	}
}

// TestSignInBeyondTheLimitEndsTheOldestSession signs in more than maxSessions times.
// Each further sign-in must end the account's oldest session, in all processes.
func TestSignInBeyondTheLimitEndsTheOldestSession(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	other := f.another(t, newHasher(cheapParams))
	first := f.mustSignIn(t)
	id := f.mustVerify(t, first.AccessToken)
	waiting, stop := f.While(t.Context(), id)
	defer stop()
	f.clock.Advance(time.Second)
	second := f.mustSignIn(t)
	f.clock.Advance(time.Second)
	live := func() int {
		return f.count(t, `select count(*) from sessions where account = $1 and revoked_at is null`, account.ID)
	}
	f.exec(t, `
		insert into sessions (id, account, created_at, expires_at, revoked_at)
		select gen_random_uuid(), $1, $2, $3::timestamptz, case when n > $4 then $2::timestamptz end from generate_series(1, $4 + 10) n`,
		account.ID, f.clock.Now(), f.clock.Now().Add(DefaultRefreshTTL), maxSessions-3)
	f.mustVerify(t, f.mustSignIn(t).AccessToken)
	if f.mustVerify(t, first.AccessToken); live() != maxSessions {
		t.Fatalf("%d live sessions", live())
	}
	latest := f.mustVerify(t, f.mustSignIn(t).AccessToken)
	if n := live(); n != maxSessions {
		t.Errorf("%d live sessions, want %d", n, maxSessions)
	}
	_, err := f.Verify(t.Context(), first.AccessToken) // the token must be refused at once
	wantError(t, err, ErrAccessToken)
	wantError(t, context.Cause(waiting), ErrAccessToken)
	_, err = f.Refresh(t.Context(), first.RefreshToken)
	wantError(t, err, ErrRefreshToken)
	if err := other.ended.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = other.Verify(t.Context(), first.AccessToken)
	wantError(t, err, ErrAccessToken)
	f.mustRefresh(t, second.RefreshToken)
	facts := f.facts(t, account.ID)
	want := []events.Fact{events.AccountSignedOut{Session: id.Session}, events.AccountSignedIn{Session: latest.Session}}
	if len(facts) != 6 || !slices.Equal(facts[4:], want) {
		t.Errorf("facts: %#v", facts)
	}
}

// TestSessionsAreCollected expects that a session and its refresh tokens are deleted
// when all access tokens of the session have expired. The deletion must work in batches
// and skip locked rows.
func TestSessionsAreCollected(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	keep := f.ended.keep
	old := f.mustSignIn(t)
	ends := f.clock.Now().Add(DefaultRefreshTTL)
	f.mustRefresh(t, old.RefreshToken)
	signedOut := f.mustSignIn(t)
	f.clock.Advance(DefaultRefreshTTL / 2)
	f.mustSignIn(t) // this session must stay live
	if err := f.Revoke(t.Context(), signedOut.RefreshToken); err != nil {
		t.Fatal(err)
	}
	collect := func(what string, sessions int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := f.collect(ctx); err != nil {
			t.Fatal(err)
		}
		if n := f.count(t, `select count(*) from sessions`); n != sessions {
			t.Errorf("%s: %d sessions, want %d", what, n, sessions)
		}
	}
	f.clock.Advance(keep - time.Microsecond)
	collect("before the tokens of the revoked session expire", 3)
	f.clock.Advance(time.Microsecond)
	collect("when they expire", 2)
	_, err := f.Refresh(t.Context(), signedOut.RefreshToken)
	wantError(t, err, ErrRefreshToken)
	if err := f.Revoke(t.Context(), signedOut.RefreshToken); err != nil {
		t.Error(err)
	}
	f.clock.Advance(ends.Add(keep).Sub(f.clock.Now()) - time.Microsecond)
	collect("before the tokens of the oldest session expire", 2)
	f.clock.Advance(time.Microsecond)
	f.exec(t, `
		insert into sessions (id, account, created_at, expires_at)
		select gen_random_uuid(), $1, $2, $2 from generate_series(1, $3::integer)`, account.ID, ends, 2*collectBatch+1)
	tx, err := f.db.Owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `select from sessions order by id limit 1 for update`); err != nil {
		t.Fatal(err)
	}
	expired := f.count(t, `select count(*) from sessions where expires_at <= $1`, f.clock.Now().Add(-keep))
	if expired != 2*collectBatch+2 {
		t.Fatalf("%d expired sessions", expired)
	}
	collect("while one is locked", 2)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	collect("when none is locked", 1)
	if n := f.count(t, `select count(*) from refresh_tokens`); n != 1 {
		t.Errorf("%d refresh tokens, want 1", n)
	}
	_, err = f.Refresh(t.Context(), old.RefreshToken)
	wantError(t, err, ErrRefreshToken)
}
