package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	digestPurpose = "digest key" // purpose of the wrapped key of Digest

	rotateBatch = 500 // rows sealed anew in one transaction
)

// current is the row of the table master_key.
type current struct {
	id       []byte   // id of the key that seals
	previous []byte   // id of the key that sealed before, while rows may still be sealed with it
	retired  [][]byte // ids of the keys that were replaced
	digest   []byte   // the key of Digest, sealed with the key that seals; nil before the first rotation
}

func (c *current) read(ctx context.Context, db DB) error {
	if err := db.QueryRow(ctx, `select id, previous, retired, digest from master_key`).Scan(&c.id, &c.previous, &c.retired, &c.digest); err != nil {
		return fmt.Errorf("read the id of the master key: %w", err)
	}
	return nil
}

// digestKey returns the key of Digest. It is derived from the first master key of the
// database, and the first rotation stores it. The vault must have the key that seals.
func (v *Vault) digestKey(now current) ([]byte, error) {
	if now.digest == nil {
		return v.known(now.id).mac, nil
	}
	return v.UnwrapSecret(now.digest, digestPurpose, now.id)
}

var (
	// ErrOneKey occurs when a vault without a second master key is asked to rotate.
	ErrOneKey = errors.New("a rotation needs a second master key, which takes the place of the first")

	// ErrRetired occurs when the second master key was the database's before, and was
	// replaced.
	ErrRetired = errors.New("the second master key was replaced earlier, and does not come back: if the keys are the wrong way round, swap them")

	// ErrUnsealed occurs when rows are left that only an earlier key may open.
	ErrUnsealed = errors.New("rows are left that the new master key has not sealed")
)

// Rotated is the result of a rotation.
type Rotated struct {
	Key        []byte // id of the key that seals from now on
	Rows       int    // number of rows that were sealed again
	Unreadable int    // number of rows that neither key opens
}

// Rotate makes the vault's second master key the database's, and seals everything with it
// that the first key has sealed: data keys, watermark secrets, keys that sign access tokens,
// and keys that sign the log. The other processes must have both keys. They go on meanwhile.
// The login of db must own the tables.
//
// Rotate may be interrupted at any point. Called again with the same two keys, it goes on.
// When it returns no error, the second key has sealed all rows. Until then, every process
// needs both keys. So it is if rows are unreadable: they are left as they are, and the error
// is ErrUnsealed.
//
// The function progress may be nil. It gets the number of rows so far, and of all that were
// left at the start.
func (v *Vault) Rotate(ctx context.Context, db *pgxpool.Pool, progress func(rows, total int)) (r Rotated, err error) {
	if len(v.masters) != 2 || bytes.Equal(v.masters[0].id, v.masters[1].id) {
		return r, ErrOneKey
	}
	next, err := v.replace(ctx, db)
	if err != nil {
		return r, fmt.Errorf("replace the master key: %w", err)
	}
	r.Key = next.id
	total, err := unsealed(ctx, db, next)
	if err != nil {
		return r, err
	}
	// Replaced keys come after data keys, because a data key may become a replaced key meanwhile.
	for _, seal := range []func(context.Context, pgx.Tx, *Master, string) (page, error){v.sealDataKeys, v.sealWatermarks, v.sealReplacedKeys, v.sealSigningKeys, v.sealLogKeys} {
		for last, more := "", true; more; {
			p, err := v.sealBatch(ctx, db, next, func(tx pgx.Tx) (page, error) { return seal(ctx, tx, next, last) })
			if err != nil {
				return r, fmt.Errorf("seal keys with the new master key: %w", err)
			}
			r.Rows, r.Unreadable = r.Rows+p.sealed, r.Unreadable+p.unreadable
			if last, more = p.last, p.rows == rotateBatch; progress != nil {
				progress(r.Rows, max(total, r.Rows))
			}
		}
	}
	if err := v.end(ctx, db, next); err != nil {
		return r, fmt.Errorf("end the rotation of the master key: %w", err)
	}
	return r, nil
}

// replace makes the database name the vault's second key. If a rotation between the two keys
// is unfinished, in whichever direction, the database goes on naming the key that it names.
// replace returns this key.
func (v *Vault) replace(ctx context.Context, db *pgxpool.Pool) (next *Master, err error) {
	err = v.locked(ctx, db, func(tx pgx.Tx, now current) error {
		for _, id := range [][]byte{now.id, now.previous} {
			if id != nil && v.known(id) == nil {
				return v.wrongKey("the database has rows of", id)
			}
		}
		if next = v.masters[1]; now.previous != nil {
			next = v.known(now.id)
		}
		if bytes.Equal(now.id, next.id) {
			return nil
		}
		if slices.ContainsFunc(now.retired, func(id []byte) bool { return bytes.Equal(id, next.id) }) {
			return ErrRetired
		}
		digest, err := v.digestKey(now)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `update master_key set id = $1, previous = id, retired = retired || id, digest = $2`, next.id, next.Wrap(digest, digestPurpose))
		return err
	})
	return next, err
}

// end ends a rotation to a key, if the key has sealed all rows.
func (v *Vault) end(ctx context.Context, db *pgxpool.Pool, next *Master) error {
	return v.locked(ctx, db, func(tx pgx.Tx, now current) error {
		if !bytes.Equal(now.id, next.id) {
			return v.wrongKey("another rotation has begun, to", now.id)
		}
		left, err := unsealed(ctx, tx, next)
		if err == nil && left > 0 {
			err = fmt.Errorf("%w: %d", ErrUnsealed, left)
		}
		if err == nil {
			_, err = tx.Exec(ctx, `update master_key set previous = null`)
		}
		return err
	})
}

// unsealed returns the number of rows that a master key has not sealed.
func unsealed(ctx context.Context, db DB, next *Master) (left int, err error) {
	err = db.QueryRow(ctx, `
		select (select count(*) from owner_keys where wrapped is not null and master_key_id is distinct from $1)
			+ (select count(*) from replaced_keys where master_key_id is distinct from $1)
			+ (select count(*) from owner_keys where watermark is not null and watermark_master_key_id is distinct from $1)
			+ (select count(*) from signing_keys where master_key_id is distinct from $1)
			+ (select count(*) from log_keys where master_key_id is distinct from $1)`, next.id).Scan(&left)
	if err != nil {
		err = fmt.Errorf("count the rows of the earlier master key: %w", err)
	}
	return left, err
}

// locked calls fn in a transaction while nobody seals rows or rotates.
func (v *Vault) locked(ctx context.Context, db *pgxpool.Pool, fn func(tx pgx.Tx, now current) error) error {
	return pgx.BeginTxFunc(ctx, db, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(`+rotation+`)`); err != nil {
			return err
		}
		var now current
		if err := now.read(ctx, tx); err != nil {
			return err
		}
		return fn(tx, now)
	})
}

// sealBatch calls fn in a transaction. It returns an error if another key seals by now.
func (v *Vault) sealBatch(ctx context.Context, db *pgxpool.Pool, next *Master, fn func(pgx.Tx) (page, error)) (p page, err error) {
	err = pgx.BeginTxFunc(ctx, db, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		master, err := v.Sealing(ctx, tx)
		if err != nil {
			return err
		}
		if master != next {
			return v.wrongKey("another rotation has begun, to", master.id)
		}
		p, err = fn(tx)
		return err
	})
	return p, err
}

// page is the result of sealing some rows of a table again.
type page struct {
	rows, sealed, unreadable int
	last                     string // the last of these rows
}

// sealedRow is a row that a master key has sealed.
type sealedRow struct {
	Key     string // identifies the row in its table
	AAD     []byte
	Wrapped []byte
	KeyID   []byte // nil for a row of an earlier version
}

// sealPage seals the selected rows with a master key. The function update queues the statement
// that replaces the ciphertext of a row. The statement leaves a row that has changed since it
// was read: the row was erased, or another rotation has sealed it.
func (v *Vault) sealPage(ctx context.Context, tx pgx.Tx, next *Master, rows pgx.Rows, update func(b *pgx.Batch, row sealedRow, wrapped []byte) *pgx.QueuedQuery) (p page, err error) {
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sealedRow])
	if err != nil {
		return p, err
	}
	var batch pgx.Batch
	for _, row := range all {
		p.rows, p.last = p.rows+1, row.Key
		plain, err := v.unwrap(row.Wrapped, row.AAD, row.KeyID)
		if err != nil {
			p.unreadable++
			continue
		}
		update(&batch, row, next.seal(plain, row.AAD)).Exec(func(tag pgconn.CommandTag) error {
			p.sealed += int(tag.RowsAffected())
			return nil
		})
	}
	return p, tx.SendBatch(ctx, &batch).Close()
}

func (v *Vault) sealDataKeys(ctx context.Context, tx pgx.Tx, next *Master, last string) (page, error) {
	rows, _ := tx.Query(ctx, `
		select owner::text, uuid_send(owner), wrapped, master_key_id from owner_keys
		where wrapped is not null and master_key_id is distinct from $1 and ($2 = '' or owner > nullif($2, '')::uuid)
		order by owner limit $3`, next.id, last, rotateBatch)
	return v.sealPage(ctx, tx, next, rows, func(b *pgx.Batch, row sealedRow, wrapped []byte) *pgx.QueuedQuery {
		return b.Queue(`update owner_keys set master_key_id = $2, wrapped = $4 where owner = $1::text::uuid and wrapped = $3`,
			row.Key, next.id, row.Wrapped, wrapped)
	})
}

func (v *Vault) sealSigningKeys(ctx context.Context, tx pgx.Tx, next *Master, last string) (page, error) {
	// A rotation of these keys locks the rows in another order.
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended('signing_keys', 0))`); err != nil {
		return page{}, err
	}
	rows, _ := tx.Query(ctx, `
		select kid, convert_to('service secret: signing key ' || kid, 'UTF8'), wrapped, master_key_id from signing_keys
		where master_key_id is distinct from $1 and kid > $2
		order by kid limit $3`, next.id, last, rotateBatch)
	return v.sealPage(ctx, tx, next, rows, func(b *pgx.Batch, row sealedRow, wrapped []byte) *pgx.QueuedQuery {
		return b.Queue(`update signing_keys set master_key_id = $2, wrapped = $4 where kid = $1 and wrapped = $3`,
			row.Key, next.id, row.Wrapped, wrapped)
	})
}

func (v *Vault) sealLogKeys(ctx context.Context, tx pgx.Tx, next *Master, last string) (page, error) {
	rows, _ := tx.Query(ctx, `
		select encode(public, 'hex'), convert_to('service secret: log key ' || encode(public, 'hex') || ' of ' || origin, 'UTF8'), wrapped, master_key_id
		from log_keys
		where master_key_id is distinct from $1 and encode(public, 'hex') > $2
		order by encode(public, 'hex') limit $3`, next.id, last, rotateBatch)
	return v.sealPage(ctx, tx, next, rows, func(b *pgx.Batch, row sealedRow, wrapped []byte) *pgx.QueuedQuery {
		return b.Queue(`update log_keys set master_key_id = $2, wrapped = $4 where public = decode($1, 'hex') and wrapped = $3`,
			row.Key, next.id, row.Wrapped, wrapped)
	})
}
