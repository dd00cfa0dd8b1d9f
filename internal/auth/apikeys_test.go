package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
)

// mustCreateKey creates an API key with the scopes generate and read.
func (f *fixture) mustCreateKey(t *testing.T, account uuid.UUID) (APIKey, string) {
	t.Helper()
	return f.mustCreateKeyWith(t, account, KeyOptions{Name: "test", Scopes: []Scope{ScopeRead, ScopeGenerate}})
}

func (f *fixture) mustCreateKeyWith(t *testing.T, account uuid.UUID, o KeyOptions) (APIKey, string) {
	t.Helper()
	k, secret, err := f.CreateKey(t.Context(), CommandLine, account, o)
	if err != nil {
		t.Fatal(err)
	}
	return k, secret
}

// verifyKey verifies a key, and lets the service query the database.
func verifyKey(ctx context.Context, s *Service, secret string) (Identity, error) {
	return s.VerifyKey(ctx, secret, func() error { return nil })
}

// waitKeyRefused waits until a service refuses an API key, and returns the duration of the
// wait.
func waitKeyRefused(t *testing.T, s *Service, secret string) time.Duration {
	t.Helper()
	return waitFor(t, ErrAPIKey, func() (Identity, error) { return verifyKey(t.Context(), s, secret) })
}

// TestEndedKeysAreRefusedEverywhere ends API keys in every way. The process that ended a key
// must refuse it at once, and another process, which knows the key, must refuse it within two
// seconds. In both, waits of the key must end, and keys of other accounts must stay valid.
//
// security: ASVS 7.4.1, ASVS 7.4.2, ASVS 8.3.2
func TestEndedKeysAreRefusedEverywhere(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other, _ := f.process(t, f.clock.Now)
	_, bystander := f.mustCreateKey(t, f.mustRegister(t).ID)
	for i, c := range []struct {
		how  string
		here bool // true if the key ends by a call in this process
		end  func(account Account, k APIKey, secret string) error
	}{
		{"revoked", true, func(a Account, k APIKey, _ string) error { return f.RevokeKey(t.Context(), a.ID, a.ID, k.ID) }},
		{"revoked by command", true, func(a Account, k APIKey, _ string) error { return f.RevokeKey(t.Context(), CommandLine, a.ID, k.ID) }},
		{"revoked by who has it", true, func(_ Account, _ APIKey, secret string) error { return f.Revoke(t.Context(), secret) }},
		{"disabled", true, func(a Account, _ APIKey, _ string) error {
			_, err := f.Disable(t.Context(), CommandLine, a.ID)
			return err
		}},
		{"erased", true, func(a Account, _ APIKey, _ string) error {
			return f.Erase(t.Context(), Identity{Account: a.ID}, password, f.network())
		}},
		{"erased by command", true, func(a Account, _ APIKey, _ string) error {
			_, err := f.EraseAccount(t.Context(), a.ID)
			return err
		}},
		{"revoked by another program", false, func(_ Account, k APIKey, _ string) error {
			f.exec(t, `update api_keys set revoked_at = now() where id = $1`, k.ID)
			return nil
		}},
		{"removed by another program", false, func(_ Account, k APIKey, _ string) error {
			f.exec(t, `delete from api_keys where id = $1`, k.ID)
			return nil
		}},
		{"disabled by another program", false, func(a Account, _ APIKey, _ string) error {
			f.exec(t, `update accounts set disabled_at = now() where id = $1`, a.ID)
			return nil
		}},
		{"account removed", false, func(a Account, _ APIKey, _ string) error {
			f.exec(t, `delete from accounts where id = $1`, a.ID)
			return nil
		}},
	} {
		t.Run(c.how, func(t *testing.T) {
			account, err := f.Register(t.Context(), fmt.Sprintf("owner-%d", i), password)
			if err != nil {
				t.Fatal(err)
			}
			k, secret := f.mustCreateKey(t, account.ID)
			var waits []context.Context
			for _, s := range []*Service{f.Service, other} {
				id, err := verifyKey(t.Context(), s, secret)
				if err != nil || id.Account != account.ID || id.Key.ID != k.ID || id.Session != uuid.Nil {
					t.Fatalf("%+v, %v", id, err)
				}
				waiting, stop := s.While(t.Context(), id)
				defer stop()
				waits = append(waits, waiting)
			}
			if err := c.end(account, k, secret); err != nil {
				t.Fatal(err)
			}
			if c.here {
				_, err := verifyKey(t.Context(), f.Service, secret)
				wantError(t, err, ErrAPIKey)
			} else if err := f.ended.poll(t.Context()); err != nil {
				t.Fatal(err)
			}
			took := waitKeyRefused(t, other, secret)
			t.Logf("refused by the other process after %v", took)
			if took > 2*time.Second {
				t.Errorf("refused after %v, want 2 s at most", took)
			}
			for i, waiting := range waits {
				select {
				case <-waiting.Done():
					wantError(t, context.Cause(waiting), ErrAPIKey)
				case <-time.After(20 * time.Second):
					t.Errorf("the wait in process %d does not end", i)
				}
			}
			// Nothing revives the key, whatever the process knows of it.
			f.exec(t, `update accounts set disabled_at = null where id = $1 and erased_at is null`, account.ID)
			for _, later := range []time.Duration{0, keyTTL, time.Hour} {
				f.clock.Advance(later)
				if err := errors.Join(f.collect(t.Context()), f.ended.poll(t.Context())); err != nil {
					t.Fatal(err)
				}
				_, err := verifyKey(t.Context(), f.Service, secret)
				wantError(t, err, ErrAPIKey)
			}
			if _, err := verifyKey(t.Context(), f.Service, bystander); err != nil {
				t.Errorf("the key of another account: %v", err)
			}
		})
	}
}

// TestKeysOutliveSessions ends the sessions of an account in all ways. Its API keys must stay
// valid, and its stream must have the facts about them, without the key and its hash.
//
// security: ASVS 16.2.5
func TestKeysOutliveSessions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	o := KeyOptions{
		Name: "for the night shift", Scopes: []Scope{ScopeRead, ScopeGenerate, ScopeRead}, Generations: 7, Tokens: 900,
		Expires: f.clock.Now().Add(30 * 24 * time.Hour),
	}
	k, secret, err := f.CreateKey(t.Context(), CommandLine, account.ID, o)
	if err != nil {
		t.Fatal(err)
	}
	id := f.mustVerify(t, f.mustSignIn(t).AccessToken)
	if err := f.ChangePassword(t.Context(), id, password, "another long sentence", f.network()); err != nil {
		t.Fatal(err)
	}
	if err := f.SignOutEverywhere(t.Context(), account.ID); err != nil {
		t.Fatal(err)
	}
	if got, err := verifyKey(t.Context(), f.Service, secret); err != nil || !got.Expires.Equal(k.Expires) || !got.Key.Allows(ScopeRead) || got.Key.Allows(ScopeAdmin) || got.Key.Generations != 7 || got.Key.Tokens != 900 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := f.RevokeKey(t.Context(), account.ID, account.ID, k.ID); err != nil {
		t.Fatal(err)
	}
	wantError(t, f.RevokeKey(t.Context(), account.ID, account.ID, k.ID), events.ErrNotFound)
	_, holders := f.mustCreateKey(t, account.ID)
	if err := f.Revoke(t.Context(), holders); err != nil {
		t.Fatal(err)
	}
	var created, revoked []events.Fact
	for _, fact := range f.facts(t, account.ID) {
		switch fact := fact.(type) {
		case events.KeyCreated:
			created = append(created, fact)
		case events.KeyRevoked:
			revoked = append(revoked, fact)
		}
	}
	first, ok := created[0].(events.KeyCreated)
	if !ok || len(created) != 2 || first.Key != k.ID || first.Name != o.Name || strings.Join(first.Scopes, " ") != "generate read" ||
		!first.Expires.Equal(o.Expires) || first.Generations != 7 || first.Tokens != 900 || first.By != "command" {
		t.Errorf("created: %+v", created)
	}
	if len(revoked) != 2 || revoked[0] != (events.KeyRevoked{Key: k.ID}) || revoked[1].(events.KeyRevoked).By != "holder" {
		t.Errorf("revoked: %+v", revoked)
	}
	hash := hashKey(secret)
	for what, text := range map[string][]byte{"the key": []byte(secret[len(keyPrefix):]), "its hash": hash[:], "its name": []byte(o.Name)} {
		if n := f.count(t, `select count(*) from events where position($1::bytea in payload) > 0 or position($1::bytea in sealed) > 0`, text); n != 0 {
			t.Errorf("%d events have %s in the clear", n, what)
		}
	}
	if n := f.count(t, `select count(*) from api_keys k where position($1 in k::text) > 0`, secret[keyShown:]); n != 0 {
		t.Error("the key is stored in plain text")
	}
}

// TestKeyOptionsAreChecked creates keys that must be refused.
//
// security: ASVS 8.2.2, API5:2023
func TestKeyOptionsAreChecked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	auditor := f.mustCreate(t, "edmond", Auditor)
	read := []Scope{ScopeRead}
	create := func(account uuid.UUID, o KeyOptions) error {
		_, _, err := f.CreateKey(t.Context(), CommandLine, account, o)
		return err
	}
	for _, bad := range []string{"", " a", "a ", "a\nb", "a\x1b[31mb", "a\u202eb", "a\xffb", "a\x00b"} {
		wantError(t, create(account.ID, KeyOptions{Name: bad, Scopes: read}), ErrKeyName)
	}
	wantError(t, create(account.ID, KeyOptions{Name: "Ångström's 3rd ☃ key", Scopes: read}), nil)
	wantError(t, create(account.ID, KeyOptions{Name: "a", Scopes: read, Expires: f.clock.Now()}), ErrKeyExpired)
	wantError(t, create(account.ID, KeyOptions{Name: "a", Scopes: []Scope{ScopeAdmin}}), ErrForbidden)
	wantError(t, create(auditor.ID, KeyOptions{Name: "a", Scopes: []Scope{ScopeAdmin}}), nil)
	wantError(t, create(uuid.New(), KeyOptions{Name: "a", Scopes: read}), ErrAccessToken)
	wantError(t, create(unknownAccount, KeyOptions{Name: "a", Scopes: read}), ErrAccessToken)
	if _, err := f.Disable(t.Context(), CommandLine, auditor.ID); err != nil {
		t.Fatal(err)
	}
	wantError(t, create(auditor.ID, KeyOptions{Name: "a", Scopes: read}), ErrAccessToken)
}

// TestKeysAreLimited creates more keys than an account may have, from many goroutines. Keys
// that have expired must give way, the oldest first, and no others.
//
// security: API4:2023
func TestKeysAreLimited(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	o := KeyOptions{Name: "a", Scopes: []Scope{ScopeRead}}
	o.Expires = f.clock.Now().Add(time.Minute)
	_, first := f.mustCreateKeyWith(t, account.ID, o)
	o.Expires = o.Expires.Add(time.Minute)
	second, _ := f.mustCreateKeyWith(t, account.ID, o)
	f.clock.Advance(time.Hour)
	o.Expires = time.Time{}
	create := func(n int) (refused int) {
		var wg sync.WaitGroup
		results := make(chan error, n)
		for range n {
			wg.Go(func() {
				_, _, err := f.CreateKey(context.Background(), CommandLine, account.ID, o)
				results <- err
			})
		}
		wg.Wait()
		close(results)
		for err := range results {
			if errors.Is(err, ErrTooManyKeys) {
				refused++
			} else if err != nil {
				t.Error(err)
			}
		}
		return refused
	}
	if refused := create(maxAPIKeys - 2); refused != 0 {
		t.Errorf("%d keys refused below the limit", refused)
	}
	if refused := create(1); refused != 0 {
		t.Error("the oldest expired key does not give way")
	}
	_, err := verifyKey(t.Context(), f.Service, first)
	wantError(t, err, ErrAPIKey)
	keys, err := f.APIKeys(t.Context(), account.ID)
	if err != nil || len(keys) != maxAPIKeys || keys[maxAPIKeys-1].ID != second.ID {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	if refused := create(5); refused != 4 {
		t.Errorf("%d of 5 keys refused, want 4", refused)
	}
	if err := f.RevokeKey(t.Context(), account.ID, account.ID, keys[0].ID); err != nil {
		t.Fatal(err)
	}
	if refused := create(2); refused != 1 {
		t.Errorf("%d of 2 keys refused, want 1", refused)
	}
}

// TestNoKeyOutlivesAConcurrentDisabling creates keys while the account is disabled. Each key
// must be refused in the end.
//
// security: ASVS 8.3.2
func TestNoKeyOutlivesAConcurrentDisabling(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	secrets := make(chan string, 40)
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			_, secret, err := f.CreateKey(context.Background(), CommandLine, account.ID, KeyOptions{Name: "a", Scopes: []Scope{ScopeRead}})
			if err == nil {
				secrets <- secret
			} else if !errors.Is(err, ErrAccessToken) {
				t.Error(err)
			}
		})
	}
	<-secrets // some keys exist, and others are being created
	if _, err := f.Disable(t.Context(), CommandLine, account.ID); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	close(secrets)
	for secret := range secrets {
		_, err := verifyKey(t.Context(), f.Service, secret)
		wantError(t, err, ErrAPIKey)
	}
	if n := f.count(t, `select count(*) from api_keys where revoked_at is null`); n != 0 {
		t.Errorf("%d keys are not revoked", n)
	}
}

// A process may accept an access token for a moment after its session has ended. No key may
// be made with it.
func TestEndedSessionCreatesNoKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	id, err := f.Verify(t.Context(), f.mustSignIn(t).AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	o := KeyOptions{Name: "a", Scopes: []Scope{ScopeRead}}
	if _, _, err := f.CreateKey(t.Context(), id.Session, account.ID, o); err != nil {
		t.Fatal(err)
	}
	if err := f.SignOutEverywhere(t.Context(), account.ID); err != nil {
		t.Fatal(err)
	}
	_, _, err = f.CreateKey(t.Context(), id.Session, account.ID, o)
	wantError(t, err, ErrAccessToken)
	other := f.mustCreate(t, "edmond", User)
	_, _, err = f.CreateKey(t.Context(), id.Session, other.ID, o)
	wantError(t, err, ErrAccessToken)
}
