package auth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alexedwards/argon2id"
	"github.com/google/uuid"

	"colophon/events"
)

// signInFrom signs in from a network and returns the error.
func (f *fixture) signInFrom(t *testing.T, network, username, password string) error {
	t.Helper()
	_, err := f.Service.SignIn(t.Context(), username, password, network)
	return err
}

// newSlowFixture returns a fixture whose first delay after failures is a minute. So
// even a slow machine checks the delay before the delay ends.
func newSlowFixture(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t)
	f.Service.backoffs.pair.initial = time.Minute
	return f
}

// wantThrottled fails the test unless err is a ThrottledError with the wanted delay. The
// delay may be up to 30 s shorter, because the database's clock runs during the test.
func wantThrottled(t *testing.T, what string, err error, want time.Duration) {
	t.Helper()
	e, ok := errors.AsType[*ThrottledError](err)
	if !ok {
		t.Fatalf("%s: %v, want a ThrottledError", what, err)
	}
	if e.Wait > want || e.Wait < want-30*time.Second || e.Wait <= 0 {
		t.Errorf("%s: wait %v, want %v", what, e.Wait, want)
	}
}

// age makes all stored failures older by the duration d.
func (f *fixture) age(t *testing.T, d time.Duration) {
	t.Helper()
	f.exec(t, `update sign_in_failures set at = at - $1::interval, began_at = began_at - $1::interval`, d)
}

func (f *fixture) countHashes() *atomic.Int32 {
	n := new(atomic.Int32)
	f.hash.check = func(password, hash string) (bool, *argon2id.Params, error) {
		n.Add(1)
		return argon2id.CheckHash(password, hash)
	}
	return n
}

// TestGuessingDelaysOnlyTheGuesser guesses passwords from one network. This network
// must wait longer after each failure, whether or not the account exists. Other
// networks must not wait.
func TestGuessingDelaysOnlyTheGuesser(t *testing.T) {
	t.Parallel()
	f := newSlowFixture(t)
	account := f.mustRegister(t)
	hashes := f.countHashes()
	for _, c := range []struct {
		name   string
		stream uuid.UUID
	}{{name, account.ID}, {"leonhard", unknownAccount}, {"a b", unknownAccount}} {
		hashes.Store(0)
		before := len(f.facts(t, c.stream))
		for range productionBackoffs.pair.free {
			wantError(t, f.signInFrom(t, "mallory's", c.name, "not "+password), ErrCredentials)
		}
		wantThrottled(t, c.name, f.signInFrom(t, "mallory's", c.name, "not "+password), time.Minute)
		wantThrottled(t, c.name+" and the right password", f.signInFrom(t, "mallory's", c.name, password), time.Minute)
		if n := hashes.Load(); int(n) != productionBackoffs.pair.free {
			t.Errorf("%s: %d hashes for %d free attempts", c.name, n, productionBackoffs.pair.free)
		}
		if n := len(f.facts(t, c.stream)) - before; n != productionBackoffs.pair.free {
			t.Errorf("%s: %d events, want %d", c.name, n, productionBackoffs.pair.free)
		}
		for _, want := range []time.Duration{2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 15 * time.Minute, 15 * time.Minute} {
			f.age(t, want)
			wantError(t, f.signInFrom(t, "mallory's", c.name, "not "+password), ErrCredentials)
			wantThrottled(t, c.name, f.signInFrom(t, "mallory's", c.name, "not "+password), want)
		}
	}
	if err := f.signInFrom(t, "the owner's", name, password); err != nil {
		t.Errorf("the owner is refused for failures of another network: %v", err)
	}
	f.age(t, 15*time.Minute)
	if err := f.signInFrom(t, "mallory's", name, password); err != nil {
		t.Errorf("after the wait: %v", err)
	}
	// The right password must have cleared the failures.
	for range productionBackoffs.pair.free {
		wantError(t, f.signInFrom(t, "mallory's", name, "not "+password), ErrCredentials)
	}
}

func TestDelaysDoubleUpToTheMaximum(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p := productionBackoffs.pair
	for failures, want := range map[int]time.Duration{
		0:           0,
		p.free - 1:  0,
		p.free:      time.Second,
		p.free + 1:  2 * time.Second,
		p.free + 9:  512 * time.Second,
		p.free + 10: 15 * time.Minute,
		1<<31 - 1:   15 * time.Minute,
	} {
		var got time.Duration
		if err := f.db.App.QueryRow(t.Context(), `select sign_in_wait($1, $2, $3, $4)`, failures, p.free, p.initial, p.max).Scan(&got); err != nil || got != want {
			t.Errorf("after %d failures: %v, %v; want %v", failures, got, err, want)
		}
	}
}

func TestFailuresCountForADay(t *testing.T) {
	t.Parallel()
	f := newSlowFixture(t)
	for range productionBackoffs.pair.free {
		wantError(t, f.signInFrom(t, "n", name, password), ErrCredentials)
	}
	f.age(t, time.Minute)
	wantError(t, f.signInFrom(t, "n", name, password), ErrCredentials)
	wantThrottled(t, "on the same day", f.signInFrom(t, "n", name, password), 2*time.Minute)
	f.age(t, failureWindow)
	for range productionBackoffs.pair.free {
		wantError(t, f.signInFrom(t, "n", name, password), ErrCredentials)
	}
	wantThrottled(t, "on the next day", f.signInFrom(t, "n", name, password), time.Minute)
}

// TestOthersCannotLockAnOwnerOut makes failures under the owner's name from other
// networks, and failures under other names from the owner's known network. The owner
// must still be able to sign in from the known network.
//
// security: ASVS 6.3.1
func TestOthersCannotLockAnOwnerOut(t *testing.T) {
	t.Parallel()
	f := newSlowFixture(t)
	f.mustRegister(t)
	signIn := func(what, network string) {
		t.Helper()
		if err := f.signInFrom(t, network, name, password); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	signIn("for the first time", "home")

	// Wrong passwords for the owner's name arrive from many networks.
	wantError(t, f.signInFrom(t, "1.1.1.1", name, "guess"), ErrCredentials)
	f.exec(t, `update sign_in_failures set failures = $2 where key = $1`, f.Service.vault.Digest("sign-in name", name), underAttackAfter-1)
	wantError(t, f.signInFrom(t, "1.1.1.2", name, "guess"), ErrCredentials)
	wantError(t, f.signInFrom(t, "1.1.1.3", name, "guess"), ErrCredentials)
	wantThrottled(t, "a second guess from one of very many", f.signInFrom(t, "1.1.1.3", name, "guess"), time.Minute)
	signIn("from home, while many guess", "home")
	signIn("from elsewhere, while many guess", "hotel")
	for range productionBackoffs.pair.free { // the owner must still have all free attempts
		wantError(t, f.signInFrom(t, "home", name, "mistake"), ErrCredentials)
	}
	wantThrottled(t, "the owner's own mistakes", f.signInFrom(t, "home", name, password), time.Minute)
	f.age(t, time.Minute)
	signIn("after them", "home")

	// Another user in the owner's home network guesses passwords under many names.
	wantError(t, f.signInFrom(t, "home", "leonhard", "guess"), ErrCredentials)
	f.exec(t, `update sign_in_failures set failures = $2, at = now() where key = $1`, f.Service.vault.Digest("sign-in network", "home"), productionBackoffs.network.free+20)
	wantThrottled(t, "a network that has tried many names", f.signInFrom(t, "home", "gottfried", "guess"), time.Minute)
	signIn("from a known network that has tried many names", "home")
	f.age(t, time.Minute)
	wantError(t, f.signInFrom(t, "home", "gottfried", "guess"), ErrCredentials)
}

// A guesser with many networks of one IPv6 site must wait when the failures of the site
// exceed its free attempts. Other sites, and the owner's known network of the same site,
// must not wait.
func TestManyNetworksOfOneSiteShareTheirFailures(t *testing.T) {
	t.Parallel()
	f := newSlowFixture(t)
	f.mustRegister(t)
	f.Service.backoffs.site = backoff{4, time.Minute, time.Minute}
	if err := f.signInFrom(t, "2001:db8:1:ffff::/64", name, password); err != nil {
		t.Fatal(err)
	}
	guess := func(i int, prefix string) error {
		return f.signInFrom(t, fmt.Sprintf("%s:%x::/64", prefix, i), fmt.Sprint("name ", i), "guess")
	}
	for i := range 4 {
		wantError(t, guess(i, "2001:db8:1"), ErrCredentials)
	}
	wantThrottled(t, "a further network of the site", guess(5, "2001:db8:1"), time.Minute)
	wantError(t, guess(5, "2001:db8:2"), ErrCredentials)
	if err := f.signInFrom(t, "2001:db8:1:ffff::/64", name, password); err != nil {
		t.Errorf("the owner's known network: %v", err)
	}
}

func TestConcurrentGuessesGetNoExtraTries(t *testing.T) {
	t.Parallel()
	f := newSlowFixture(t)
	f.mustRegister(t)
	hashes := f.countHashes()
	other := f.another(t, newHasher(cheapParams))
	other.hash.check, other.backoffs = f.hash.check, f.Service.backoffs
	var wg sync.WaitGroup
	var wrong, refused atomic.Int32
	for i := range 60 {
		wg.Go(func() {
			s := []*Service{f.Service, other}[i%2]
			_, err := s.SignIn(t.Context(), name, "not "+password, "mallory's")
			if _, ok := errors.AsType[*ThrottledError](err); ok {
				refused.Add(1)
			} else if errors.Is(err, ErrCredentials) {
				wrong.Add(1)
			} else {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := int(wrong.Load()); n != productionBackoffs.pair.free || int(hashes.Load()) != n || int(refused.Load()) != 60-n {
		t.Errorf("%d wrong, %d hashes, %d refused", n, hashes.Load(), refused.Load())
	}
}

func TestBusySignInIsNoFailure(t *testing.T) {
	t.Parallel()
	f := newSlowFixture(t)
	f.mustRegister(t)
	for range cap(f.hash.slots) {
		f.hash.slots <- struct{}{} // occupies all slots
	}
	f.hash.wait = time.Millisecond
	for range 2 * productionBackoffs.pair.free {
		wantError(t, f.signInFrom(t, "n", name, password), ErrBusy)
	}
	if n := f.count(t, `select coalesce(sum(failures), 0) from sign_in_failures`); n != 0 {
		t.Errorf("%d failures", n)
	}
}

// TestUndecidedAttemptsAreNoFailures disturbs sign-in attempts in different ways. An
// attempt may count as a failure only if the password check has found a wrong password.
func TestUndecidedAttemptsAreNoFailures(t *testing.T) {
	t.Parallel()
	failing := errors.New("no answer")
	hashFails := func(f *fixture, _ *testing.T, _ context.CancelFunc) {
		f.hash.check = func(string, string) (bool, *argon2id.Params, error) { return false, nil, failing }
	}
	type operation = func(*fixture, context.Context, Identity, string) error
	signIn := func(f *fixture, ctx context.Context, _ Identity, password string) error {
		_, err := f.Service.SignIn(ctx, name, password, "n")
		return err
	}
	change := func(f *fixture, ctx context.Context, id Identity, password string) error {
		return f.ChangePassword(ctx, id, password, newPassword, "n")
	}
	leaves := func(f *fixture, t *testing.T, leave context.CancelFunc) {
		slots := make(chan struct{}, 1) // the only slot is occupied, so the password check waits
		slots <- struct{}{}
		f.hash.slots, f.hash.wait = slots, time.Minute
		go func() { // the client disconnects when the attempt has been counted
			for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
				var n int
				if err := f.db.Owner.QueryRow(context.Background(), `select count(*) from sign_in_failures`).Scan(&n); err != nil || n > 0 {
					leave()
					return
				}
			}
		}()
	}
	for what, c := range map[string]struct {
		try      operation
		disturb  func(*fixture, *testing.T, context.CancelFunc)
		password string
		failures int
	}{
		"the client leaves while it waits":          {signIn, leaves, password, 0},
		"the client leaves a change while it waits": {change, leaves, password, 0},
		"the hash cannot be read":                   {signIn, hashFails, password, 0},
		"the hash cannot be read for a change":      {change, hashFails, password, 0},
		"the session of a right password cannot be stored": {signIn, func(f *fixture, t *testing.T, _ context.CancelFunc) {
			f.exec(t, `revoke insert on sessions from colophon_app`)
		}, password, 0},
		"the failures before a right password cannot be cleared": {change, func(f *fixture, t *testing.T, _ context.CancelFunc) {
			f.exec(t, `revoke delete on sign_in_failures from colophon_app`)
		}, password, 0},
		"the account cannot be read": {signIn, func(f *fixture, t *testing.T, _ context.CancelFunc) {
			f.exec(t, `revoke select on accounts from colophon_app`)
		}, password, 0},
		"the account changes before each write": {signIn, func(f *fixture, t *testing.T, _ context.CancelFunc) {
			f.hash.check = func(password, hash string) (bool, *argon2id.Params, error) {
				match, params, err := argon2id.CheckHash(password, hash)
				rehash, err2 := argon2id.CreateHash(password, &cheapParams)
				f.exec(t, `update accounts set password_hash = $2 where username_key = $1`, name, rehash)
				return match, params, errors.Join(err, err2)
			}
		}, password, 0},
		"a wrong password cannot be recorded": {signIn, func(f *fixture, t *testing.T, _ context.CancelFunc) {
			f.exec(t, `revoke insert on events from colophon_app`)
		}, "not " + password, 1},
		"a wrong password of a client that leaves": {signIn, func(f *fixture, t *testing.T, leave context.CancelFunc) {
			f.hash.check = func(password, hash string) (bool, *argon2id.Params, error) {
				leave()
				return argon2id.CheckHash(password, hash)
			}
		}, "not " + password, 3}, // the failure is counted once for the pair, once for the network and once for the name
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.mustRegister(t)
			id := f.mustVerify(t, f.mustSignIn(t).AccessToken)
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			c.disturb(f, t, leave)
			if err := c.try(f, ctx, id, c.password); err == nil {
				t.Error("no error")
			}
			if n := f.count(t, `select coalesce(sum(failures), 0) from sign_in_failures`); n != c.failures {
				t.Errorf("%d failures, want %d", n, c.failures)
			}
		})
	}
}

// TestEveryPasswordCheckIsThrottled gives wrong passwords to every operation that
// checks a password. Each operation must be throttled like a sign-in.
//
// security: ASVS 6.3.4
func TestEveryPasswordCheckIsThrottled(t *testing.T) {
	t.Parallel()
	for operation, try := range map[string]func(*fixture, *testing.T, Identity) error{
		"a registration sent again": func(f *fixture, t *testing.T, _ Identity) error {
			_, err := f.Service.RegisterOnce(t.Context(), onceKey, name, "not "+password, "mallory's")
			if errors.Is(err, events.ErrKeyReused) {
				err = nil
			}
			return err
		},
		"a change of the password": func(f *fixture, t *testing.T, id Identity) error {
			err := f.ChangePassword(t.Context(), id, "not "+password, "another "+password, "mallory's")
			if errors.Is(err, ErrPassword) {
				err = nil
			}
			return err
		},
		"an erasure": func(f *fixture, t *testing.T, id Identity) error {
			err := f.Erase(t.Context(), id, "not "+password, "mallory's")
			if errors.Is(err, ErrPassword) {
				err = nil
			}
			return err
		},
	} {
		t.Run(operation, func(t *testing.T) {
			t.Parallel()
			f := newSlowFixture(t)
			account, err := f.RegisterOnce(t.Context(), onceKey, name, password)
			if err != nil {
				t.Fatal(err)
			}
			id := f.mustVerify(t, f.mustSignIn(t).AccessToken)
			hashes := f.countHashes()
			for range productionBackoffs.pair.free {
				if err := try(f, t, id); err != nil {
					t.Fatal(err)
				}
			}
			wantThrottled(t, operation, try(f, t, id), time.Minute)
			wantThrottled(t, "a sign-in", f.signInFrom(t, "mallory's", name, password), time.Minute)
			if n := int(hashes.Load()); n != productionBackoffs.pair.free {
				t.Errorf("%d hashes", n)
			}
			failed := 0
			for _, fact := range f.facts(t, account.ID) {
				if fact == (events.AccountSignInFailed{}) {
					failed++
				}
			}
			if failed != productionBackoffs.pair.free {
				t.Errorf("%d failures recorded, want %d", failed, productionBackoffs.pair.free)
			}
		})
	}
}

func TestUnthrottledServiceCountsNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	f.Service.options.Unthrottled = true
	for range productionBackoffs.pair.free + 5 {
		wantError(t, f.signInFrom(t, "n", name, "not "+password), ErrCredentials)
	}
	if err := f.signInFrom(t, "n", name, password); err != nil {
		t.Error(err)
	}
	if n := f.count(t, `select (select count(*) from sign_in_failures) + (select count(*) from known_networks)`); n != 0 {
		t.Errorf("%d rows", n)
	}
}

func TestOldFailuresAreCollected(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	rows := func() [2]int {
		return [2]int{f.count(t, `select count(*) from sign_in_failures`), f.count(t, `select count(*) from known_networks`)}
	}
	for i := range 3 {
		wantError(t, f.signInFrom(t, fmt.Sprint(i), name, "guess"), ErrCredentials)
	}
	if err := f.signInFrom(t, "home", name, password); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		failures, networks time.Duration // durations added to the age of the rows
		want               [2]int
	}{
		{0, 0, [2]int{7, 1}}, // seven rows of failures: three pairs, three networks, one name
		{failureWindow - time.Minute, knownNetworkTTL - time.Hour, [2]int{7, 1}},
		{time.Minute, time.Hour, [2]int{0, 0}},
	} {
		f.age(t, c.failures)
		f.exec(t, `update known_networks set at = at - $1::interval`, c.networks)
		if err := f.collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := rows(); got != c.want {
			t.Errorf("%v rows, want %v", got, c.want)
		}
	}
}
