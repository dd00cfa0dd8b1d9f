package auth

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alexedwards/argon2id"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/migrations"
)

// cheapParams are fast hash parameters for tests that do not test hashing.
var cheapParams = argon2id.Params{Memory: 64, Iterations: 1, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// clock is a clock that moves only when a test advances it.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now().Truncate(time.Microsecond)} } // Postgres stores times with microsecond precision

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fixture is a service over a database of its own. The service connects with the
// application's database role.
type fixture struct {
	*Service
	db    *pgtest.DB
	store *events.Store
	vault *vault.Vault
	clock *clock

	networks atomic.Int64
}

var testOptions = Options{Issuer: "https://colophon.test", Audience: "colophon"}

func newVault(t testing.TB, fill byte) *vault.Vault {
	t.Helper()
	v, err := vault.New(bytes.Repeat([]byte{fill}, vault.MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	v := newVault(t, 7)
	db := pgtest.New(t, migrations.Up)
	f := &fixture{db: db, store: events.NewStore(db.App, v, slog.New(slog.DiscardHandler)), vault: v, clock: newClock()}
	f.Service = f.another(t, newHasher(cheapParams))
	return f
}

// another returns a second service over the same database.
func (f *fixture) another(t *testing.T, h *hasher) *Service {
	t.Helper()
	s, err := newService(t.Context(), f.db.App, f.store, f.vault, testOptions, h, clocks{f.clock.Now, f.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// network returns the name of a new network, which has no earlier sign-ins.
func (f *fixture) network() string { return fmt.Sprint("network ", f.networks.Add(1)) }

// SignIn signs in from a new network, so that earlier failures do not delay the sign-in.
// The delays have their own tests in throttle_test.go.
func (f *fixture) SignIn(ctx context.Context, username, password string) (Tokens, error) {
	return f.Service.SignIn(ctx, username, password, f.network())
}

// RegisterOnce registers an account from a new network.
func (f *fixture) RegisterOnce(ctx context.Context, key events.IdempotencyKey, username, password string) (Account, error) {
	return f.Service.RegisterOnce(ctx, key, username, password, f.network())
}

// facts returns the facts in an account's stream.
func (f *fixture) facts(t *testing.T, account uuid.UUID) []events.Fact {
	t.Helper()
	read, err := f.store.Read(t.Context(), events.AccountStream(account), 0)
	if err != nil {
		t.Fatal(err)
	}
	facts := make([]events.Fact, len(read))
	for i, e := range read {
		facts[i] = e.Fact
	}
	return facts
}

const name, password = "isaac", "hypotheses non fingo"

func (f *fixture) mustRegister(t *testing.T) Account {
	t.Helper()
	account, err := f.Register(t.Context(), name, password)
	if err != nil {
		t.Fatal(err)
	}
	return account
}

func (f *fixture) mustSignIn(t *testing.T) Tokens {
	t.Helper()
	tokens, err := f.SignIn(t.Context(), name, password)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func (f *fixture) mustRefresh(t *testing.T, token string) Tokens {
	t.Helper()
	tokens, err := f.Refresh(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func (f *fixture) mustVerify(t *testing.T, token string) Identity {
	t.Helper()
	identity, err := f.Verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// mustBeLockedOut fails the test unless the tokens and the password are refused now.
func (f *fixture) mustBeLockedOut(t *testing.T, tokens Tokens) {
	t.Helper()
	_, err := f.Refresh(t.Context(), tokens.RefreshToken)
	wantError(t, err, ErrRefreshToken)
	_, err = f.Verify(t.Context(), tokens.AccessToken)
	wantError(t, err, ErrAccessToken)
	_, err = f.SignIn(t.Context(), name, password)
	wantError(t, err, ErrCredentials)
}

func (f *fixture) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := f.db.Owner.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) count(t *testing.T, sql string, args ...any) (n int) {
	t.Helper()
	if err := f.db.Owner.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// wantError fails the test unless err is want.
func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

func TestInvalidOptionsAreRefused(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{
		"no issuer":                      {Audience: "a"},
		"no audience":                    {Issuer: "i"},
		"access tokens shorter than 1 s": {Issuer: "i", Audience: "a", AccessTTL: time.Millisecond},
		"negative access token lifetime": {Issuer: "i", Audience: "a", AccessTTL: -time.Hour},
		"sessions shorter than tokens":   {Issuer: "i", Audience: "a", RefreshTTL: time.Minute},
		"negative session lifetime":      {Issuer: "i", Audience: "a", RefreshTTL: -time.Hour},
	} {
		if _, err := New(t.Context(), nil, nil, nil, o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestSecretsAreNotStored searches all tables after a sign-in. No table may hold a
// secret in a usable form, and no event may hold a password hash.
//
// security: ASVS 16.2.5
func TestSecretsAreNotStored(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	first := f.mustSignIn(t)
	second := f.mustRefresh(t, first.RefreshToken)
	f.clock.Advance(time.Minute)
	_, err := f.Refresh(t.Context(), first.RefreshToken)
	wantError(t, err, ErrRefreshToken)
	_, err = f.SignIn(t.Context(), name, "not "+password)
	wantError(t, err, ErrCredentials)

	dump := func(tables ...string) string {
		var all strings.Builder
		for _, table := range tables {
			var text string
			err := f.db.Owner.QueryRow(t.Context(), `select coalesce(string_agg(r::text, e'\n'), '') from `+table+` r`).Scan(&text)
			if err != nil {
				t.Fatal(err)
			}
			if text == "" {
				t.Errorf("%s is empty", table)
			}
			all.WriteString(text)
		}
		return all.String()
	}
	var private ed25519.PrivateKey
	if err := f.keys.current.Load().signer(f.now()).Raw(&private); err != nil {
		t.Fatal(err)
	}
	log := dump("(select convert_from(payload, 'UTF8') from events)")
	all := log + dump("accounts", "sessions", "refresh_tokens", "signing_keys", "sign_in_failures", "known_networks")
	for _, secret := range []string{password, first.RefreshToken, second.RefreshToken, first.AccessToken, second.AccessToken, string(private.Seed())} {
		for _, form := range []string{secret, strings.TrimPrefix(secret, refreshPrefix), hex.EncodeToString([]byte(secret))} {
			if strings.Contains(all, form) {
				t.Errorf("the database holds %q", form)
			}
		}
	}
	for _, word := range []string{"argon2id", name, "hash"} {
		if strings.Contains(log, word) {
			t.Errorf("the event log holds %q", word)
		}
	}
}

// TestErrorsRepeatNoInput passes recognizable names, passwords and tokens to failing
// calls. No error may repeat them, because errors are logged.
//
// security: ASVS 16.5.1
func TestErrorsRepeatNoInput(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const canary = "canary-8b1f"
	ctx := t.Context()
	f.mustRegister(t)
	closed, cancel := context.WithCancel(ctx)
	cancel()
	var errs []error
	note := func(_ any, err error) {
		if err == nil {
			t.Error("no error")
		}
		errs = append(errs, err)
	}
	aaaa, _ := f.newRefreshToken(uuid.UUID(slices.Repeat([]byte{0x69, 0xa6, 0x9a}, 6)[:16])) // the text of this token contains "aaaa...", which no error may repeat
	note(f.Register(ctx, canary+"<", password))
	note(f.Register(ctx, name, canary+canary))
	note(f.Register(ctx, canary+canary, canary+canary))
	note(f.Register(closed, canary, canary+password))
	note(f.SignIn(ctx, canary, canary))
	note(f.SignIn(closed, canary, canary))
	note(f.Refresh(ctx, canary))
	note(f.Refresh(closed, strings.Repeat("a", 90)))
	note(f.Refresh(closed, aaaa))
	note(f.Verify(ctx, canary))
	for _, err := range errs {
		if strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "aaaaaaa") {
			t.Errorf("%v", err)
		}
	}
}
