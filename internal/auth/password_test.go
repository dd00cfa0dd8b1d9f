package auth

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alexedwards/argon2id"
)

// TestNewUsesTheProductionParameters reads the parameters from a stored hash. They must be
// the production parameters.
//
// security: ASVS 11.4.2
func TestNewUsesTheProductionParameters(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s, err := New(t.Context(), f.db.App, f.store, f.vault, testOptions)
	if err != nil {
		t.Fatal(err)
	}
	account, err := s.Register(t.Context(), name, password)
	if err != nil {
		t.Fatal(err)
	}
	var hash string
	if err := f.db.Owner.QueryRow(t.Context(), `select password_hash from accounts where id = $1`, account.ID).Scan(&hash); err != nil {
		t.Fatal(err)
	}
	params, salt, key, err := argon2id.DecodeHash(hash)
	if err != nil || !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") || len(salt) != 16 || len(key) != 32 {
		t.Errorf("%+v, salt of %d bytes, key of %d: %v", params, len(salt), len(key), err)
	}
}

// Hashing must use at most half of the processors, for any number of callers. It must hold
// no database connection.
//
// security: ASVS 15.2.2, API4:2023
func TestHashingIsBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	var running, most atomic.Int32
	f.hash.check = func(password, hash string) (bool, *argon2id.Params, error) {
		n := running.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() { // another call may have raised the maximum
		}
		defer running.Add(-1)
		return argon2id.CheckHash(password, hash)
	}
	limit := max(1, runtime.GOMAXPROCS(0)/2)
	if cap(f.hash.slots) != limit {
		t.Errorf("%d slots, want %d", cap(f.hash.slots), limit)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := f.SignIn(t.Context(), name, password); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if int(most.Load()) > limit {
		t.Errorf("%d concurrent hashes, want at most %d", most.Load(), limit)
	}

	f.hash.check = func(password, hash string) (bool, *argon2id.Params, error) {
		if n := f.db.App.Stat().AcquiredConns(); n != 0 {
			t.Errorf("%d connections held while hashing", n)
		}
		return argon2id.CheckHash(password, hash)
	}
	f.mustSignIn(t)
}

func TestWaitForAHashSlotEnds(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	access := f.mustSignIn(t).AccessToken
	for range cap(f.hash.slots) {
		f.hash.slots <- struct{}{} // occupies all slots
	}
	f.hash.wait = time.Millisecond
	_, err := f.SignIn(t.Context(), name, password)
	wantError(t, err, ErrBusy)
	_, err = f.Register(t.Context(), "leonhard", password)
	wantError(t, err, ErrBusy)

	f.hash.wait = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(5*time.Millisecond, cancel)
	_, err = f.hash.Hash(ctx, password)
	wantError(t, err, context.Canceled)

	f.mustVerify(t, access) // Verify hashes no password, so it needs no slot

	done := make(chan error)
	go func() { _, err := f.SignIn(context.Background(), name, password); done <- err }()
	<-f.hash.slots // the waiting sign-in gets this slot
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func BenchmarkHash(b *testing.B) {
	h := newHasher(productionParams)
	for b.Loop() {
		if _, err := h.Hash(b.Context(), password); err != nil {
			b.Fatal(err)
		}
	}
}
