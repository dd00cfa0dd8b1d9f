// Package vault encrypts each owner's values with the owner's data key of 32 bytes.
// After the data key is destroyed, nothing that the owner wrote can be read.
//
// A data key is wrapped by the master key (AES-256-GCM, with the owner's id as
// associated data) and stored in the table owner_keys. The master key never enters the
// database. An owner may also have a secret that marks the owner's texts. It is wrapped
// alike and destroyed with the data key. Each wrapped row has the id of the master key that
// wrapped it. Rows of earlier versions have no id, and stay readable. Before a process uses
// a vault, it calls [Vault.Prove], which refuses a master key that is not the database's.
//
// A vault may have a second master key. It opens what either key has wrapped, and wraps
// with the one that the database names. So [Vault.Rotate] replaces the master key of a
// database while processes that have both keys use it.
//
// A [Vault] caches unwrapped keys for [KeyTTL]. After one process has erased
// an owner, other processes can therefore still read the owner's values for up to
// KeyTTL.
//
// An owner's data key can be replaced while processes use it ([Vault.Replace]). An owner then
// has two keys: the one that seals, and the earlier one, which only opens. A [Key] opens what
// either has sealed. A key in memory may be older than a value, and a value that was read may
// be older than a key. So a caller that cannot open a value calls [Vault.Forget], reads the key
// again, and then the value. A caller that stores a ciphertext passes it through the database
// function sealed_by with the key's [Key.Number]. The function refuses a key that was replaced
// more than KeyTTL ago.
package vault

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
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
	masters []*Master // the first is the vault's own; the second, if there is one, is another key of the same database
	mac     []byte    // the key of Digest, which Prove sets

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

// New returns a vault with a master key, and perhaps with others that open rows too. It
// returns an error unless each has MasterKeySize bytes.
func New(master []byte, others ...[]byte) (*Vault, error) {
	var masters []*Master
	for _, key := range append([][]byte{master}, others...) {
		m, err := newMaster(key)
		if err != nil {
			return nil, err
		}
		masters = append(masters, m)
	}
	keys, err := simplelru.NewLRU(maxCached, func(_ uuid.UUID, e entry) { e.timer.Stop() })
	if err != nil {
		return nil, err
	}
	return &Vault{masters: masters, mac: masters[0].mac, keys: keys, erased: map[uuid.UUID]time.Time{}}, nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Create stores a new key for the owner. It returns an error if the owner has or had
// a key. During a rotation, db must be a transaction.
func (v *Vault) Create(ctx context.Context, db DB, owner uuid.UUID) error {
	data := make([]byte, 32)
	_, _ = rand.Read(data) // rand.Read never returns an error
	master, err := v.Sealing(ctx, db)
	if err != nil {
		return err
	}
	if _, err := db.Exec(ctx, `insert into owner_keys (owner, wrapped, master_key_id) values ($1, $2, $3)`, owner, master.seal(data, owner[:]), master.id); err != nil {
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
	var row keyRow
	err := row.scan(db.QueryRow(ctx, selectKeys, owner))
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && row.wrapped == nil:
		return nil, fmt.Errorf("owner %s: %w", owner, ErrErased)
	case err != nil:
		return nil, fmt.Errorf("read the key of owner %s: %w", owner, err)
	}
	return v.unwrapKeys(row, owner)
}

// Forget removes the owner's key from memory. The next call of Key reads it from the database.
func (v *Vault) Forget(owner uuid.UUID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys.Remove(owner)
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

// CloseOwner stops an owner from starting new work. The owner's key still seals and
// opens values until the key is erased.
func (v *Vault) CloseOwner(ctx context.Context, db DB, owner uuid.UUID) error {
	if _, err := db.Exec(ctx, `update owner_keys set closed_at = now() where owner = $1 and closed_at is null`, owner); err != nil {
		return fmt.Errorf("close owner %s: %w", owner, err)
	}
	return nil
}

// Erase destroys the owner's key and watermark secret. After that, the values that were
// sealed with the key cannot be opened. In this process this holds at once, and in other
// processes after at most KeyTTL. If db is a transaction, the caller must commit the transaction.
func (v *Vault) Erase(ctx context.Context, db DB, owner uuid.UUID) error {
	_, err := db.Exec(ctx, `update owner_keys set wrapped = null, watermark = null, watermark_master_key_id = null, erased_at = now() where owner = $1 and wrapped is not null`, owner)
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

// Digest returns a 32-byte HMAC of the purpose and the parts. All processes of a database
// get the same digest, also after a rotation of the master key. Without the master key or an
// earlier one, a digest looks random, and nobody can test guesses against it.
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
type Key struct {
	aead    cipher.AEAD
	number  int
	earlier []cipher.AEAD // keys that this one has replaced, and that still open values
}

// Seal returns the nonce, ciphertext and tag of plain. Open succeeds only with the
// same associated data aad.
func (k *Key) Seal(plain []byte, aad string) []byte {
	return k.aead.Seal(nil, nil, plain, []byte(aad))
}

// Open reverses Seal of this key or of one that it has replaced, or returns ErrUnreadable.
func (k *Key) Open(sealed []byte, aad string) ([]byte, error) {
	plain, err := k.aead.Open(nil, nil, sealed, []byte(aad))
	for i := 0; err != nil && i < len(k.earlier); i++ {
		plain, err = k.earlier[i].Open(nil, nil, sealed, []byte(aad))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", aad, ErrUnreadable)
	}
	return plain, nil
}
