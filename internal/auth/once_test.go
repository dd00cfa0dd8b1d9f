package auth

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"colophon/events"
)

var onceKey = events.IdempotencyKey{Scope: "POST /users", Key: "k1"}

func TestOneKeyRegistersOneAccount(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var wg sync.WaitGroup
	accounts := make([]Account, 8)
	for i := range accounts {
		wg.Go(func() {
			var err error
			if accounts[i], err = f.RegisterOnce(t.Context(), onceKey, name, password); err != nil {
				t.Errorf("concurrent registration: %v", err)
			}
		})
	}
	wg.Wait()
	again, err := f.RegisterOnce(t.Context(), onceKey, name, password)
	if err != nil {
		t.Fatalf("later registration: %v", err)
	}
	for _, account := range accounts {
		if !cmp.Equal(account, again) || account.Username != name {
			t.Errorf("%+v and %+v", account, again)
		}
	}
	if n := f.count(t, `select count(*) from accounts where username <> ''`); n != 1 {
		t.Errorf("%d accounts", n)
	}
}

// TestReusedKeyRevealsNothing reuses another client's key with a different name or
// password. The response must not reveal the account.
func TestReusedKeyRevealsNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account, err := f.RegisterOnce(t.Context(), onceKey, name, password)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct{ name, password string }{
		"another password":     {name, "another password"},
		"another name":         {"gottfried", password},
		"another spelling":     {"Isaac", password},
		"an invalid name":      {"a<", password},
		"a password too short": {name, "x"},
	} {
		got, err := f.RegisterOnce(t.Context(), onceKey, c.name, c.password)
		if got != (Account{}) {
			t.Errorf("%s: got %+v", what, got)
		}
		wantError(t, err, events.ErrKeyReused)
	}
	// Wrong passwords under the key must be recorded, as at a sign-in.
	failed := 0
	for _, fact := range f.facts(t, account.ID) {
		if _, ok := fact.(events.AccountSignInFailed); ok {
			failed++
		}
	}
	if failed != 2 {
		t.Errorf("%d failed sign-ins recorded, want 2", failed)
	}
	if n := f.count(t, `select count(*) from accounts where username <> ''`); n != 1 {
		t.Errorf("%d accounts", n)
	}
	// Under another key the user name must be taken.
	other := onceKey
	other.Key = "k2"
	_, err = f.RegisterOnce(t.Context(), other, name, password)
	wantError(t, err, ErrTaken)
}

// TestKeyMayBeUsedAgainAfterARefusal repeats a refused request under the same key, with a
// corrected body. The second request must succeed.
func TestKeyMayBeUsedAgainAfterARefusal(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := f.RegisterOnce(t.Context(), onceKey, name, "short"); err == nil {
		t.Fatal("a short password was accepted")
	}
	if _, err := f.RegisterOnce(t.Context(), onceKey, name, password); err != nil {
		t.Errorf("corrected request: %v", err)
	}
}
