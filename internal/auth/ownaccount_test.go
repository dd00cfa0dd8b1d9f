package auth

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alexedwards/argon2id"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/policy"
)

const newPassword = "hypotheses fingo"

func TestPasswordChangeEndsOtherSessions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	here, there, elsewhere := f.mustSignIn(t), f.mustSignIn(t), f.mustSignIn(t)
	id := f.mustVerify(t, here.AccessToken)
	change := func(current, chosen string) error {
		t.Helper()
		return f.ChangePassword(t.Context(), id, current, chosen, "home")
	}
	wantError(t, change("not "+password, newPassword), ErrPassword)
	before := len(f.facts(t, account.ID))
	for range 2 * productionBackoffs.pair.free { // a refused new password must not count as a failed sign-in
		wantError(t, change(password, "short"), policy.ErrPasswordLength)
	}
	wantError(t, change(password, strings.ToUpper(name)+"1"), policy.ErrPasswordLength)
	wantError(t, change(password, strings.ToUpper(name)+"1234"), policy.ErrPasswordUsername)
	if n := len(f.facts(t, account.ID)); n != before {
		t.Errorf("%d events of refused changes, want 0", n-before)
	}
	if err := change("ｈypotheses non fingo", newPassword); err != nil { // the current password in another Unicode form
		t.Fatal(err)
	}
	if facts := f.facts(t, account.ID); facts[before] != (events.AccountPasswordChanged{Session: id.Session}) || len(facts) != before+1 {
		t.Errorf("facts: %#v", facts[before:])
	}
	for _, other := range []Tokens{there, elsewhere} {
		_, err := f.Refresh(t.Context(), other.RefreshToken)
		wantError(t, err, ErrRefreshToken)
		_, err = f.Verify(t.Context(), other.AccessToken) // the token must be refused at once
		wantError(t, err, ErrAccessToken)
	}
	f.mustVerify(t, here.AccessToken)
	f.mustRefresh(t, here.RefreshToken)
	_, err := f.SignIn(t.Context(), name, password)
	wantError(t, err, ErrCredentials)
	if _, err := f.SignIn(t.Context(), name, newPassword); err != nil {
		t.Error(err)
	}
	f.exec(t, `update accounts set disabled_at = now() where id = $1`, account.ID)
	wantError(t, change(newPassword, password), ErrAccessToken)
	wantError(t, f.ChangePassword(t.Context(), Identity{Account: uuid.New()}, newPassword, password, "home"), ErrAccessToken)
	wantError(t, f.ChangePassword(t.Context(), Identity{}, newPassword, password, "home"), ErrAccessToken)
}

func (f *fixture) knownNetworks(t *testing.T, account uuid.UUID) int {
	t.Helper()
	return f.count(t, `select count(*) from known_networks where account = $1`, account)
}

// TestNetworksAreForgottenWithThePassword changes a password and later resets it. The
// change must remove the account's known networks, except the caller's network. The
// reset must remove all known networks.
func TestNetworksAreForgottenWithThePassword(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	other, err := f.Register(t.Context(), "gottfried", password)
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"home", "mallory's"} {
		for _, username := range []string{name, "gottfried"} {
			if err := f.signInFrom(t, network, username, password); err != nil {
				t.Fatal(err)
			}
		}
	}
	known := func(network string) bool {
		t.Helper()
		a, err := f.beginAttempt(t.Context(), name, network)
		if err != nil {
			t.Fatal(err)
		}
		return a.known
	}
	id := f.mustVerify(t, f.mustSignIn(t).AccessToken)
	wantError(t, f.ChangePassword(t.Context(), id, "not "+password, newPassword, "home"), ErrPassword)
	if !known("home") || !known("mallory's") {
		t.Error("a wrong password removed known networks")
	}
	if err := f.ChangePassword(t.Context(), id, password, newPassword, "home"); err != nil {
		t.Fatal(err)
	}
	if !known("home") || known("mallory's") {
		t.Errorf("owner's network known: %v, want true; other network known: %v, want false", known("home"), known("mallory's"))
	}
	if _, err := f.SetPassword(t.Context(), account.ID, password); err != nil {
		t.Fatal(err)
	}
	if known("home") {
		t.Error("the network is still known after a reset")
	}
	if n := f.knownNetworks(t, other.ID); n != 2 {
		t.Errorf("%d known networks of another account, want 2", n)
	}
}

// TestOneOfConcurrentPasswordChangesSucceeds makes several concurrent changes that give
// the same current password. Only one change may succeed. After that change, the
// current password is wrong for the other changes.
func TestOneOfConcurrentPasswordChangesSucceeds(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	var wg sync.WaitGroup
	errs, ids := make([]error, 4), make([]Identity, 4)
	for i := range ids {
		ids[i] = f.mustVerify(t, f.mustSignIn(t).AccessToken)
	}
	for i := range errs {
		wg.Go(func() {
			errs[i] = f.ChangePassword(t.Context(), ids[i], password, strings.Repeat(newPassword, i+1), f.network())
		})
	}
	wg.Wait()
	changed := 0
	for i, err := range errs {
		if err == nil {
			changed++
			if _, err := f.SignIn(t.Context(), name, strings.Repeat(newPassword, i+1)); err != nil {
				t.Errorf("the new password: %v", err)
			}
		} else if !errors.Is(err, ErrPassword) && !errors.Is(err, ErrBusy) {
			t.Error(err)
		}
	}
	if changed != 1 {
		t.Errorf("%d changes, want 1", changed)
	}
	if n := f.count(t, `select count(*) from sessions where account = $1 and revoked_at is null`, account.ID); n != 2 {
		t.Errorf("%d sessions, want 2: that of the change and the one after it", n)
	}
}

// TestSignOutEverywhereEndsAllSessions signs a user out of all sessions. All tokens of
// these sessions must stop working. Another user's session must stay live.
//
// security: ASVS 7.4.1
func TestSignOutEverywhereEndsAllSessions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	all := []Tokens{f.mustSignIn(t), f.mustSignIn(t)}
	other, err := f.Register(t.Context(), "gottfried", password)
	if err != nil {
		t.Fatal(err)
	}
	others, err := f.SignIn(t.Context(), "gottfried", password)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.SignOutEverywhere(t.Context(), account.ID); err != nil {
			t.Fatal(err)
		}
	}
	for _, tokens := range all {
		_, err := f.Refresh(t.Context(), tokens.RefreshToken)
		wantError(t, err, ErrRefreshToken)
		_, err = f.Verify(t.Context(), tokens.AccessToken)
		wantError(t, err, ErrAccessToken)
	}
	f.mustVerify(t, others.AccessToken)
	f.mustRefresh(t, others.RefreshToken)
	f.mustSignIn(t)
	out := events.Fact(events.AccountSignedOutEverywhere{})
	if !slices.Contains(f.facts(t, account.ID), out) || slices.Contains(f.facts(t, other.ID), out) {
		t.Errorf("facts: %#v", f.facts(t, account.ID))
	}
}

// TestSignOutEverywhereWaitsForTheAccount expects that a sign-out everywhere locks the
// account before the account's sessions. So the sign-out cannot deadlock with a
// transaction that locks the sessions in another order.
func TestSignOutEverywhereWaitsForTheAccount(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	first := f.mustVerify(t, f.mustSignIn(t).AccessToken)
	f.clock.Advance(time.Second)
	second := f.mustVerify(t, f.mustSignIn(t).AccessToken)
	tx, err := f.db.Owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	lock := func(sql string, id uuid.UUID) {
		t.Helper()
		if _, err := tx.Exec(t.Context(), sql, id); err != nil {
			t.Error(err)
		}
	}
	lock(`select from accounts where id = $1 for update`, account.ID)
	lock(`update sessions set revoked_at = now() where id = $1`, second.Session)
	out := make(chan error)
	go func() { out <- f.SignOutEverywhere(t.Context(), account.ID) }()
	begin := time.Now()
	for f.count(t, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == 0 {
		if time.Since(begin) > time.Minute {
			t.Fatal("the sign-out does not wait for the lock")
		}
		time.Sleep(time.Millisecond)
	}
	lock(`update sessions set revoked_at = now() where id = $1`, first.Session)
	if err := tx.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-out; err != nil {
		t.Error(err)
	}
}

func TestErasedAccountCannotSignIn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	here, there := f.mustSignIn(t), f.mustSignIn(t)
	id := f.mustVerify(t, here.AccessToken)
	if n := f.knownNetworks(t, account.ID); n != 2 {
		t.Fatalf("%d networks are known", n)
	}
	wantError(t, f.Erase(t.Context(), id, "not "+password, "home"), ErrPassword)
	if err := f.Erase(t.Context(), id, password, "home"); err != nil {
		t.Fatal(err)
	}
	facts := f.facts(t, account.ID)
	if facts[len(facts)-1] != (events.AccountErased{}) {
		t.Errorf("facts: %#v", facts)
	}
	if owners, err := f.store.ClosedOwners(t.Context(), 10); err != nil || !slices.Equal(owners, []uuid.UUID{account.ID}) {
		t.Errorf("closed: %v, %v", owners, err)
	}
	for _, tokens := range []Tokens{here, there} {
		_, err := f.Refresh(t.Context(), tokens.RefreshToken)
		wantError(t, err, ErrRefreshToken)
		_, err = f.Verify(t.Context(), tokens.AccessToken)
		wantError(t, err, ErrAccessToken)
		if err := f.Revoke(t.Context(), tokens.RefreshToken); err != nil {
			t.Error(err)
		}
	}
	// The owner's key is destroyed at the end of the first round, so the second round
	// runs without the key.
	for range 2 {
		unknown, before := len(f.facts(t, unknownAccount)), len(f.facts(t, account.ID))
		_, err := f.SignIn(t.Context(), name, password)
		wantError(t, err, ErrCredentials)
		if len(f.facts(t, unknownAccount)) != unknown+1 {
			t.Error("an erased name is not treated as an unknown one")
		}
		for _, again := range []string{name, strings.ToUpper(name)} {
			_, err := f.Register(t.Context(), again, newPassword)
			wantError(t, err, ErrTaken)
		}
		wantError(t, f.Erase(t.Context(), id, password, "home"), ErrAccessToken)
		wantError(t, f.ChangePassword(t.Context(), id, password, newPassword, "home"), ErrAccessToken)
		_, err = f.Enable(t.Context(), CommandLine, account.ID)
		wantError(t, err, ErrAccountErased)
		_, err = f.SetRole(t.Context(), account.ID, Admin)
		wantError(t, err, ErrAccountErased)
		if _, err := f.Disable(t.Context(), CommandLine, account.ID); err != nil {
			t.Error(err)
		}
		if n := len(f.facts(t, account.ID)); n != before {
			t.Errorf("%d events after the erasure, want 0", n-before)
		}
		if err := f.store.Erase(t.Context(), account.ID); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := f.Account(t.Context(), account.ID); err != nil || got.Username != "" || got.ErasedAt.IsZero() || got.DisabledAt.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
	if n := f.knownNetworks(t, account.ID); n != 0 {
		t.Errorf("%d networks are still known", n)
	}
	for _, table := range []string{"accounts", "known_networks", "sign_in_failures", "sessions"} {
		if n := f.count(t, `select count(*) from `+table+` r where r::text like '%`+name+`%' or r::text like '%argon2id%' and r::text like '%`+account.ID.String()+`%'`); n != 0 {
			t.Errorf("%s still holds the name or the hash", table)
		}
	}
}

// Names from before the rules for new names may look alike. The erasure of one of their
// accounts must not prevent the erasure of the other.
func TestBothAccountsOfLookalikeNamesCanBeErased(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var ids []uuid.UUID
	for _, name := range []string{"admin", "someone"} {
		account, err := f.Register(t.Context(), name, password)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, account.ID)
	}
	const lookalike = "аdmin" // the first letter is Cyrillic
	f.exec(t, `update accounts set username = $2, username_key = $2, username_skeleton = $2 where id = $1`, ids[1], lookalike)
	for _, id := range ids {
		if _, err := f.EraseAccount(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	_, err := f.Register(t.Context(), "admin", password)
	wantError(t, err, ErrTaken)
}

// Of several concurrent erasures of an account, one must succeed. Concurrent sign-ins must
// leave no session.
func TestConcurrentErasuresEraseOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	id := f.mustVerify(t, f.mustSignIn(t).AccessToken)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			err := f.Erase(t.Context(), id, password, f.network())
			if err != nil && !errors.Is(err, ErrAccessToken) && !errors.Is(err, ErrBusy) {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := f.SignIn(t.Context(), name, password); err != nil && !errors.Is(err, ErrCredentials) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	erased := 0
	for _, fact := range f.facts(t, account.ID) {
		if fact == (events.AccountErased{}) {
			erased++
		}
	}
	if erased != 1 {
		t.Errorf("%d erasures recorded, want 1", erased)
	}
	if n := f.count(t, `select count(*) from sessions where revoked_at is null`); n != 0 {
		t.Errorf("%d live sessions, want 0", n)
	}
}

func TestNameStaysTakenDuringErasure(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	id := f.mustVerify(t, f.mustSignIn(t).AccessToken)
	late := newHasher(cheapParams)
	s := f.another(t, late)
	// The name is free at the first check of Register. An account gets this name and is
	// erased before the insert.
	f.exec(t, `update accounts set username_key = 'another', username_skeleton = 'another' where id = $1`, id.Account)
	late.create = func(given string, params *argon2id.Params) (string, error) {
		f.exec(t, `update accounts set username_key = $2, username_skeleton = $2 where id = $1`, id.Account, name)
		if err := f.Erase(t.Context(), id, password, "home"); err != nil {
			t.Error(err)
		}
		return argon2id.CreateHash(given, params)
	}
	_, err := s.Register(t.Context(), name, newPassword)
	wantError(t, err, ErrTaken)
	if n := f.count(t, `select count(*) from accounts where username_key = $1`, name); n != 0 {
		t.Error("another account has the name")
	}
}
