package auth

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/vault"
)

// rotate rotates the keys in another process, and then advances the clock to the time when
// the new key signs.
func (f *fixture) rotate(t *testing.T) Rotation {
	t.Helper()
	r, err := f.another(t, newHasher(cheapParams)).Rotate(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	f.clock.Advance(r.From.Sub(f.clock.Now()))
	return r
}

func (f *fixture) jwks(t *testing.T) (kids []string) {
	t.Helper()
	raw := f.JWKS(t.Context())
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	for _, key := range set.Keys {
		if len(key) != 6 || key["kty"] != "OKP" || key["crv"] != "Ed25519" || key["alg"] != "EdDSA" || key["use"] != "sig" {
			t.Errorf("key %v in the set", key)
		}
		if x, err := base64.RawURLEncoding.DecodeString(key["x"]); err != nil || len(x) != ed25519.PublicKeySize {
			t.Errorf("key %v in the set", key)
		}
		kids = append(kids, key["kid"])
	}
	return kids
}

func TestConcurrentFirstStartsShareOneKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec(t, `delete from signing_keys`)
	f.exec(t, `delete from accounts`)
	f.exec(t, `delete from owner_keys`)
	services := make([]*Service, 6)
	var wg sync.WaitGroup
	for i := range services {
		wg.Go(func() {
			s, err := newService(context.Background(), f.db.App, f.store, f.vault, testOptions, newHasher(cheapParams), clocks{f.clock.Now, f.clock.Now})
			if err != nil {
				t.Error(err)
			}
			services[i] = s
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if err := services[0].keys.create(t.Context()); err != nil { // acts like a process that has not read the stored key
		t.Error(err)
	}
	if n := f.count(t, `select count(*) from signing_keys`); n != 1 {
		t.Errorf("%d signing keys, want 1", n)
	}
	f.Service = services[0]
	f.mustRegister(t)
	token := f.mustSignIn(t).AccessToken
	for _, s := range services {
		if _, err := s.Verify(t.Context(), token); err != nil {
			t.Error(err)
		}
	}
}

func TestKeysSurviveARestart(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	tokens := f.mustSignIn(t)
	before := string(f.JWKS(t.Context()))
	f.Service = f.another(t, newHasher(cheapParams))
	f.mustVerify(t, tokens.AccessToken)
	f.mustRefresh(t, tokens.RefreshToken)
	if after := string(f.JWKS(t.Context())); after != before {
		t.Errorf("keys before %s, after %s", before, after)
	}
}

func TestRotatedKeysSignAndVerifyInTheirTerms(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	other := f.another(t, newHasher(cheapParams)) // a service in another process
	before := f.mustSignIn(t)
	old := before.AccessToken

	r, err := other.Rotate(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if ahead := r.From.Sub(f.clock.Now()); ahead < 2*keysMaxAge+JWKSMaxAge || r.Last.Sub(r.From) < DefaultAccessTTL {
		t.Errorf("the new key signs in %v; the last token of the old key expires %v later", ahead, r.Last.Sub(r.From))
	}
	facts := f.facts(t, unknownAccount)
	if facts[len(facts)-1] != (events.AccountKeyRotated{Key: r.Key, From: r.From}) {
		t.Errorf("facts: %#v", facts)
	}
	// The new key must be published before it signs.
	f.clock.Advance(keysMaxAge + time.Second)
	if kids := f.jwks(t); len(kids) != 2 || kids[0] != r.Key || kids[1] != kidOf(t, old) {
		t.Errorf("published keys: %q", kids)
	}
	f.clock.Advance(r.From.Sub(f.clock.Now()) - time.Microsecond)
	before = f.mustRefresh(t, before.RefreshToken)
	if kidOf(t, before.AccessToken) != kidOf(t, old) {
		t.Error("the new key signs before its term")
	}
	f.clock.Advance(time.Microsecond)
	renewed := f.mustRefresh(t, before.RefreshToken).AccessToken
	if kidOf(t, renewed) != r.Key {
		t.Error("the new key does not sign")
	}
	for _, token := range []string{old, before.AccessToken, renewed} {
		if _, err := other.Verify(t.Context(), token); err != nil {
			t.Error(err)
		}
		f.mustVerify(t, token)
	}

	// The old key must be refused when all its tokens have expired, even if the keys
	// cannot be read again.
	f.exec(t, `revoke select on signing_keys from colophon_app`)
	forger := newForger(t, f.Service)
	forger.private, forger.kid = privateKeyOf(t, f, old), kidOf(t, old)
	f.clock.Advance(r.Last.Sub(f.clock.Now()) - time.Microsecond)
	forger.now = f.clock.Now()
	f.mustVerify(t, forger.with(nil, nil))
	f.clock.Advance(time.Microsecond)
	if _, err := other.Verify(t.Context(), forger.with(nil, nil)); !errors.Is(err, ErrAccessToken) {
		t.Errorf("a retired key is accepted: %v", err)
	}
	f.exec(t, `grant select on signing_keys to colophon_app`)
	f.clock.Advance(keysMinInterval)
	if kids := f.jwks(t); len(kids) != 1 || kids[0] != r.Key {
		t.Errorf("published keys: %q", kids)
	}
	// The next rotation must delete the old key.
	f.clock.Advance(time.Second)
	f.rotate(t)
	if n := f.count(t, `select count(*) from signing_keys`); n != 2 {
		t.Errorf("%d keys are stored, want 2", n)
	}
}

// TestConcurrentRotationsAreSerialized rotates the keys concurrently. Each new key must
// get a signing period of its own, so that exactly one key signs at any time.
func TestConcurrentRotationsAreSerialized(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	tokens := f.mustSignIn(t)
	var wg sync.WaitGroup
	starts := make([]time.Time, 5)
	for i := range starts {
		wg.Go(func() {
			r, err := f.Rotate(context.Background(), false)
			if err != nil {
				t.Error(err)
			}
			starts[i] = r.From
		})
	}
	wg.Wait()
	slices.SortFunc(starts, time.Time.Compare)
	seen := map[string]bool{}
	for i, start := range starts {
		if i > 0 && start.Sub(starts[i-1]) < time.Second {
			t.Errorf("the term from %v begins %v after the previous one", start, start.Sub(starts[i-1]))
		}
		f.clock.Advance(start.Sub(f.clock.Now()) - time.Microsecond)
		for range 2 {
			tokens = f.mustRefresh(t, tokens.RefreshToken)
			f.mustVerify(t, tokens.AccessToken)
			seen[kidOf(t, tokens.AccessToken)] = true
			f.clock.Advance(time.Microsecond)
		}
	}
	if len(seen) != len(starts)+1 {
		t.Errorf("%d keys have signed, want %d", len(seen), len(starts)+1)
	}
}

func TestLeakedKeysAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	other := f.another(t, newHasher(cheapParams))
	tokens := f.mustSignIn(t)
	if _, err := f.Rotate(t.Context(), false); err != nil { // publishes another key, which leaks as well
		t.Fatal(err)
	}
	r, err := other.Rotate(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	if facts := f.facts(t, unknownAccount); facts[len(facts)-1] != (events.AccountKeyRotated{Key: r.Key, From: r.From, Leaked: true}) {
		t.Errorf("facts: %#v", facts)
	}
	f.clock.Advance(keysMaxAge + time.Second)
	for _, s := range []*Service{f.Service, other} {
		_, err := s.Verify(t.Context(), tokens.AccessToken)
		wantError(t, err, ErrAccessToken)
	}
	f.mustVerify(t, f.mustRefresh(t, tokens.RefreshToken).AccessToken) // clients must be able to refresh their access tokens
	if kids := f.jwks(t); len(kids) != 1 || kids[0] != r.Key {
		t.Errorf("published keys: %q", kids)
	}
	if n := f.count(t, `select count(*) from signing_keys`); n != 1 {
		t.Errorf("%d keys are stored, want 1", n)
	}
}

func kidOf(t testing.TB, token string) string {
	t.Helper()
	kid, err := readHeader(token)
	if err != nil {
		t.Fatal(err)
	}
	return kid
}

// privateKeyOf reads from the database the private key that signed a token.
func privateKeyOf(t *testing.T, f *fixture, token string) ed25519.PrivateKey {
	t.Helper()
	kid := kidOf(t, token)
	var wrapped []byte
	if err := f.db.Owner.QueryRow(t.Context(), `select wrapped from signing_keys where kid = $1`, kid).Scan(&wrapped); err != nil {
		t.Fatal(err)
	}
	seed, err := f.vault.UnwrapSecret(wrapped, purpose(kid), f.vault.Own().ID())
	if err != nil {
		t.Fatal(err)
	}
	return ed25519.NewKeyFromSeed(seed)
}

func TestRotatedKeySignsInOtherProcesses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	before := f.mustSignIn(t)
	f.rotate(t)
	f.clock.Advance(keysMaxAge + time.Second)
	after := f.mustRefresh(t, before.RefreshToken)
	if kidOf(t, before.AccessToken) == kidOf(t, after.AccessToken) {
		t.Error("the retired key signs")
	}
	f.mustVerify(t, before.AccessToken)
	f.mustVerify(t, after.AccessToken)
}

// TestUnknownKeysCauseOneReadASecond verifies many tokens with unknown keys. These
// tokens may cause at most one read of the keys per second. Valid tokens must cause no
// read.
func TestUnknownKeysCauseOneReadASecond(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	token := f.mustSignIn(t).AccessToken
	forger := newForger(t, f.Service)
	acquired := func() int64 { return f.db.App.Stat().AcquireCount() }
	before := acquired()
	f.mustVerify(t, token)
	if n := acquired() - before; n != 0 {
		t.Errorf("%d queries for a valid token, want 0", n)
	}
	for range 50 {
		_, err := f.Verify(t.Context(), forger.with(members{"kid": uuid.NewString()}, nil))
		wantError(t, err, ErrAccessToken)
	}
	if n := acquired() - before; n != 1 {
		t.Errorf("%d queries for 50 unknown keys, want 1", n)
	}
	f.clock.Advance(keysMinInterval)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, err := f.Verify(context.Background(), forger.with(members{"kid": uuid.NewString()}, nil))
			wantError(t, err, ErrAccessToken)
		})
	}
	wg.Wait()
	if n := acquired() - before; n != 2 {
		t.Errorf("%d queries, want 2", n)
	}

	// A client that leaves at once must not abort the read of the keys.
	f.rotate(t)
	leaver := f.another(t, newHasher(cheapParams))
	f.rotate(t)
	f.Service = f.another(t, newHasher(cheapParams))
	token = f.mustSignIn(t).AccessToken
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := leaver.Verify(gone, token); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// If the read were aborted, other callers would get its error for keysMinInterval.
	if _, err := leaver.Verify(t.Context(), token); err != nil {
		t.Error(err)
	}
}

// TestKnownKeysVerifyWithoutTheDatabase verifies tokens while the database is
// unavailable. Verify must accept tokens with known keys. For an unknown key, Verify
// must return the database's error.
func TestKnownKeysVerifyWithoutTheDatabase(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	token := f.mustSignIn(t).AccessToken
	forger := newForger(t, f.Service)
	f.exec(t, `revoke select on signing_keys from colophon_app`)
	f.clock.Advance(keysMaxAge + time.Second)
	for range 2 {
		f.mustVerify(t, token)
		f.jwks(t)
		f.mustSignIn(t)
	}
	for range 2 {
		_, err := f.Verify(t.Context(), forger.with(members{"kid": "unknown"}, nil))
		if err == nil || errors.Is(err, ErrAccessToken) {
			t.Errorf("error %v, want the database's", err)
		}
	}
	f.exec(t, `grant select on signing_keys to colophon_app`)
	f.clock.Advance(keysMinInterval)
	_, err := f.Verify(t.Context(), forger.with(members{"kid": "unknown"}, nil))
	wantError(t, err, ErrAccessToken)
}

// TestTamperedKeysAreRefused changes the stored keys. The service must refuse a key
// unless the master key has wrapped the key for its own row.
func TestTamperedKeysAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other, err := vault.New([]byte(strings.Repeat("x", vault.MasterKeySize)))
	if err != nil {
		t.Fatal(err)
	}
	start := func(v *vault.Vault) error {
		_, err := newService(t.Context(), f.db.App, f.store, v, testOptions, newHasher(cheapParams), clocks{f.clock.Now, f.clock.Now})
		return err
	}
	if err := start(f.vault); err != nil {
		t.Fatal(err)
	}
	wantError(t, start(other), vault.ErrUnreadable)

	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := newKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for what, row := range map[string]struct {
		kid     string
		wrapped []byte
	}{
		"not wrapped":                {key.KeyID(), private.Seed()},
		"wrapped by another key":     {key.KeyID(), other.Own().Wrap(private.Seed(), purpose(key.KeyID()))},
		"wrapped for something else": {key.KeyID(), f.vault.Own().Wrap(private.Seed(), "another secret")},
		"under another id":           {"other", f.vault.Own().Wrap(private.Seed(), purpose("other"))},
		"another length":             {"short", f.vault.Own().Wrap(private.Seed()[1:], purpose("short"))},
	} {
		f.exec(t, `insert into signing_keys (kid, wrapped, created_at, retired_at) values ($1, $2, now(), $3)`, row.kid, row.wrapped, f.clock.Now())
		if start(f.vault) == nil {
			t.Errorf("%s: accepted", what)
		}
		f.exec(t, `delete from signing_keys where kid = $1`, row.kid)
	}
}
