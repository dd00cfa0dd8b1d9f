package auth

import (
	"context"
	"errors"
	"flag"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/alexedwards/argon2id"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/policy"
)

func TestRegisteredNameIsTakenInAnySpelling(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account, err := f.Register(t.Context(), "Isaac", "securepassword")
	if err != nil {
		t.Fatal(err)
	}
	if account.Username != "Isaac" || account.ID.Version() != 7 || !account.CreatedAt.Equal(f.clock.Now().Truncate(time.Microsecond)) {
		t.Errorf("registered %+v", account)
	}
	if diff := cmp.Diff([]events.Fact{events.AccountRegistered{Username: "Isaac"}}, f.facts(t, account.ID)); diff != "" {
		t.Error(diff)
	}
	f.hash.create = func(string, *argon2id.Params) (string, error) {
		t.Error("a password was hashed although the name is taken or refused")
		return "", nil
	}
	for _, variant := range []string{"Isaac", "isaac", "ISAAC", "Ｉｓａａｃ"} {
		_, err := f.Register(t.Context(), variant, password)
		wantError(t, err, ErrTaken)
	}
	for _, c := range []struct {
		name, password string
		err            error
	}{
		{"ab", password, policy.ErrUsernameLength},
		{"a b", password, policy.ErrUsernameCharacters},
		{"gottfried", "short", policy.ErrPasswordLength},
		{"gottfried", "password123", policy.ErrPasswordCommon},
		{"gottfried", "GOTTFRIED", policy.ErrPasswordUsername},
	} {
		_, err := f.Register(t.Context(), c.name, c.password)
		wantError(t, err, c.err)
	}
	if n := f.count(t, `select count(*) from accounts where id <> $1`, unknownAccount); n != 1 {
		t.Errorf("%d accounts, want 1", n)
	}
}

// If names in different scripts look alike, only one of them can be registered. After the
// account with this name is erased, the others must still be refused.
func TestLookalikeOfANameIsTaken(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const latin, cyrillic = "aca-cope", "аса-соре"
	account, err := f.Register(t.Context(), cyrillic, password)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Register(t.Context(), latin, password)
	wantError(t, err, ErrTaken)
	_, err = f.Register(t.Context(), "аdmin", password) // the first letter is Cyrillic
	wantError(t, err, policy.ErrUsernameScripts)
	tokens, err := f.SignIn(t.Context(), cyrillic, password)
	if err != nil {
		t.Fatal(err)
	}
	id := f.mustVerify(t, tokens.AccessToken)
	if id.Account != account.ID {
		t.Errorf("signed in as %s, want %s", id.Account, account.ID)
	}
	if err := f.Erase(t.Context(), id, password, "home"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{latin, cyrillic} {
		_, err = f.Register(t.Context(), name, password)
		wantError(t, err, ErrTaken)
	}
}

// An account from before the rules for new names must still be able to sign in.
func TestOldNameWithMixedScriptsSignsIn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	f.exec(t, `update accounts set username = 'аdmin', username_key = 'аdmin', username_skeleton = null where id = $1`, account.ID)
	tokens, err := f.SignIn(t.Context(), "аdmin", password)
	if err != nil {
		t.Fatal(err)
	}
	if id := f.mustVerify(t, tokens.AccessToken); id.Account != account.ID {
		t.Errorf("signed in as %s, want %s", id.Account, account.ID)
	}
}

func TestConcurrentRegistrationsOfOneNameMakeOneAccount(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for i := range cap(errs) {
		wg.Go(func() {
			_, err := f.Register(context.Background(), []string{"isaac", "ISAAC"}[i%2], password)
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	won := 0
	for err := range errs {
		if err == nil {
			won++
		} else {
			wantError(t, err, ErrTaken)
		}
	}
	if won != 1 {
		t.Errorf("%d registrations of one name, want 1", won)
	}
	for _, table := range []string{"accounts", "owner_keys", "events"} { // each table must have one row for the account and one row for unknown names
		if n := f.count(t, `select count(*) from `+table); n != 2 {
			t.Errorf("%d rows in %s, want 2", n, table)
		}
	}
}

func TestNameTakenDuringHashingIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	late := newHasher(cheapParams)
	s := f.another(t, late)
	late.create = func(password string, params *argon2id.Params) (string, error) {
		f.mustRegister(t)
		return argon2id.CreateHash(password, params)
	}
	before := f.count(t, `select count(*) from events`)
	_, err := s.Register(t.Context(), strings.ToUpper(name), password)
	wantError(t, err, ErrTaken)
	if n := f.count(t, `select count(*) from events`); n != before+1 {
		t.Errorf("%d events, want the one of the other registration", n-before)
	}
}

// TestSignInBeginsASession signs a new user in. The access token must name the new
// session. Other spellings of the same name and password must work too.
//
// security: ASVS 7.2.2, ASVS 7.2.4
func TestSignInBeginsASession(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	account := f.mustRegister(t)
	tokens := f.mustSignIn(t)
	identity := f.mustVerify(t, tokens.AccessToken)
	if identity.Account != account.ID || tokens.ExpiresIn != DefaultAccessTTL {
		t.Errorf("%+v, %+v", identity, tokens)
	}
	want := []events.Fact{events.AccountRegistered{Username: name}, events.AccountSignedIn{Session: identity.Session}}
	if diff := cmp.Diff(want, f.facts(t, account.ID)); diff != "" {
		t.Error(diff)
	}
	for _, c := range []struct{ name, password string }{
		{"ISAAC", password},
		{"Ｉｓａａｃ", password},
		{name, "ｈypotheses non fingo"},
	} {
		if _, err := f.SignIn(t.Context(), c.name, c.password); err != nil {
			t.Errorf("%q, %q: %v", c.name, c.password, err)
		}
	}
}

// TestFailedSignInsAreAlike signs in with a wrong password, under a name that exists
// and under an unknown name. Both sign-ins must do the same work. They must return the
// same error, compute one hash with the same parameters, and append one event.
//
// security: ASVS 6.3.8, ASVS 16.3.1
func TestFailedSignInsAreAlike(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	known := f.mustRegister(t)
	disabled, err := f.Register(t.Context(), "gottfried", password)
	if err != nil {
		t.Fatal(err)
	}
	f.exec(t, `update accounts set disabled_at = now() where id = $1`, disabled.ID)

	var checked, created int
	var with []argon2id.Params
	f.hash.check = func(password, hash string) (bool, *argon2id.Params, error) {
		checked++
		match, params, err := argon2id.CheckHash(password, hash)
		with = append(with, *params)
		return match, params, err
	}
	f.hash.create = func(password string, params *argon2id.Params) (string, error) {
		created++
		return argon2id.CreateHash(password, params)
	}
	for _, c := range []struct {
		what, name, password string
		stream               uuid.UUID
	}{
		{"wrong password", name, "not " + password, known.ID},
		{"right password with a suffix", name, password + "x", known.ID},
		{"empty password", name, "", known.ID},
		{"password that is not UTF-8", name, "\xff", known.ID},
		{"password that is too long", name, strings.Repeat("x", 1<<20), known.ID},
		{"unknown name", "leonhard", password, unknownAccount},
		{"empty name", "", password, unknownAccount},
		{"impossible name", "a b", password, unknownAccount},
		{"NUL in the name", name + "\x00", password, unknownAccount},
		{"name that is not UTF-8", "\xff\xff\xff", password, unknownAccount},
		{"long name", strings.Repeat("x", 1<<20), password, unknownAccount},
		{"disabled account", "gottfried", password, disabled.ID},
		{"disabled account, wrong password", "gottfried", "not " + password, disabled.ID},
	} {
		t.Run(c.what, func(t *testing.T) {
			checked, created, with = 0, 0, nil
			before, inAll := len(f.facts(t, c.stream)), f.count(t, `select count(*) from events`)
			tokens, err := f.SignIn(t.Context(), c.name, c.password)
			if !errors.Is(err, ErrCredentials) || err.Error() != ErrCredentials.Error() || tokens != (Tokens{}) {
				t.Errorf("%+v, %v", tokens, err)
			}
			if checked != 1 || created != 0 || with[0] != cheapParams {
				t.Errorf("%d hashes checked, %d created, with %+v; want one check with %+v", checked, created, with, cheapParams)
			}
			facts := f.facts(t, c.stream)
			if len(facts) != before+1 || facts[before] != (events.AccountSignInFailed{}) {
				t.Errorf("facts: %#v", facts)
			}
			if n := f.count(t, `select count(*) from events`); n != inAll+1 {
				t.Errorf("%d new events, want 1", n-inAll)
			}
		})
	}
}

var tries = flag.Int("tries", 12, "sign-ins per name in TestUnknownNamesTakeAsLong")

// TestUnknownNamesTakeAsLong compares the median processor times that sign-ins with a known
// and an unknown name take, with the production parameters. Without the hash for unknown
// names they would differ by a factor of ten. With -tries 1000 or more, it compares the times
// that a client sees, on an idle machine, and the difference must be within 5 %.
//
// security: ASVS 6.3.8
func TestUnknownNamesTakeAsLong(t *testing.T) {
	f := newFixture(t)
	f.Service = f.another(t, newHasher(productionParams))
	f.mustRegister(t)
	clock := processorTime
	if *tries >= 1000 {
		begin := time.Now()
		clock = func(*testing.T) time.Duration { return time.Since(begin) }
	}
	var took [2][]time.Duration
	for round := range *tries {
		for i := range took {
			i ^= round / 2 & 1 // alternates the order, because the garbage collector may run at every second sign-in
			start := clock(t)
			_, err := f.SignIn(t.Context(), []string{name, "leonhard"}[i], "not "+password)
			took[i] = append(took[i], clock(t)-start)
			wantError(t, err, ErrCredentials)
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	known, unknown := took[0][*tries/2], took[1][*tries/2]
	ratio := float64(known) / float64(unknown)
	t.Logf("median of %d: known name %v, unknown name %v, ratio %.4f", *tries, known, unknown, ratio)
	if ratio < 0.5 || ratio > 2 || *tries >= 1000 && (ratio < 0.95 || ratio > 1.05) {
		t.Errorf("known name %v, unknown name %v", known, unknown)
	}
}

// processorTime returns the processor time that this process has used. Unlike the time on a
// clock, it does not grow while other processes run.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func TestAccountChangedDuringHashingIsCheckedAgain(t *testing.T) {
	t.Parallel()
	other, err := argon2id.CreateHash("another "+password, &cheapParams)
	if err != nil {
		t.Fatal(err)
	}
	same, err := argon2id.CreateHash(password, &cheapParams)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, sql string
		arg       any
		want      error
	}{
		{"password changed", `update accounts set password_hash = $1 where username <> ''`, other, ErrCredentials},
		{"disabled", `update accounts set disabled_at = $1 where username <> ''`, time.Now(), ErrCredentials},
		{"deleted", `delete from accounts where username = $1`, name, ErrCredentials},
		{"same password, rehashed", `update accounts set password_hash = $1 where username <> ''`, same, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.mustRegister(t)
			first := true
			f.hash.check = func(password, hash string) (bool, *argon2id.Params, error) {
				if first {
					first = false
					f.exec(t, c.sql, c.arg)
				}
				return argon2id.CheckHash(password, hash)
			}
			_, err := f.SignIn(t.Context(), name, password)
			wantError(t, err, c.want)
			sessions := 0
			if c.want == nil {
				sessions = 1
			}
			if n := f.count(t, `select count(*) from sessions`); n != sessions {
				t.Errorf("%d sessions, want %d", n, sessions)
			}
		})
	}
	t.Run("changed each time", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		f.mustRegister(t)
		f.hash.check = func(password, hash string) (bool, *argon2id.Params, error) {
			match, params, err := argon2id.CheckHash(password, hash)
			another, _ := argon2id.CreateHash(password, &cheapParams)
			f.exec(t, `update accounts set password_hash = $1 where username <> ''`, another)
			return match, params, err
		}
		_, err := f.SignIn(t.Context(), name, password)
		wantError(t, err, ErrBusy)
	})
}

// TestOutdatedHashesAreReplaced stores password hashes with the parameters of an
// earlier build. The hash of an account must be replaced at the account's next sign-in.
// The hash for unknown names must be replaced when the service starts.
func TestOutdatedHashesAreReplaced(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	params := cheapParams
	params.Iterations = 2
	h := newHasher(params)
	hashed := 0
	h.create = func(password string, params *argon2id.Params) (string, error) {
		hashed++
		return argon2id.CreateHash(password, params)
	}
	f.Service = f.another(t, h)
	if n := f.count(t, `select count(*) from accounts where password_hash like '%,t=2,%' and id = $1`, unknownAccount); n != 1 || hashed != 1 {
		t.Errorf("the hash for unknown names is outdated (%d hashes created)", hashed)
	}
	_, err := f.SignIn(t.Context(), name, "not "+password)
	wantError(t, err, ErrCredentials)
	if hashed != 1 {
		t.Error("a wrong password was hashed")
	}
	for range 2 {
		f.mustSignIn(t)
	}
	if n := f.count(t, `select count(*) from accounts where password_hash like '%,t=2,%'`); n != 2 || hashed != 2 {
		t.Errorf("%d hashes are up to date after %d were created, want 2 and 2", n, hashed)
	}
	if facts := f.facts(t, unknownAccount); len(facts) != 1 {
		t.Errorf("facts of unknown names: %#v", facts)
	}
}

// TestConcurrentStartsCreateOneUnknownAccount lets one process start while another
// process creates the account for unknown names. Only one account for unknown names may
// be created, and both starts must succeed.
func TestConcurrentStartsCreateOneUnknownAccount(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec(t, `delete from accounts`)
	f.exec(t, `delete from owner_keys`)
	h := newHasher(cheapParams)
	h.create = func(password string, params *argon2id.Params) (string, error) {
		f.another(t, newHasher(cheapParams))
		return argon2id.CreateHash(password, params)
	}
	before := len(f.facts(t, unknownAccount))
	f.another(t, h)
	if facts := f.facts(t, unknownAccount); len(facts) != before+1 {
		t.Errorf("facts: %#v", facts)
	}
}

func TestCancelledRequestsAreNotWrongPasswords(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, err := range map[string]error{
		"register": func() error { _, err := f.Register(ctx, "leonhard", password); return err }(),
		"sign in":  func() error { _, err := f.SignIn(ctx, name, password); return err }(),
	} {
		if !errors.Is(err, context.Canceled) || errors.Is(err, ErrCredentials) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
