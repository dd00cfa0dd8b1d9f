package auth

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
)

// ended reports whether the session of a token has ended, by asking the database.
func (f *fixture) ended(t *testing.T, session uuid.UUID) bool {
	t.Helper()
	return f.count(t, `select count(*) from sessions where id = $1 and revoked_at is not null`, session) == 1
}

func TestRefresh(t *testing.T) {
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
			t.Fatal("a token came twice")
		}
		seen[tokens.RefreshToken], seen[tokens.AccessToken] = true, true
	}
}

// A client that did not get the answer, or asked twice, goes on.
func TestRefreshAgainWithinGrace(t *testing.T) {
	f := newFixture(t)
	account := f.mustRegister(t)
	first := f.mustSignIn(t)
	a := f.mustRefresh(t, first.RefreshToken)
	f.clock.Advance(Grace)
	b := f.mustRefresh(t, first.RefreshToken)
	f.clock.Advance(time.Hour)
	for _, tokens := range []Tokens{a, b} {
		f.mustRefresh(t, tokens.RefreshToken)
	}
	if facts := f.facts(t, account.ID); len(facts) != 2 {
		t.Errorf("on record: %#v", facts)
	}
}

// Grace is counted from the first exchange, not from the latest.
func TestGraceIsNotProlonged(t *testing.T) {
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

// security: ASVS 10.4.5
func TestReuseEndsTheSession(t *testing.T) {
	for _, generations := range []int{1, 2, 10} {
		f := newFixture(t)
		account := f.mustRegister(t)
		bystander := f.mustSignIn(t)
		first := f.mustSignIn(t)
		session := f.mustVerify(t, first.AccessToken).Session
		latest := first
		for range generations {
			latest = f.mustRefresh(t, latest.RefreshToken)
		}
		f.clock.Advance(Grace + time.Second)
		for range 3 {
			_, err := f.Refresh(t.Context(), first.RefreshToken)
			wantError(t, err, ErrRefreshToken)
		}
		_, err := f.Refresh(t.Context(), latest.RefreshToken)
		wantError(t, err, ErrRefreshToken)
		if !f.ended(t, session) {
			t.Error("the session goes on")
		}
		facts := f.facts(t, account.ID)
		n := len(slices.DeleteFunc(slices.Clone(facts), func(f events.Fact) bool {
			return f != events.Fact(events.AccountTokenReuseDetected{Session: session})
		}))
		if n != 1 || len(facts) != 4 {
			t.Errorf("on record: %#v", facts)
		}
		f.mustRefresh(t, bystander.RefreshToken) // another session of the account
	}
}

func TestRefreshRace(t *testing.T) {
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

	// Reuse is noticed once, whoever comes at the same time.
	for range 8 {
		wg.Go(func() {
			_, err := f.Refresh(context.Background(), first.RefreshToken)
			wantError(t, err, ErrRefreshToken)
		})
	}
	wg.Wait()
	if facts := f.facts(t, account.ID); len(facts) != 3 {
		t.Errorf("on record: %#v", facts)
	}
}

// security: ASVS 7.3.2, ASVS 10.4.8
func TestSessionsEnd(t *testing.T) {
	for what, end := range map[string]func(*testing.T, *fixture){
		"in time":          func(t *testing.T, f *fixture) { f.clock.Advance(DefaultRefreshTTL) },
		"account disabled": func(t *testing.T, f *fixture) { f.exec(t, `update accounts set disabled_at = now()`) },
		"account deleted":  func(t *testing.T, f *fixture) { f.exec(t, `delete from accounts where username <> ''`) },
	} {
		t.Run(what, func(t *testing.T) {
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
				t.Errorf("on record: %#v", facts)
			}
		})
	}
}

func TestRevoke(t *testing.T) {
	f := newFixture(t)
	account := f.mustRegister(t)
	first := f.mustSignIn(t)
	session := f.mustVerify(t, first.AccessToken).Session
	second := f.mustRefresh(t, first.RefreshToken)
	for _, token := range []string{"", "garbage", refreshPrefix + strings.Repeat("A", 43), first.AccessToken + "A"} {
		if err := f.Revoke(t.Context(), token); err != nil || f.ended(t, session) {
			t.Errorf("%q: %v", token, err)
		}
	}
	for _, token := range []string{first.RefreshToken, second.RefreshToken, second.RefreshToken} { // an exchanged one too
		if err := f.Revoke(t.Context(), token); err != nil || !f.ended(t, session) {
			t.Errorf("session goes on: %v", err)
		}
	}
	f.clock.Advance(time.Hour)
	for _, token := range []string{first.RefreshToken, second.RefreshToken} {
		_, err := f.Refresh(t.Context(), token)
		wantError(t, err, ErrRefreshToken)
	}
	facts := f.facts(t, account.ID)
	if len(facts) != 3 || facts[2] != (events.AccountSignedOut{Session: session}) {
		t.Errorf("on record: %#v", facts)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, f.Revoke(ctx, second.RefreshToken), context.Canceled)
	_, err := f.Refresh(ctx, second.RefreshToken)
	wantError(t, err, context.Canceled)
}

// An access token ends its session as well, for all its tokens, unless it has
// expired.
func TestRevokeByAccessToken(t *testing.T) {
	f := newFixture(t)
	account := f.mustRegister(t)
	first := f.mustSignIn(t)
	session := f.mustVerify(t, first.AccessToken).Session
	f.clock.Advance(DefaultAccessTTL + maxSkew)
	if err := f.Revoke(t.Context(), first.AccessToken); err != nil || f.ended(t, session) {
		t.Errorf("an expired one: %v", err)
	}
	second := f.mustRefresh(t, first.RefreshToken)
	for range 2 {
		if err := f.Revoke(t.Context(), second.AccessToken); err != nil || !f.ended(t, session) {
			t.Errorf("session goes on: %v", err)
		}
	}
	_, err := f.Refresh(t.Context(), second.RefreshToken)
	wantError(t, err, ErrRefreshToken)
	facts := f.facts(t, account.ID)
	if len(facts) != 3 || facts[2] != (events.AccountSignedOut{Session: session}) {
		t.Errorf("on record: %#v", facts)
	}
}

// No access token outlives its session.
func TestAccessTokensEndWithTheSession(t *testing.T) {
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

// Sessions that have run out are cleared away by the next sign-in.
func TestSessionsAreClearedAway(t *testing.T) {
	f := newFixture(t)
	f.mustRegister(t)
	old := f.mustSignIn(t)
	f.mustRefresh(t, old.RefreshToken)
	f.clock.Advance(DefaultRefreshTTL / 2)
	f.mustSignIn(t)
	f.clock.Advance(DefaultRefreshTTL/2 + time.Second)
	f.mustSignIn(t)
	if s, r := f.count(t, `select count(*) from sessions`), f.count(t, `select count(*) from refresh_tokens`); s != 2 || r != 2 {
		t.Errorf("%d sessions with %d refresh tokens, want 2 and 2", s, r)
	}
	_, err := f.Refresh(t.Context(), old.RefreshToken)
	wantError(t, err, ErrRefreshToken)
}

func TestRefreshTokensOfAnotherForm(t *testing.T) {
	f := newFixture(t)
	f.mustRegister(t)
	good := f.mustSignIn(t).RefreshToken
	last := good[len(good)-1]
	for what, token := range map[string]string{
		"empty":                  "",
		"prefix alone":           refreshPrefix,
		"no prefix":              strings.TrimPrefix(good, refreshPrefix),
		"another prefix":         "xyz_" + strings.TrimPrefix(good, refreshPrefix),
		"prefix in capitals":     "CRT_" + strings.TrimPrefix(good, refreshPrefix),
		"one character more":     good + "A",
		"one character less":     good[:len(good)-1],
		"padded":                 good + "=",
		"line break":             good + "\n",
		"line break for a char":  good[:len(good)-1] + "\n",
		"space":                  " " + good,
		"other spelling of bits": good[:len(good)-1] + string(last+1), // differs in bits that stand for nothing
		"NUL":                    good[:len(good)-1] + "\x00",
		"other token":            refreshPrefix + strings.Repeat("A", 43),
		"1 MB":                   refreshPrefix + strings.Repeat("A", 1<<20),
	} {
		_, err := f.Refresh(t.Context(), token)
		if !errors.Is(err, ErrRefreshToken) {
			t.Errorf("%s: %v", what, err)
		}
	}
	f.mustRefresh(t, good)
}

// security: ASVS 7.2.3
func FuzzRefreshToken(f *testing.F) {
	good, _ := newRefreshToken()
	f.Add(good)
	f.Add(refreshPrefix)
	f.Fuzz(func(t *testing.T, text string) {
		hash, ok := refreshHash(text)
		if ok != (len(hash) == 32) || ok && (len(text) != 47 || strings.ContainsAny(text, "=\r\n ")) {
			t.Fatalf("%q: %x, %v", text, hash, ok)
		}
	})
}
