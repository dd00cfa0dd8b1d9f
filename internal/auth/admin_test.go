package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/policy"
)

func (f *fixture) mustCreate(t *testing.T, username string, role Role) Account {
	t.Helper()
	account, err := f.Create(t.Context(), username, password, role)
	if err != nil {
		t.Fatal(err)
	}
	return account
}

func TestDisabledAccountIsLockedOutUntilEnabled(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account, admin, auditor := f.mustRegister(t), f.mustCreate(t, "edmond", Admin), f.mustCreate(t, "samuel", Auditor)
	tokens := f.mustSignIn(t)
	change := func(what string, fn func(ctx context.Context, by, id uuid.UUID) (Account, error), by, id uuid.UUID, disabled bool, want error) {
		t.Helper()
		got, err := fn(t.Context(), by, id)
		wantError(t, err, want)
		if err == nil && (got.ID != id || got.DisabledAt.IsZero() == disabled) {
			t.Errorf("%s: %+v", what, got)
		}
		if now, err := f.Account(t.Context(), account.ID); err != nil || now.DisabledAt.IsZero() == disabled {
			t.Errorf("%s: %+v, %v", what, now, err)
		}
	}
	change("by a user", f.Disable, auditor.ID, account.ID, false, ErrForbidden)
	change("by an unknown account", f.Disable, uuid.New(), account.ID, false, ErrForbidden)
	change("own account", f.Disable, admin.ID, admin.ID, false, ErrOwnAccount)
	change("unknown account", f.Disable, admin.ID, uuid.New(), false, events.ErrNotFound)
	change("account for unknown names", f.Disable, admin.ID, unknownAccount, false, events.ErrNotFound)
	change("disable", f.Disable, admin.ID, account.ID, true, nil)
	change("disable again", f.Disable, admin.ID, account.ID, true, nil)
	f.mustBeLockedOut(t, tokens)
	change("enable by a user", f.Enable, account.ID, account.ID, true, ErrForbidden)
	change("enable", f.Enable, admin.ID, account.ID, false, nil)
	change("enable again", f.Enable, admin.ID, account.ID, false, nil)
	_, err := f.Refresh(t.Context(), tokens.RefreshToken) // Refresh must fail, because the session must stay ended
	wantError(t, err, ErrRefreshToken)
	f.mustSignIn(t)
	if _, err := f.Disable(t.Context(), CommandLine, admin.ID); err != nil {
		t.Fatal(err)
	}
	change("by a disabled administrator", f.Disable, admin.ID, account.ID, false, ErrForbidden)
	var got []events.Fact
	for _, fact := range f.facts(t, account.ID) {
		switch fact.(type) {
		case events.AccountDisabled, events.AccountEnabled:
			got = append(got, fact)
		}
	}
	want := []events.Fact{events.AccountDisabled{By: admin.ID.String()}, events.AccountEnabled{By: admin.ID.String()}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestPasswordResetEndsAllSessions sets a user's password as an administrator does.
// Earlier tokens must stop working and the new password must work. A refused password
// must change nothing.
//
// security: ASVS 6.4.3
func TestPasswordResetEndsAllSessions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account, tokens := f.mustRegister(t), f.mustSignIn(t)
	before := len(f.facts(t, account.ID))
	for bad, want := range map[string]error{"short": policy.ErrPasswordLength, strings.ToUpper(name) + "1234": policy.ErrPasswordUsername} {
		_, err := f.SetPassword(t.Context(), account.ID, bad)
		wantError(t, err, want)
	}
	f.mustVerify(t, tokens.AccessToken)
	if got, err := f.SetPassword(t.Context(), account.ID, newPassword); err != nil || got.ID != account.ID {
		t.Fatalf("%+v, %v", got, err)
	}
	if facts := f.facts(t, account.ID); len(facts) != before+1 || facts[before] != (events.AccountPasswordChanged{By: "command"}) {
		t.Errorf("facts: %#v", facts[before:])
	}
	f.mustBeLockedOut(t, tokens)
	if _, err := f.SignIn(t.Context(), name, newPassword); err != nil {
		t.Error(err)
	}
	for _, id := range []uuid.UUID{unknownAccount, uuid.New()} {
		_, err := f.SetPassword(t.Context(), id, newPassword)
		wantError(t, err, events.ErrNotFound)
	}
}

func TestEndSessionsEndsAllSessions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	for _, tokens := range []Tokens{f.mustSignIn(t), f.mustSignIn(t)} {
		if got, err := f.EndSessions(t.Context(), account.ID); err != nil || got.ID != account.ID {
			t.Fatalf("%+v, %v", got, err)
		}
		_, err := f.Refresh(t.Context(), tokens.RefreshToken)
		wantError(t, err, ErrRefreshToken)
		_, err = f.Verify(t.Context(), tokens.AccessToken) // the token must be refused at once
		wantError(t, err, ErrAccessToken)
	}
	if facts := f.facts(t, account.ID); facts[len(facts)-1] != (events.AccountSignedOutEverywhere{By: "command"}) {
		t.Errorf("facts: %#v", facts)
	}
	f.mustVerify(t, f.mustSignIn(t).AccessToken)
	_, err := f.EndSessions(t.Context(), unknownAccount)
	wantError(t, err, events.ErrNotFound)
}

func TestConcurrentEndingsDoNotDeadlock(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	for _, all := range []func() error{
		func() error { _, err := f.EndSessions(t.Context(), account.ID); return err },
		func() error { _, err := f.SetPassword(t.Context(), account.ID, password); return err },
		func() error { return f.SignOutEverywhere(t.Context(), account.ID) },
	} {
		for range 4 {
			var tokens [8]Tokens
			for i := range tokens {
				tokens[i] = f.mustSignIn(t)
			}
			var wg sync.WaitGroup
			for _, tokens := range tokens {
				wg.Go(func() {
					if err := f.Revoke(t.Context(), tokens.RefreshToken); err != nil {
						t.Error(err)
					}
				})
			}
			for range 2 {
				wg.Go(func() {
					if err := all(); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Go(func() { // this sign-in may fail, because the password may be replaced at the same time
				if _, err := f.SignIn(t.Context(), name, password); err != nil && !errors.Is(err, ErrCredentials) {
					t.Error(err)
				}
			})
			wg.Wait()
			if t.Failed() {
				return
			}
		}
	}
}

func TestCommandErasesAnAccount(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account, tokens := f.mustRegister(t), f.mustSignIn(t)
	if n := f.knownNetworks(t, account.ID); n != 1 {
		t.Fatalf("%d networks are known", n)
	}
	got, err := f.EraseAccount(t.Context(), account.ID)
	if now, err2 := f.Account(t.Context(), account.ID); err != nil || err2 != nil || got.ErasedAt.IsZero() || got.Username != "" || cmp.Diff(got, now) != "" {
		t.Fatalf("%+v, %v; then %+v, %v", got, err, now, err2)
	}
	if facts := f.facts(t, account.ID); facts[len(facts)-1] != (events.AccountErased{By: "command"}) {
		t.Errorf("facts: %#v", facts)
	}
	_, err = f.Verify(t.Context(), tokens.AccessToken) // the token must be refused at once
	wantError(t, err, ErrAccessToken)
	_, err = f.SignIn(t.Context(), name, password)
	wantError(t, err, ErrCredentials)
	_, err = f.Register(t.Context(), name, password)
	wantError(t, err, ErrTaken)
	_, err = f.EraseAccount(t.Context(), account.ID)
	wantError(t, err, ErrAccountErased)
	_, err = f.SetPassword(t.Context(), account.ID, newPassword)
	wantError(t, err, ErrAccountErased)
	for _, id := range []uuid.UUID{unknownAccount, uuid.New()} {
		_, err = f.EraseAccount(t.Context(), id)
		wantError(t, err, events.ErrNotFound)
	}
	if n := f.knownNetworks(t, account.ID); n != 0 {
		t.Errorf("%d networks are still known", n)
	}
	if n := f.count(t, `select count(*) from owner_keys where owner = $1 and closed_at is not null`, account.ID); n != 1 {
		t.Errorf("%d keys are marked for destruction, want 1", n)
	}
}

func TestRolesAreGivenByCommand(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account, admin := f.mustRegister(t), f.mustCreate(t, "edmond", Admin)
	if account.Role != User || admin.Role != Admin {
		t.Errorf("%+v, %+v", account, admin)
	}
	for range 2 {
		if got, err := f.SetRole(t.Context(), account.ID, Auditor); err != nil || got.Role != Auditor {
			t.Errorf("%+v, %v", got, err)
		}
	}
	_, err := f.SetRole(t.Context(), uuid.New(), Admin)
	wantError(t, err, events.ErrNotFound)
	_, err = f.SetRole(t.Context(), account.ID, "emperor")
	if err == nil {
		t.Error("an unknown role was accepted")
	}
	for _, c := range []struct {
		id   uuid.UUID
		want []events.Fact
	}{
		{account.ID, []events.Fact{events.AccountRegistered{Username: name}, events.AccountRoleChanged{Role: "auditor", By: "command"}}},
		{admin.ID, []events.Fact{events.AccountRegistered{Username: "edmond"}, events.AccountRoleChanged{Role: "admin", By: "command"}}},
	} {
		if diff := cmp.Diff(c.want, f.facts(t, c.id)); diff != "" {
			t.Error(diff)
		}
	}
	if got, err := f.Named(t.Context(), "EDMOND"); err != nil || got != admin {
		t.Errorf("%+v, %v", got, err)
	}
	for _, none := range []string{"leonhard", ""} {
		if got, err := f.Named(t.Context(), none); err == nil {
			t.Errorf("%q names %+v", none, got)
		}
	}
}

// TestOneOfTwoAdministratorsStaysEnabled lets two administrators disable each other
// concurrently. One of them must stay enabled.
func TestOneOfTwoAdministratorsStaysEnabled(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a, b := f.mustCreate(t, "isaac", Admin), f.mustCreate(t, "robert", Admin)
	for range 5 {
		var wg sync.WaitGroup
		errs := make([]error, 2)
		wg.Go(func() { _, errs[0] = f.Disable(t.Context(), a.ID, b.ID) })
		wg.Go(func() { _, errs[1] = f.Disable(t.Context(), b.ID, a.ID) })
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs...), ErrForbidden) {
			t.Fatalf("%v", errs)
		}
		for _, id := range []uuid.UUID{a.ID, b.ID} {
			if _, err := f.Enable(t.Context(), CommandLine, id); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestAccountsArePaged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	want := []Account{f.mustRegister(t)}
	for i := range 4 {
		want = append(want, f.mustCreate(t, fmt.Sprint("user-", i), []Role{User, Auditor, Admin, User}[i]))
	}
	for size := range 6 {
		var got []Account
		var last uuid.UUID
		for {
			page, err := f.Accounts(t.Context(), last, size+1)
			if err != nil || len(page) > size+1 {
				t.Fatalf("%d accounts, %v", len(page), err)
			}
			if len(page) == 0 {
				break
			}
			got, last = append(got, page...), page[len(page)-1].ID
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: %s", size+1, cmp.Diff(want, got))
		}
	}
}
