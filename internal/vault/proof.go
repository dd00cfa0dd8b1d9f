package vault

import (
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
//
// Log keys are left out. A log key that the master key has not sealed is ignored where the
// keys are used.
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

// Prove returns nil if the vault has the master key that the database uses, and
// ErrMasterKey if it has not. While a rotation is unfinished, the vault must have both
// keys. A database without a recorded key takes the one that has sealed its rows, or the
// vault's own if it has no rows. Then the first process to call Prove decides.
//
// A vault passes if it has the key with the recorded id, and if its keys have sealed at
// least one of the sampled rows of each kind. So one damaged row does not stop a process.
//
// Prove must return before other goroutines use the vault.
func (v *Vault) Prove(ctx context.Context, db *pgxpool.Pool) error {
	rows, _ := db.Query(ctx, samples)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sample])
	if err != nil {
		return fmt.Errorf("read what the master key sealed: %w", err)
	}
	claim := v.Own()
	sealed, proven := map[string][]byte{}, map[string]bool{}
	for _, s := range all {
		m := v.known(s.KeyID)
		if s.KeyID == nil {
			m, _, _ = v.openRow(s.Wrapped, s.aad(), nil) // a row that does not open proves nothing
		}
		if m != nil {
			claim = m
		}
		sealed[s.Kind], proven[s.Kind] = s.KeyID, proven[s.Kind] || m != nil
	}
	for kind, id := range sealed {
		if !proven[kind] {
			return v.wrongKey(kind+" were sealed with", id)
		}
	}
	if _, err := db.Exec(ctx, `insert into master_key (id) values ($1) on conflict do nothing`, claim.id); err != nil {
		return fmt.Errorf("record the id of the master key: %w", err)
	}
	var now current
	if err := now.read(ctx, db); err != nil {
		return err
	}
	if v.known(now.id) == nil {
		return v.wrongKey("the database belongs to", now.id)
	}
	if now.previous != nil && v.known(now.previous) == nil {
		return v.wrongKey("a rotation is unfinished (`colophon keys rotate --master` goes on with it), so rows may be sealed with", now.previous)
	}
	mac, err := v.digestKey(now)
	if err == nil {
		v.mac = mac
	}
	return err
}

func (v *Vault) wrongKey(what string, id []byte) error {
	other := "another one"
	if id != nil {
		other = fmt.Sprintf("the one of id %x", id)
	}
	return fmt.Errorf("%w: this process has %s, and %s %s", ErrMasterKey, v.ids(), what, other)
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
