package vault

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Master is a master key. It is safe for concurrent use.
type Master struct {
	aead cipher.AEAD
	id   []byte
	mac  []byte // the key of Digest in databases whose first master key this is
}

func newMaster(key []byte) (*Master, error) {
	if len(key) != MasterKeySize {
		return nil, fmt.Errorf("the master key has %d bytes, want %d", len(key), MasterKeySize)
	}
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	id, err := hkdf.Key(sha256.New, key, nil, "colophon master key id", 16)
	if err != nil {
		return nil, err
	}
	mac, err := hkdf.Key(sha256.New, key, nil, "colophon digests", sha256.Size)
	if err != nil {
		return nil, err
	}
	return &Master{aead, id, mac}, nil
}

// ID returns the id of the key, which is 16 bytes derived from the key. The id tells master
// keys apart and reveals nothing of a key.
func (m *Master) ID() []byte { return m.id }

// Wrap seals a secret of the service, such as a signing key. The parameter purpose is the
// associated data. It names the secret and the secret's location. The caller stores the
// key's ID beside the result.
func (m *Master) Wrap(secret []byte, purpose string) []byte {
	return m.seal(secret, secretAAD(purpose))
}

func (m *Master) seal(plain, aad []byte) []byte { return m.aead.Seal(nil, nil, plain, aad) }

func secretAAD(purpose string) []byte { return []byte("service secret: " + purpose) }

// Own returns the vault's own master key. [Vault.Sealing] returns the key to seal with.
func (v *Vault) Own() *Master { return v.masters[0] }

// known returns the vault's master key of an id, or nil.
func (v *Vault) known(id []byte) *Master {
	for _, m := range v.masters {
		if bytes.Equal(m.id, id) {
			return m
		}
	}
	return nil
}

// rotation is a lock. Its shared holders seal rows with the database's master key. Its
// exclusive holder replaces this key.
const rotation = `hashtextextended('colophon master key', 0)`

// Sealing returns the master key that seals now: the one that the database names, or the
// vault's own in a database that names none. If db is a transaction, a rotation waits for
// its end. So the rotation finds the row that the transaction seals.
func (v *Vault) Sealing(ctx context.Context, db DB) (*Master, error) {
	// The lock is taken in a statement of its own, because only a later statement sees what
	// the rotation has committed.
	if _, err := db.Exec(ctx, `select pg_advisory_xact_lock_shared(`+rotation+`)`); err != nil {
		return nil, fmt.Errorf("wait for a rotation of the master key: %w", err)
	}
	var id []byte
	err := db.QueryRow(ctx, `select id from master_key`).Scan(&id)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return v.Own(), nil
	case err != nil:
		return nil, fmt.Errorf("read the id of the master key: %w", err)
	}
	if m := v.known(id); m != nil {
		return m, nil
	}
	return nil, v.wrongKey("the database seals with", id)
}

// UnwrapSecret reverses [Master.Wrap], or returns ErrUnreadable. The parameter id is the
// stored id of the master key, or nil for a row of an earlier version.
func (v *Vault) UnwrapSecret(wrapped []byte, purpose string, id []byte) ([]byte, error) {
	secret, err := v.unwrap(wrapped, secretAAD(purpose), id)
	if err != nil {
		return nil, fmt.Errorf("unwrap %s: %w", purpose, err)
	}
	return secret, nil
}

// unwrap opens what a master key has sealed. The parameter id is the id of that master
// key, or nil for a row of an earlier version. The error is ErrUnreadable.
func (v *Vault) unwrap(wrapped, aad, id []byte) ([]byte, error) {
	_, plain, err := v.openRow(wrapped, aad, id)
	return plain, err
}

// openRow is like unwrap, and returns the master key too.
func (v *Vault) openRow(wrapped, aad, id []byte) (*Master, []byte, error) {
	masters := v.masters
	if id != nil {
		m := v.known(id)
		if m == nil {
			return nil, nil, fmt.Errorf("sealed with the master key of id %x, and this process has %s: %w", id, v.ids(), ErrUnreadable)
		}
		masters = []*Master{m}
	}
	for _, m := range masters {
		if plain, err := m.aead.Open(nil, nil, wrapped, aad); err == nil {
			return m, plain, nil
		}
	}
	return nil, nil, fmt.Errorf("damaged, or sealed with another master key: %w", ErrUnreadable)
}

// ids names the vault's master keys.
func (v *Vault) ids() string {
	if len(v.masters) == 1 {
		return fmt.Sprintf("the one of id %x", v.Own().id)
	}
	return fmt.Sprintf("those of ids %x and %x", v.masters[0].id, v.masters[1].id)
}
