package auth

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestKeyIsReadOncePerTTL counts the queries for keys by the calls of admit, which precede
// them. A known key must cost none until it is read again, and an unknown one must cost one
// each time.
//
// security: API4:2023
func TestKeyIsReadOncePerTTL(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, secret := f.mustCreateKey(t, f.mustRegister(t).ID)
	admitted := 0
	admit := func() error { admitted++; return nil }
	for _, c := range []struct {
		later            time.Duration
		queries, unknown int
	}{{0, 1, 1}, {0, 0, 0}, {keyTTL - time.Second, 0, 0}, {time.Second, 1, 0}, {0, 0, 0}, {keyMemory, 1, 1}} {
		f.clock.Advance(c.later)
		f.known.forget()
		if err := f.ended.poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := f.db.App.Stat().AcquireCount()
		admitted = 0
		_, err := f.VerifyKey(t.Context(), secret, admit)
		if queries := f.db.App.Stat().AcquireCount() - before; err != nil || queries != int64(c.queries) || admitted != c.unknown {
			t.Errorf("after %s: %d queries, %d admitted, %v; want %d and %d", c.later, queries, admitted, err, c.queries, c.unknown)
		}
	}
	admitted = 0
	unknown := newAPIKey()
	for range 3 {
		_, err := f.VerifyKey(t.Context(), unknown, admit)
		wantError(t, err, ErrAPIKey)
	}
	if admitted != 3 {
		t.Errorf("%d queries for an unknown key, want 3", admitted)
	}
	refused := errors.New("too many")
	_, err := f.VerifyKey(t.Context(), unknown, func() error { return refused })
	wantError(t, err, refused)
	if len(f.known.byHash) != 1 {
		t.Errorf("%d keys in memory, want the valid one", len(f.known.byHash))
	}
	f.clock.Advance(keyMemory)
	f.known.forget()
	if len(f.known.byHash) != 0 {
		t.Errorf("%d keys in memory, want none", len(f.known.byHash))
	}
}

func TestKeysInMemoryAreBounded(t *testing.T) {
	t.Parallel()
	k := newKnownKeys(time.Now)
	for range maxKnownKeys + 5 {
		k.add(hashKey(newAPIKey()), &APIKey{}, time.Now())
	}
	if len(k.byHash) > maxKnownKeys {
		t.Errorf("%d keys in memory, want %d at most", len(k.byHash), maxKnownKeys)
	}
}

// TestKeyExpires moves the clock to the expiry of a key that the process knows.
//
// security: ASVS 9.2.1
func TestKeyExpires(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	k, secret := f.mustCreateKeyWith(t, account.ID, KeyOptions{Name: "a", Scopes: []Scope{ScopeRead}, Expires: f.clock.Now().Add(time.Minute)})
	f.clock.Advance(time.Minute - time.Microsecond)
	if err := f.ended.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if id, err := verifyKey(t.Context(), f.Service, secret); err != nil || !id.Expires.Equal(k.Expires) {
		t.Errorf("%+v, %v", id, err)
	}
	f.clock.Advance(time.Microsecond)
	other := f.another(t, newHasher(cheapParams))
	for _, s := range []*Service{f.Service, other} {
		_, err := verifyKey(t.Context(), s, secret)
		wantError(t, err, ErrAPIKey)
	}
	if keys, err := f.APIKeys(t.Context(), account.ID); err != nil || len(keys) != 1 {
		t.Errorf("%d keys, %v; want the expired one", len(keys), err)
	}
}

// TestOutageRefusesKnownKeysLater makes the database unreachable. A key that the process knows
// must be accepted for ten seconds, as an access token is, and then be refused without being
// called invalid. A key that it does not know must be refused in the same way at once.
func TestOutageRefusesKnownKeysLater(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	_, known := f.mustCreateKey(t, account.ID)
	_, unknown := f.mustCreateKey(t, account.ID)
	if _, err := verifyKey(t.Context(), f.Service, known); err != nil {
		t.Fatal(err)
	}
	f.exec(t, `alter table ended_sessions rename to away`)
	f.exec(t, `alter table api_keys rename to gone`)
	fails := func(secret string) {
		t.Helper()
		if _, err := verifyKey(t.Context(), f.Service, secret); err == nil || errors.Is(err, ErrAPIKey) {
			t.Errorf("%v, want an error that does not blame the key", err)
		}
	}
	if _, err := verifyKey(t.Context(), f.Service, known); err != nil {
		t.Error(err)
	}
	fails(unknown)
	f.clock.Advance(staleAfter + time.Second)
	fails(known)
	f.exec(t, `alter table gone rename to api_keys`)
	f.exec(t, `alter table away rename to ended_sessions`)
	f.clock.Advance(pollRetry)
	for _, secret := range []string{known, unknown} {
		if _, err := verifyKey(t.Context(), f.Service, secret); err != nil {
			t.Error(err)
		}
	}
}

// TestLastUseIsWrittenTogether uses keys in two processes. Each process must write all uses in
// one statement, the later use must win, and a use that cannot be written must not be lost.
func TestLastUseIsWrittenTogether(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	other := f.another(t, newHasher(cheapParams))
	_, first := f.mustCreateKey(t, account.ID)
	_, second := f.mustCreateKey(t, account.ID)
	use := func(s *Service, secrets ...string) {
		t.Helper()
		for _, secret := range secrets {
			if _, err := verifyKey(t.Context(), s, secret); err != nil {
				t.Fatal(err)
			}
		}
	}
	lastUsed := func() (list []time.Time) {
		t.Helper()
		keys, err := f.APIKeys(t.Context(), account.ID)
		if err != nil || len(keys) != 2 {
			t.Fatal(keys, err)
		}
		return []time.Time{keys[1].LastUsedAt, keys[0].LastUsedAt}
	}
	use(f.Service, first, second)
	early := f.clock.Now().UTC()
	f.clock.Advance(time.Second)
	use(other, first)
	late := f.clock.Now().UTC()
	if got := lastUsed(); !got[0].IsZero() || !got[1].IsZero() {
		t.Errorf("written with each use: %v", got)
	}
	f.exec(t, `alter table api_keys rename to gone`)
	if err := other.writeUsed(t.Context()); err == nil {
		t.Error("written without a table")
	}
	f.exec(t, `alter table gone rename to api_keys`)
	for _, s := range []*Service{other, f.Service, other} {
		if err := s.writeUsed(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if got := lastUsed(); !got[0].Equal(late) || !got[1].Equal(early) {
		t.Errorf("last used at %v, want %v and %v", got, late, early)
	}
	if len(other.known.takeUsed())+len(f.known.takeUsed()) != 0 {
		t.Error("uses are left to write")
	}
}

// TestUsesAreWrittenWhenTheProcessStops runs a process and stops it after a use.
func TestUsesAreWrittenWhenTheProcessStops(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	_, secret := f.mustCreateKey(t, account.ID)
	t.Run("process", func(t *testing.T) { // its process stops at the end of the subtest
		s, _ := f.process(t, f.clock.Now)
		if _, err := verifyKey(t.Context(), s, secret); err != nil {
			t.Fatal(err)
		}
	})
	if keys, err := f.APIKeys(t.Context(), account.ID); err != nil || !keys[0].LastUsedAt.Equal(f.clock.Now()) {
		t.Errorf("%+v, %v", keys, err)
	}
}

// TestManyCallersReadAKeyOnce verifies a key from many goroutines of a process that does not
// know it, while others present unknown keys.
func TestManyCallersReadAKeyOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, secret := f.mustCreateKey(t, f.mustRegister(t).ID)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := verifyKey(context.Background(), f.Service, secret); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := verifyKey(context.Background(), f.Service, newAPIKey()); !errors.Is(err, ErrAPIKey) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestTicketOfAKeyEndsWithTheKey gets tickets with an API key, which may have no expiry.
//
// security: ASVS 7.4.1
func TestTicketOfAKeyEndsWithTheKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	k, secret := f.mustCreateKey(t, account.ID)
	id, err := verifyKey(t.Context(), f.Service, secret)
	if err != nil {
		t.Fatal(err)
	}
	ticket := func() string {
		t.Helper()
		text, err := f.Ticket(t.Context(), id, "/here")
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	first := ticket()
	got, proof, err := f.Redeem(t.Context(), first, "/here")
	if err != nil || got.Account != account.ID || got.Key == nil || got.Key.ID != k.ID || !got.Expires.Equal(f.clock.Now().Add(ResumeTTL)) || !got.Key.Allows(ScopeRead) || got.Key.Allows(ScopeGenerate) {
		t.Errorf("%+v, %v", got, err)
	}
	for range maxTickets + 2 {
		ticket()
	}
	if n := f.count(t, `select count(*) from tickets where api_key = $1`, k.ID); n != maxTickets {
		t.Errorf("%d tickets, want %d", n, maxTickets)
	}
	if again, err := f.Reopen(t.Context(), first, proof, "/here"); err != nil || again.Key.ID != k.ID || again.Key.Allows(ScopeGenerate) {
		t.Errorf("%+v, %v", again, err)
	}
	last := ticket()
	waiting, stop := f.While(t.Context(), got)
	defer stop()
	if err := f.RevokeKey(t.Context(), account.ID, account.ID, k.ID); err != nil {
		t.Fatal(err)
	}
	<-waiting.Done()
	wantError(t, context.Cause(waiting), ErrAPIKey)
	_, _, err = f.Redeem(t.Context(), last, "/here")
	wantError(t, err, ErrAccessToken)
	_, err = f.Reopen(t.Context(), first, proof, "/here")
	wantError(t, err, ErrAccessToken)
	_, err = f.Ticket(t.Context(), id, "/here")
	wantError(t, err, ErrAPIKey)
	if _, err := f.Verify(t.Context(), secret); !errors.Is(err, ErrAccessToken) || strings.Contains(err.Error(), secret) {
		t.Errorf("a key as an access token: %v", err)
	}
}
