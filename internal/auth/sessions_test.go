package auth

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"colophon/events"
)

// TestLiveSessionsAreListed lists the sessions of an account after a sign-in, a refresh and
// the end of a session.
func TestLiveSessionsAreListed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	mustList := func(want ...Session) {
		t.Helper()
		got, err := f.Sessions(t.Context(), account.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(append([]Session{}, want...), got); diff != "" {
			t.Error(diff)
		}
	}
	mustList()
	begin := f.clock.Now().UTC()
	signIn := func() (Tokens, Session) {
		t.Helper()
		tokens := f.mustSignIn(t)
		now := f.clock.Now().UTC()
		return tokens, Session{f.mustVerify(t, tokens.AccessToken).Session, now, now, now.Add(DefaultRefreshTTL)}
	}
	first, older := signIn()
	f.clock.Advance(time.Minute)
	second, newer := signIn()
	mustList(newer, older)
	f.clock.Advance(time.Hour)
	first = f.mustRefresh(t, first.RefreshToken)
	older.RefreshedAt = begin.Add(time.Minute + time.Hour)
	mustList(newer, older)
	if err := f.Revoke(t.Context(), second.RefreshToken); err != nil {
		t.Fatal(err)
	}
	mustList(older)
	f.clock.Advance(older.ExpiresAt.Sub(f.clock.Now()) - time.Microsecond)
	first = f.mustRefresh(t, first.RefreshToken)
	older.RefreshedAt = f.clock.Now().UTC()
	mustList(older)
	f.clock.Advance(time.Microsecond)
	mustList()
	if got, err := f.Sessions(t.Context(), uuid.New()); err != nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestSessionIsEndedByItsUserOnly ends a session as another account and as its own, and again
// after its end.
func TestSessionIsEndedByItsUserOnly(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	stranger, err := f.Register(t.Context(), "stranger", password)
	if err != nil {
		t.Fatal(err)
	}
	tokens, bystander := f.mustSignIn(t), f.mustSignIn(t)
	session := f.mustVerify(t, tokens.AccessToken).Session
	for _, account := range []uuid.UUID{stranger.ID, unknownAccount, uuid.New()} {
		wantError(t, f.EndSession(t.Context(), account, session), events.ErrNotFound)
	}
	for _, unknown := range []uuid.UUID{uuid.New(), uuid.Nil, account.ID} {
		wantError(t, f.EndSession(t.Context(), account.ID, unknown), events.ErrNotFound)
	}
	f.mustVerify(t, tokens.AccessToken)
	for range 2 {
		if err := f.EndSession(t.Context(), account.ID, session); err != nil {
			t.Error(err)
		}
	}
	_, err = f.Verify(t.Context(), tokens.AccessToken)
	wantError(t, err, ErrAccessToken)
	_, err = f.Refresh(t.Context(), tokens.RefreshToken)
	wantError(t, err, ErrRefreshToken)
	f.mustVerify(t, bystander.AccessToken)
	facts := f.facts(t, account.ID)
	if len(facts) != 4 || facts[3] != events.Fact(events.AccountSignedOut{Session: session}) {
		t.Errorf("facts: %#v", facts)
	}
	expired := f.mustVerify(t, bystander.AccessToken).Session
	f.clock.Advance(DefaultRefreshTTL + f.ended.keep)
	if err := f.EndSession(t.Context(), account.ID, expired); err != nil {
		t.Error(err)
	}
	if err := f.collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantError(t, f.EndSession(t.Context(), account.ID, expired), events.ErrNotFound)
}
