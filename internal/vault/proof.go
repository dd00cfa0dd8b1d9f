package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrMasterKey means that the master key is not the one that sealed the database's rows.
var ErrMasterKey = errors.New("the master key is not the database's")

// SigningKeyPurpose is the first part of the purpose of a wrapped signing key. The second
// part is the id of the signing key.
const SigningKeyPurpose = "signing key "

// samples selects rows of every kind that the master key seals: all signing keys, and the
// data keys at both ends of the table, because a table may have millions.
const samples = `
(select 'data keys', owner, '', wrapped, master_key_id from owner_keys where wrapped is not null order by owner limit 5)
union all
(select 'data keys', owner, '', wrapped, master_key_id from owner_keys where wrapped is not null order by owner desc limit 5)
union all
select 'signing keys', null, kid, wrapped, master_key_id from signing_keys`

// sample is a row that a master key has sealed.
type sample struct {
	Kind    string
	Owner   *uuid.UUID // owner of a data key; nil for a signing key
	KID     string     // id of a signing key; empty for a data key
	Wrapped []byte
	KeyID   []byte // nil for a row of an earlier version
}

func (s sample) aad() []byte {
	if s.Owner != nil {
		return s.Owner[:]
	}
	return secretAAD(SigningKeyPurpose + s.KID)
}

// Prove returns nil if the vault's master key is the one that the database uses, and
// ErrMasterKey if it is not. An empty database has no key yet. It then takes the key of
// the first process that calls Prove.
//
// A key passes if it has the recorded id, and if it has sealed at least one of the
// sampled rows of each kind. So one damaged row does not stop a process.
func (v *Vault) Prove(ctx context.Context, db *pgxpool.Pool) error {
	rows, _ := db.Query(ctx, samples)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sample])
	if err != nil {
		return fmt.Errorf("read what the master key sealed: %w", err)
	}
	sealed, proven := map[string][]byte{}, map[string]bool{}
	for _, s := range all {
		ours := bytes.Equal(s.KeyID, v.id)
		if s.KeyID == nil {
			_, err := v.unwrap(s.Wrapped, s.aad(), nil)
			ours = err == nil
		}
		sealed[s.Kind], proven[s.Kind] = s.KeyID, proven[s.Kind] || ours
	}
	for kind, id := range sealed {
		if !proven[kind] {
			return v.wrongKey(kind+" were sealed with", id)
		}
	}
	if _, err := db.Exec(ctx, `insert into master_key (id) values ($1) on conflict do nothing`, v.id); err != nil {
		return fmt.Errorf("record the id of the master key: %w", err)
	}
	var id []byte
	if err := db.QueryRow(ctx, `select id from master_key`).Scan(&id); err != nil {
		return fmt.Errorf("read the id of the master key: %w", err)
	}
	if !bytes.Equal(id, v.id) {
		return v.wrongKey("the database belongs to", id)
	}
	return nil
}

func (v *Vault) wrongKey(what string, id []byte) error {
	other := "another one"
	if id != nil {
		other = fmt.Sprintf("the one of id %x", id)
	}
	return fmt.Errorf("%w: this process has the one of id %x, and %s %s", ErrMasterKey, v.id, what, other)
}

// IsUnused reports whether no master key has been used with the database yet. The
// database then has neither sealed rows nor events.
func IsUnused(ctx context.Context, db *pgxpool.Pool) (unused bool, err error) {
	err = db.QueryRow(ctx, `select not (exists (select from master_key) or exists (select from owner_keys)
		or exists (select from signing_keys) or exists (select from events))`).Scan(&unused)
	if err != nil {
		err = fmt.Errorf("look for data of another master key: %w", err)
	}
	return unused, err
}
