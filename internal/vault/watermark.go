package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// WatermarkSecretSize is the length of an owner's watermark secret in bytes.
const WatermarkSecretSize = 32

// watermarkAAD returns the associated data of an owner's sealed watermark secret. It differs
// from that of the data key, so neither takes the other's place.
func watermarkAAD(owner uuid.UUID) []byte { return []byte("watermark of " + owner.String()) }

// FindWatermarkSecret returns the secret that marks an owner's texts. Found is false if the
// owner has none yet, and then no text of the owner has a mark. FindWatermarkSecret creates
// nothing. It returns ErrErased if the owner was erased or never existed, and ErrUnreadable
// if this process lacks the master key that sealed the secret.
//
// The secret is independent of the owner's data key, and stays the same when data keys
// rotate. It is not cached.
func (v *Vault) FindWatermarkSecret(ctx context.Context, db DB, owner uuid.UUID) (secret [WatermarkSecretSize]byte, found bool, err error) {
	var sealed, id []byte
	var erased bool
	err = db.QueryRow(ctx, `select watermark, watermark_master_key_id, erased_at is not null from owner_keys where owner = $1`, owner).
		Scan(&sealed, &id, &erased)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && erased:
		return secret, false, fmt.Errorf("owner %s: %w", owner, ErrErased)
	case err != nil:
		return secret, false, fmt.Errorf("read the watermark secret of owner %s: %w", owner, err)
	case sealed == nil:
		return secret, false, nil
	}
	plain, err := v.unwrap(sealed, watermarkAAD(owner), id)
	if err == nil && len(plain) != WatermarkSecretSize {
		err = ErrUnreadable
	}
	if err != nil {
		return secret, false, fmt.Errorf("unwrap the watermark secret of owner %s: %w", owner, err)
	}
	return [WatermarkSecretSize]byte(plain), true, nil
}

// WatermarkSecret is like FindWatermarkSecret, but creates the secret if the owner has none.
// Concurrent callers get the same secret, in all processes. The secret is committed when
// WatermarkSecret returns.
func (v *Vault) WatermarkSecret(ctx context.Context, db *pgxpool.Pool, owner uuid.UUID) (secret [WatermarkSecretSize]byte, err error) {
	secret, found, err := v.FindWatermarkSecret(ctx, db, owner)
	if found || err != nil {
		return secret, err
	}
	err = pgx.BeginTxFunc(ctx, db, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		master, err := v.Sealing(ctx, tx)
		if err != nil {
			return err
		}
		fresh := make([]byte, WatermarkSecretSize)
		_, _ = rand.Read(fresh) // rand.Read never returns an error
		// A concurrent caller waits here for the row, and then finds that it has a secret.
		_, err = tx.Exec(ctx, `update owner_keys set watermark = $2, watermark_master_key_id = $3
			where owner = $1 and watermark is null and erased_at is null`, owner, master.seal(fresh, watermarkAAD(owner)), master.id)
		return err
	})
	if err != nil {
		return secret, fmt.Errorf("create the watermark secret of owner %s: %w", owner, err)
	}
	secret, found, err = v.FindWatermarkSecret(ctx, db, owner)
	if err == nil && !found {
		err = fmt.Errorf("the watermark secret of owner %s is missing after its creation", owner)
	}
	return secret, err
}

// sealWatermarks seals the watermark secrets of some owners again, for [Vault.Rotate].
func (v *Vault) sealWatermarks(ctx context.Context, tx pgx.Tx, next *Master, last string) (page, error) {
	rows, _ := tx.Query(ctx, `
		select owner::text, convert_to('watermark of ' || owner::text, 'UTF8'), watermark, watermark_master_key_id from owner_keys
		where watermark is not null and watermark_master_key_id is distinct from $1 and ($2 = '' or owner > nullif($2, '')::uuid)
		order by owner limit $3`, next.id, last, rotateBatch)
	return v.sealPage(ctx, tx, next, rows, func(b *pgx.Batch, row sealedRow, wrapped []byte) *pgx.QueuedQuery {
		return b.Queue(`update owner_keys set watermark_master_key_id = $2, watermark = $4 where owner = $1::text::uuid and watermark = $3`,
			row.Key, next.id, row.Wrapped, wrapped)
	})
}
