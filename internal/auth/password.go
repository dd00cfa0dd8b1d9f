package auth

import (
	"context"
	"crypto/rand"
	"fmt"
	"runtime"
	"time"

	"github.com/alexedwards/argon2id"
)

// productionParams are the hash parameters of the service: 19 MiB of memory, two passes
// and one lane. OWASP's Password Storage Cheat Sheet lists these parameters as its
// second choice for Argon2id. The first choice needs 46 MiB.
var productionParams = argon2id.Params{Memory: 19 * 1024, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// hashWait is the maximum time for which a caller waits for a free slot of the hasher.
const hashWait = 5 * time.Second

// hasher hashes passwords and limits the number of concurrent hashes.
type hasher struct {
	params argon2id.Params
	wait   time.Duration
	slots  chan struct{} // semaphore that has one element per running hash

	// The next two fields are functions of package argon2id, except in tests.
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

// acquire waits for a slot. The caller must release the slot. After h.wait, acquire
// returns ErrBusy. If ctx ends first, it returns ctx's error.
func (h *hasher) acquire(ctx context.Context) error {
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

func (h *hasher) release() { <-h.slots }

// Hash returns the encoded hash of a password.
func (h *hasher) Hash(ctx context.Context, password string) (string, error) {
	if err := h.acquire(ctx); err != nil {
		return "", err
	}
	defer h.release()
	return h.create(password, &h.params)
}

// Check reports whether a password matches a hash, and whether the hash's parameters
// differ from the parameters of new hashes.
func (h *hasher) Check(ctx context.Context, password, hash string) (match, outdated bool, err error) {
	if err := h.acquire(ctx); err != nil {
		return false, false, err
	}
	defer h.release()
	match, params, err := h.check(password, hash)
	if err != nil {
		return false, false, fmt.Errorf("read the stored password hash: %w", err)
	}
	return match, *params != h.params, nil
}

// outdated reports whether the parameters of a hash differ from the parameters of new
// hashes. It returns true for a text that is not a hash.
func (h *hasher) outdated(hash string) bool {
	params, _, _, err := argon2id.DecodeHash(hash)
	return err != nil || *params != h.params
}

// unguessable returns a random password.
func unguessable() string { return rand.Text() }
