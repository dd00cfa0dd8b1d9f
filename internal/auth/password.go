package auth

import (
	"context"
	"crypto/rand"
	"fmt"
	"runtime"
	"time"

	"github.com/alexedwards/argon2id"
)

// productionParams are those that OWASP's Password Storage Cheat Sheet puts
// first for Argon2id after the 46 MiB ones: 19 MiB, two passes, one lane.
var productionParams = argon2id.Params{Memory: 19 * 1024, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// hashWait is how long a password waits for its turn to be hashed.
const hashWait = 5 * time.Second

// hasher hashes passwords, a few at a time.
type hasher struct {
	params argon2id.Params
	wait   time.Duration
	slots  chan struct{} // one element a hash under way

	// The operations of argon2id, replaced only by tests that count them.
	create func(password string, params *argon2id.Params) (string, error)
	check  func(password, hash string) (bool, *argon2id.Params, error)
}

func newHasher(params argon2id.Params) *hasher {
	return &hasher{
		params: params,
		wait:   hashWait,
		slots:  make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		create: argon2id.CreateHash,
		check:  argon2id.CheckHash,
	}
}

// enter waits for a slot, which the caller gives back by leave. It returns
// ErrBusy, or ctx's error.
func (h *hasher) enter(ctx context.Context) error {
	timer := time.NewTimer(h.wait)
	defer timer.Stop()
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return ErrBusy
	}
}

func (h *hasher) leave() { <-h.slots }

// Hash returns the encoded hash of a password.
func (h *hasher) Hash(ctx context.Context, password string) (string, error) {
	if err := h.enter(ctx); err != nil {
		return "", err
	}
	defer h.leave()
	return h.create(password, &h.params)
}

// Check reports whether hash is password's, and whether it was made with other
// parameters than new ones are.
func (h *hasher) Check(ctx context.Context, password, hash string) (match, outdated bool, err error) {
	if err := h.enter(ctx); err != nil {
		return false, false, err
	}
	defer h.leave()
	match, params, err := h.check(password, hash)
	if err != nil {
		return false, false, fmt.Errorf("read the stored password hash: %w", err)
	}
	return match, *params != h.params, nil
}

// outdated reports whether a hash was made with other parameters than new ones are.
func (h *hasher) outdated(hash string) bool {
	params, _, _, err := argon2id.DecodeHash(hash)
	return err != nil || *params != h.params
}

// unguessable returns a password that nobody has.
func unguessable() string { return rand.Text() }
