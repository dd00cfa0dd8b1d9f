package auth

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
)

// ended reports whether the session of a token has ended, as the database has it.
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
	for _, c := range []struct {
		generations int
		every       time.Duration // 0: all of them are stored when the first one comes again; else it is not
	}{{1, 0}, {10, 0}, {1, time.Hour}, {10, time.Hour}} {
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

// What has been exchanged is known for that without being stored.
func TestFewRefreshTokensAreStored(t *testing.T) {
	f := newFixture(t)
	f.mustRegister(t)
	first := f.mustSignIn(t)
	session, latest := f.mustVerify(t, first.AccessToken).Session, first
	stored := func() int { return f.count(t, `select count(*) from refresh_tokens where session = $1`, session) }
	for range 5 {
		latest = f.mustRefresh(t, latest.RefreshToken)
		f.clock.Advance(Grace + time.Microsecond)
	}
	if n := stored(); n != 2 {
		t.Errorf("%d tokens are stored, want the latest and the one before", n)
	}
	// A client that asks again and again within Grace gets pairs that all live
	// on, up to a number; the oldest of more are taken for stolen.
	f.exec(t, `
		insert into refresh_tokens (hash, session, issued_at)
		select sha256(n::text::bytea), $1, $2::timestamptz - interval '1 hour' from generate_series(1, $3::integer) n`,
		session, f.clock.Now(), maxRefreshTokens-3)
	for range 5 {
		next := f.mustRefresh(t, latest.RefreshToken)
		f.clock.Advance(time.Microsecond)
		f.mustRefresh(t, next.RefreshToken)
		f.clock.Advance(time.Microsecond)
	}
	if n := stored(); n != maxRefreshTokens {
		t.Errorf("%d tokens are stored, want %d", n, maxRefreshTokens)
	}
	// Whose session it is can be told of one that is forgotten, too.
	if err := f.Revoke(t.Context(), first.RefreshToken); err != nil || !f.ended(t, session) {
		t.Errorf("the session goes on: %v", err)
	}
}

// A sign-in beyond the most that an account may have ends its oldest session,
// everywhere.
func TestAnAccountHasSoManySessions(t *testing.T) {
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
	_, err := f.Verify(t.Context(), first.AccessToken) // at once
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
		t.Errorf("on record: %#v", facts)
	}
}

// Sessions go when no access token speaks for them any longer, with all that
// hangs on them, many at a time and without waiting for anybody.
func TestSessionsAreCollected(t *testing.T) {
	f := newFixture(t)
	account := f.mustRegister(t)
	keep := f.Service.ended.keep
	old := f.mustSignIn(t)
	ends := f.clock.Now().Add(DefaultRefreshTTL)
	f.mustRefresh(t, old.RefreshToken)
	signedOut := f.mustSignIn(t)
	f.clock.Advance(DefaultRefreshTTL / 2)
	f.mustSignIn(t) // goes on
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
	collect("when the tokens of the one that was signed out expire", 3)
	f.clock.Advance(time.Microsecond)
	collect("after that", 2)
	_, err := f.Refresh(t.Context(), signedOut.RefreshToken)
	wantError(t, err, ErrRefreshToken)
	if err := f.Revoke(t.Context(), signedOut.RefreshToken); err != nil {
		t.Error(err)
	}
	f.clock.Advance(ends.Add(keep).Sub(f.clock.Now()) - time.Microsecond)
	collect("when the tokens of the oldest one expire", 2)
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
	held := f.count(t, `select count(*) from sessions where expires_at <= $1`, f.clock.Now().Add(-keep))
	if held != 2*collectBatch+2 {
		t.Fatalf("%d sessions have run out", held)
	}
	collect("while somebody has locked one", 2)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	collect("when nobody has", 1)
	if n := f.count(t, `select count(*) from refresh_tokens`); n != 1 {
		t.Errorf("%d refresh tokens, want 1", n)
	}
	_, err = f.Refresh(t.Context(), old.RefreshToken)
	wantError(t, err, ErrRefreshToken)
}

func TestRefreshTokensOfAnotherForm(t *testing.T) {
	f := newFixture(t)
	f.mustRegister(t)
	tokens := f.mustSignIn(t)
	good := tokens.RefreshToken
	last := good[len(good)-1]
	altered := func(at int) string {
		raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(good, refreshPrefix))
		if err != nil {
			t.Fatal(err)
		}
		raw[at] ^= 1
		return refreshPrefix + base64.RawURLEncoding.EncodeToString(raw)
	}
	foreign, _ := (&Service{vault: newVault(t, 8)}).newRefreshToken(f.mustVerify(t, tokens.AccessToken).Session)
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
		"other token":            refreshPrefix + strings.Repeat("A", len(good)-len(refreshPrefix)),
		"another session":        altered(0),
		"another secret":         altered(refreshSize - refreshMACSize - 1),
		"another MAC":            altered(refreshSize - 1),
		"of another master key":  foreign,
		"1 MB":                   refreshPrefix + strings.Repeat("A", 1<<20),
	} {
		_, err := f.Refresh(t.Context(), token)
		if !errors.Is(err, ErrRefreshToken) {
			t.Errorf("%s: %v", what, err)
		}
		if err := f.Revoke(t.Context(), token); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	f.mustRefresh(t, good) // none of them was a reuse, nor has ended anything
}

// FuzzRefreshToken looks for texts that are read as a refresh token and have not
// the form of one.
func FuzzRefreshToken(f *testing.F) {
	s := &Service{vault: newVault(f, 7)}
	made, of := s.newRefreshToken(uuid.New())
	if t, ok := s.readRefreshToken(made); !ok || t.session != of.session || !slices.Equal(t.hash, of.hash) || len(t.hash) != 32 {
		f.Fatalf("%q: %+v, %v", made, t, ok)
	}
	// One that is the same in every process: a fuzzer has several.
	raw := bytes.Repeat([]byte{7}, refreshSize-refreshMACSize)
	good := refreshPrefix + base64.RawURLEncoding.EncodeToString(append(raw, s.refreshMAC(raw)...))
	f.Add(good)
	f.Add(refreshPrefix)
	f.Fuzz(func(t *testing.T, text string) {
		if read, ok := s.readRefreshToken(text); ok != (text == good) {
			t.Fatalf("%q: %+v, %v", text, read, ok) // it would be a forgery
		}
	})
}
