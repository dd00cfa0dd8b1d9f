// Package vault keeps one data key per owner, so that everything an owner
// wrote can be made unreadable by forgetting 32 bytes.
//
// A data key is wrapped by the master key (AES-256-GCM, the owner's id as
// additional data) and lives in the table owner_keys; the master key never
// enters the database. A [Vault] is safe for concurrent use and remembers
// unwrapped keys for [KeyTTL]: that is how long a process may still read after
// another one has erased an owner.
package vault

import (
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
	// KeyTTL is how long an unwrapped key is kept in memory.
	KeyTTL = 5 * time.Second

	// MasterKeySize is the length of a master key in bytes.
	MasterKeySize = 32

	maxCached = 10_000 // keys; some 1 KB each
)

var (
	// ErrErased occurs when the owner of a key has been erased, or never was.
	ErrErased = errcode.New("owner_erased", "the owner's key is gone")

	// ErrUnreadable occurs when a ciphertext was not made by this key for this
	// purpose, or has been altered.
	ErrUnreadable = errors.New("the sealed value cannot be opened")
)

// DB is what the vault needs of a pool or a transaction.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Vault hands out the owners' keys.
type Vault struct {
	master cipher.AEAD
	mac    []byte // the key of digests, derived from the master key

	mu   sync.Mutex
	keys *simplelru.LRU[uuid.UUID, cached]

	// erased has the tombstones: the owners erased less than KeyTTL ago and when
	// that is over. A key that a reader brings meanwhile may have been read before
	// the erasure.
	erased map[uuid.UUID]time.Time
}

// cached is a key that was read less than KeyTTL ago. Its timer removes it.
type cached struct {
	key     *Key
	expires time.Time
	timer   *time.Timer
}

// New returns a vault whose data keys are wrapped by master, which has MasterKeySize bytes.
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
	keys, err := simplelru.NewLRU(maxCached, func(_ uuid.UUID, c cached) { c.timer.Stop() })
	if err != nil {
		return nil, err
	}
	return &Vault{master: aead, mac: mac, keys: keys, erased: map[uuid.UUID]time.Time{}}, nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Create makes the owner's key. It is an error to create it twice, even after
// it was erased.
func (v *Vault) Create(ctx context.Context, db DB, owner uuid.UUID) error {
	data := make([]byte, 32)
	_, _ = rand.Read(data) // never fails
	wrapped := v.master.Seal(nil, nil, data, owner[:])
	if _, err := db.Exec(ctx, `insert into owner_keys (owner, wrapped) values ($1, $2)`, owner, wrapped); err != nil {
		return fmt.Errorf("create the key of owner %s: %w", owner, err)
	}
	return nil
}

// Key returns the owner's key, or ErrErased.
func (v *Vault) Key(ctx context.Context, db DB, owner uuid.UUID) (*Key, error) {
	expires := time.Now().Add(KeyTTL)
	v.mu.Lock()
	key, err := v.cached(owner)
	v.mu.Unlock()
	if key != nil || err != nil {
		return key, err
	}
	var wrapped []byte
	err = db.QueryRow(ctx, `select wrapped from owner_keys where owner = $1`, owner).Scan(&wrapped)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && wrapped == nil:
		return nil, fmt.Errorf("owner %s: %w", owner, ErrErased)
	case err != nil:
		return nil, fmt.Errorf("read the key of owner %s: %w", owner, err)
	}
	data, err := v.master.Open(nil, nil, wrapped, owner[:])
	if err != nil {
		return nil, fmt.Errorf("unwrap the key of owner %s (was the master key changed?): %w", owner, ErrUnreadable)
	}
	aead, err := newAEAD(data)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if key, err := v.cached(owner); key != nil || err != nil { // read by another caller meanwhile, or erased
		return key, err
	}
	key = &Key{aead}
	v.remember(owner, key, expires)
	return key, nil
}

// cached returns the owner's key, ErrErased, or neither if the database has to be
// read. The caller holds v.mu.
func (v *Vault) cached(owner uuid.UUID) (*Key, error) {
	now := time.Now()
	if now.Before(v.erased[owner]) {
		return nil, fmt.Errorf("owner %s: %w", owner, ErrErased)
	}
	if c, ok := v.keys.Get(owner); ok && now.Before(c.expires) {
		return c.key, nil
	}
	return nil, nil
}

// remember caches a key until it expires. The caller holds v.mu.
func (v *Vault) remember(owner uuid.UUID, key *Key, expires time.Time) {
	v.keys.Remove(owner)
	v.keys.Add(owner, cached{key, expires, time.AfterFunc(time.Until(expires), func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if c, ok := v.keys.Peek(owner); ok && c.key == key {
			v.keys.Remove(owner)
		}
	})})
}

// Close marks an owner who is to begin nothing new. His key goes on to seal and
// open what he has begun, until it is erased.
func (v *Vault) Close(ctx context.Context, db DB, owner uuid.UUID) error {
	if _, err := db.Exec(ctx, `update owner_keys set closed_at = now() where owner = $1 and closed_at is null`, owner); err != nil {
		return fmt.Errorf("close owner %s: %w", owner, err)
	}
	return nil
}

// Erase forgets the owner's key: nothing sealed by it can be opened again,
// in this process at once and in others within KeyTTL. A transaction in which it
// is called has to commit.
func (v *Vault) Erase(ctx context.Context, db DB, owner uuid.UUID) error {
	_, err := db.Exec(ctx, `update owner_keys set wrapped = null, erased_at = now() where owner = $1 and wrapped is not null`, owner)
	if err != nil {
		return fmt.Errorf("erase the key of owner %s: %w", owner, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys.Remove(owner)
	// A key that was read before expires no later than this.
	v.erased[owner] = time.Now().Add(KeyTTL)
	time.AfterFunc(KeyTTL, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if !time.Now().Before(v.erased[owner]) { // not erased again meanwhile
			delete(v.erased, owner)
		}
	})
	return nil
}

// WrapSecret seals a secret of the service itself, such as a signing key, under
// the master key. purpose names what the secret is and where it is kept.
func (v *Vault) WrapSecret(secret []byte, purpose string) []byte {
	return v.master.Seal(nil, nil, secret, []byte("service secret: "+purpose))
}

// UnwrapSecret reverses WrapSecret, or returns ErrUnreadable.
func (v *Vault) UnwrapSecret(wrapped []byte, purpose string) ([]byte, error) {
	secret, err := v.master.Open(nil, nil, wrapped, []byte("service secret: "+purpose))
	if err != nil {
		return nil, fmt.Errorf("unwrap %s (was the master key changed?): %w", purpose, ErrUnreadable)
	}
	return secret, nil
}

// Digest returns 32 bytes that stand for the parts, the same in all processes
// with this master key. Who does not have it can neither tell them from others
// nor try out what they stand for.
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

// Key seals and opens one owner's values with AES-256-GCM under random nonces.
// It is safe for concurrent use.
type Key struct{ aead cipher.AEAD }

// Seal returns nonce, ciphertext and tag of plain, bound to a place: Open
// succeeds only for the same one.
func (k *Key) Seal(plain []byte, place string) []byte {
	return k.aead.Seal(nil, nil, plain, []byte(place))
}

// Open reverses Seal, or returns ErrUnreadable.
func (k *Key) Open(sealed []byte, place string) ([]byte, error) {
	plain, err := k.aead.Open(nil, nil, sealed, []byte(place))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", place, ErrUnreadable)
	}
	return plain, nil
}
