// Package vault encrypts each owner's values with the owner's data key of 32 bytes.
// After the data key is destroyed, nothing that the owner wrote can be read.
//
// A data key is wrapped by the master key (AES-256-GCM, with the owner's id as
// associated data) and stored in the table owner_keys. The master key never enters the
// database. Each wrapped row has the id of the master key that wrapped it. Rows of
// earlier versions have no id, and stay readable. Before a process uses a vault, it calls
// [Vault.Prove], which refuses a master key that is not the database's.
//
// A [Vault] caches unwrapped keys for [KeyTTL]. After one process has erased
// an owner, other processes can therefore still read the owner's values for up to
// KeyTTL.
package vault

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"colophon/internal/errcode"
)

const (
	// KeyTTL is the time for which an unwrapped key is cached in memory.
	KeyTTL = 5 * time.Second

	// MasterKeySize is the length of a master key in bytes.
	MasterKeySize = 32

	maxCached = 10_000 // maximum number of cached keys, which take about 1 KB each
)

var (
	// ErrErased occurs when an owner has been erased or never existed.
	ErrErased = errcode.New("owner_erased", "the owner's key is gone")

	// ErrUnreadable occurs when a ciphertext was sealed with another key or other
	// associated data, or has been altered.
	ErrUnreadable = errors.New("the sealed value cannot be opened")
)

// DB is the part of a pool or a transaction that the vault uses.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Vault creates, caches and erases the owners' data keys. It is safe for concurrent
// use.
type Vault struct {
	master cipher.AEAD
	id     []byte // see KeyID
	mac    []byte // the key of Digest, derived from the master key

	mu   sync.Mutex
	keys *simplelru.LRU[uuid.UUID, entry]

	// erased has a tombstone for each owner that was erased less than KeyTTL ago. The
	// value is the time at which the tombstone expires. A caller of Key may have read
	// the owner's row before the erasure. The tombstone stops this caller from caching
	// the key after the erasure.
	erased map[uuid.UUID]time.Time
}

// entry is a cached key. The timer removes the entry when the key expires.
type entry struct {
	key     *Key
	expires time.Time
	timer   *time.Timer
}

// New returns a vault whose data keys are wrapped by master. It returns an error
// unless master has MasterKeySize bytes.
func New(master []byte) (*Vault, error) {
	if len(master) != MasterKeySize {
		return nil, fmt.Errorf("the master key has %d bytes, want %d", len(master), MasterKeySize)
	}
	aead, err := newAEAD(master)
	if err != nil {
		return nil, err
	}
	mac, err := hkdf.Key(sha256.New, master, nil, "colophon digests", sha256.Size)
	if err != nil {
		return nil, err
	}
	id, err := hkdf.Key(sha256.New, master, nil, "colophon master key id", 16)
	if err != nil {
		return nil, err
	}
	keys, err := simplelru.NewLRU(maxCached, func(_ uuid.UUID, e entry) { e.timer.Stop() })
	if err != nil {
		return nil, err
	}
	return &Vault{master: aead, id: id, mac: mac, keys: keys, erased: map[uuid.UUID]time.Time{}}, nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Create stores a new key for the owner. It returns an error if the owner has or had
// a key.
func (v *Vault) Create(ctx context.Context, db DB, owner uuid.UUID) error {
	data := make([]byte, 32)
	_, _ = rand.Read(data) // rand.Read never returns an error
	wrapped := v.master.Seal(nil, nil, data, owner[:])
	if _, err := db.Exec(ctx, `insert into owner_keys (owner, wrapped, master_key_id) values ($1, $2, $3)`, owner, wrapped, v.id); err != nil {
		return fmt.Errorf("create the key of owner %s: %w", owner, err)
	}
	return nil
}

// Key returns the owner's key. It returns ErrErased if the owner has no key, and
// ErrUnreadable if the key was wrapped by another master key.
func (v *Vault) Key(ctx context.Context, db DB, owner uuid.UUID) (*Key, error) {
	expires := time.Now().Add(KeyTTL)
	v.mu.Lock()
	key, err := v.cached(owner)
	v.mu.Unlock()
	if key != nil || err != nil {
		return key, err
	}
	if key, err = v.Reload(ctx, db, owner); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if key, err := v.cached(owner); key != nil || err != nil { // meanwhile another caller has cached or erased the key
		return key, err
	}
	v.remember(owner, key, expires)
	return key, nil
}

// Reload is like Key, but reads the key from the database even if it is in memory.
func (v *Vault) Reload(ctx context.Context, db DB, owner uuid.UUID) (*Key, error) {
	var wrapped, id []byte
	err := db.QueryRow(ctx, `select wrapped, master_key_id from owner_keys where owner = $1`, owner).Scan(&wrapped, &id)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && wrapped == nil:
		return nil, fmt.Errorf("owner %s: %w", owner, ErrErased)
	case err != nil:
		return nil, fmt.Errorf("read the key of owner %s: %w", owner, err)
	}
	data, err := v.unwrap(wrapped, owner[:], id)
	if err != nil {
		return nil, fmt.Errorf("unwrap the key of owner %s: %w", owner, err)
	}
	aead, err := newAEAD(data)
	if err != nil {
		return nil, err
	}
	return &Key{aead}, nil
}

// cached returns the owner's key from memory, or ErrErased if the owner was erased
// lately. It returns nil and nil if the key must be read from the database. The caller
// holds v.mu.
func (v *Vault) cached(owner uuid.UUID) (*Key, error) {
	now := time.Now()
	if now.Before(v.erased[owner]) {
		return nil, fmt.Errorf("owner %s: %w", owner, ErrErased)
	}
	if e, ok := v.keys.Get(owner); ok && now.Before(e.expires) {
		return e.key, nil
	}
	return nil, nil
}

// remember caches a key until it expires. The caller holds v.mu.
func (v *Vault) remember(owner uuid.UUID, key *Key, expires time.Time) {
	v.keys.Remove(owner)
	v.keys.Add(owner, entry{key, expires, time.AfterFunc(time.Until(expires), func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if e, ok := v.keys.Peek(owner); ok && e.key == key {
			v.keys.Remove(owner)
		}
	})})
}

// unwrap opens what a master key has sealed. The parameter id is the id of that master
// key, or nil for a row of an earlier version. The error is ErrUnreadable.
func (v *Vault) unwrap(wrapped, aad, id []byte) ([]byte, error) {
	if id != nil && !bytes.Equal(id, v.id) {
		return nil, fmt.Errorf("sealed with the master key of id %x, and this process has the one of id %x: %w", id, v.id, ErrUnreadable)
	}
	plain, err := v.master.Open(nil, nil, wrapped, aad)
	if err != nil {
		return nil, fmt.Errorf("damaged, or sealed with another master key: %w", ErrUnreadable)
	}
	return plain, nil
}

// CloseOwner stops an owner from starting new work. The owner's key still seals and
// opens values until the key is erased.
func (v *Vault) CloseOwner(ctx context.Context, db DB, owner uuid.UUID) error {
	if _, err := db.Exec(ctx, `update owner_keys set closed_at = now() where owner = $1 and closed_at is null`, owner); err != nil {
		return fmt.Errorf("close owner %s: %w", owner, err)
	}
	return nil
}

// Erase destroys the owner's key. After that, the values that were sealed with the key
// cannot be opened. In this process this holds at once, and in other processes after at
// most KeyTTL. If db is a transaction, the caller must commit the transaction.
func (v *Vault) Erase(ctx context.Context, db DB, owner uuid.UUID) error {
	_, err := db.Exec(ctx, `update owner_keys set wrapped = null, erased_at = now() where owner = $1 and wrapped is not null`, owner)
	if err != nil {
		return fmt.Errorf("erase the key of owner %s: %w", owner, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys.Remove(owner)
	// The tombstone lasts at least as long as any key that was read before the erasure.
	v.erased[owner] = time.Now().Add(KeyTTL)
	time.AfterFunc(KeyTTL, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if !time.Now().Before(v.erased[owner]) { // the owner was not erased again in the meantime
			delete(v.erased, owner)
		}
	})
	return nil
}

// WrapSecret seals a secret of the service, such as a signing key, under the master key.
// The parameter purpose is the associated data. It names the secret and the secret's
// location. The caller stores KeyID beside the result.
func (v *Vault) WrapSecret(secret []byte, purpose string) []byte {
	return v.master.Seal(nil, nil, secret, secretAAD(purpose))
}

// UnwrapSecret reverses WrapSecret, or returns ErrUnreadable. The parameter id is the
// stored KeyID, or nil for a row of an earlier version.
func (v *Vault) UnwrapSecret(wrapped []byte, purpose string, id []byte) ([]byte, error) {
	secret, err := v.unwrap(wrapped, secretAAD(purpose), id)
	if err != nil {
		return nil, fmt.Errorf("unwrap %s: %w", purpose, err)
	}
	return secret, nil
}

func secretAAD(purpose string) []byte { return []byte("service secret: " + purpose) }

// KeyID returns the id of the master key, which is 16 bytes derived from the key. The id
// tells master keys apart and reveals nothing of a key.
func (v *Vault) KeyID() []byte { return v.id }

// Digest returns a 32-byte HMAC of the purpose and the parts. All processes with the
// same master key get the same digest. Without the master key, a digest looks random,
// and nobody can test guesses against it.
func (v *Vault) Digest(purpose string, parts ...string) []byte {
	h := hmac.New(sha256.New, v.mac)
	for _, part := range append([]string{purpose}, parts...) {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		h.Write(size[:])
		h.Write([]byte(part))
	}
	return h.Sum(nil)
}

// Key seals and opens one owner's values with AES-256-GCM and random nonces. It is
// safe for concurrent use.
type Key struct{ aead cipher.AEAD }

// Seal returns the nonce, ciphertext and tag of plain. Open succeeds only with the
// same associated data aad.
func (k *Key) Seal(plain []byte, aad string) []byte {
	return k.aead.Seal(nil, nil, plain, []byte(aad))
}

// Open reverses Seal, or returns ErrUnreadable.
func (k *Key) Open(sealed []byte, aad string) ([]byte, error) {
	plain, err := k.aead.Open(nil, nil, sealed, []byte(aad))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", aad, ErrUnreadable)
	}
	return plain, nil
}
