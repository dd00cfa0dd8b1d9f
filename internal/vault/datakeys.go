package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// An owner's data key is replaced in these steps. Each is one transaction, so a replacement
// that was killed goes on at the step that it had reached.
//
//  1. Replace makes a new key and keeps the earlier one in the table replaced_keys. From then
//     on, a process that reads the key gets both. It seals with the new one and opens with
//     either. A process that has the earlier key in memory goes on sealing with it for up to
//     KeyTTL. Its values are found in step 4.
//  2. The caller waits until KeyTTL has passed since then.
//  3. StopSealing ends the use of the earlier key. It waits for the transactions that have
//     sealed with it: the database function sealed_by has a lock that they share. A process
//     that was frozen since step 1 and writes now is refused by sealed_by, and reads the key
//     again. So no value is sealed with the earlier key after this step.
//  4. The caller seals every value with the new key, until a pass over
//     all of them seals nothing.
//  5. End destroys the earlier key. It waits for transactions that read values of an older
//     snapshot ([KeepKeys]).
//
// Another reader may have read a value before step 4 and the key after step 5. It reads the value
// again before it takes it for damaged.

// keyRow is what the database has of an owner's keys.
type keyRow struct {
	wrapped []byte // nil after the erasure of the owner
	id      []byte // of the master key
	number  int
	earlier [][]byte // replaced keys, the latest first
	ids     [][]byte // of their master keys; an element is empty for a row of an earlier version
}

const selectKeys = `
select wrapped, master_key_id, key_number,
	array(select r.wrapped from replaced_keys r where r.owner = k.owner order by r.key_number desc),
	array(select coalesce(r.master_key_id, '') from replaced_keys r where r.owner = k.owner order by r.key_number desc)
from owner_keys k where owner = $1`

func (r *keyRow) scan(row pgx.Row) error {
	return row.Scan(&r.wrapped, &r.id, &r.number, &r.earlier, &r.ids)
}

// unwrapKeys returns the key of a row. It opens what any key of the row has sealed.
func (v *Vault) unwrapKeys(row keyRow, owner uuid.UUID) (*Key, error) {
	key, err := v.unwrapKey(row.wrapped, row.id, row.number, owner)
	if err != nil {
		return nil, err
	}
	for i, wrapped := range row.earlier {
		id := row.ids[i]
		if len(id) == 0 {
			id = nil
		}
		earlier, err := v.unwrapKey(wrapped, id, 0, owner)
		if err != nil {
			return nil, err // with one key alone, intact values would look damaged
		}
		key.earlier = append(key.earlier, earlier.aead)
	}
	return key, nil
}

func (v *Vault) unwrapKey(wrapped, id []byte, number int, owner uuid.UUID) (*Key, error) {
	data, err := v.unwrap(wrapped, owner[:], id)
	if err != nil {
		return nil, fmt.Errorf("unwrap the key of owner %s: %w", owner, err)
	}
	aead, err := newAEAD(data)
	if err != nil {
		return nil, err
	}
	return &Key{aead: aead, number: number}, nil
}

// Number returns the number of the owner's key that seals. The database function sealed_by
// expects it. It is 0 for a nil key, which seals nothing.
func (k *Key) Number() int {
	if k == nil {
		return 0
	}
	return k.number
}

// Replacement is a replacement of an owner's data key that has begun.
type Replacement struct {
	Owner   uuid.UUID
	Next    *Key          // seals from now on; opens only what it has sealed
	Earlier *Key          // is replaced; opens only what it has sealed
	Older   *Key          // opens what keys of earlier replacements have sealed, in events of schema 1; nil if there are none
	Age     time.Duration // time since the replacement began, by the database's clock

	vault *Vault
	db    *pgxpool.Pool
}

// Replace begins to replace the owner's data key, or goes on with a replacement that has not
// ended. The login of db must own the tables. The error is ErrErased if the owner has no key,
// and ErrUnreadable if the vault cannot open it.
func (v *Vault) Replace(ctx context.Context, db *pgxpool.Pool, owner uuid.UUID) (*Replacement, error) {
	r := &Replacement{Owner: owner, vault: v, db: db}
	err := pgx.BeginTxFunc(ctx, db, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		master, err := v.Sealing(ctx, tx)
		if err != nil {
			return err
		}
		// The lock of the row makes an erasure and another replacement wait.
		if _, err := tx.Exec(ctx, `select from owner_keys where owner = $1 for update`, owner); err != nil {
			return err
		}
		if _, err := v.Reload(ctx, tx, owner); err != nil {
			return err // the owner was erased, or a key would be lost
		}
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(`+replacement+`)`, owner); err != nil {
			return err
		}
		data := make([]byte, 32)
		_, _ = rand.Read(data) // rand.Read never returns an error
		_, err = tx.Exec(ctx, `
			with begun as (
				insert into replaced_keys (owner, key_number, wrapped, master_key_id)
				select owner, key_number, wrapped, master_key_id from owner_keys where owner = $1
				on conflict (owner) where state <> 'kept' do nothing
				returning owner
			)
			update owner_keys set key_number = key_number + 1, wrapped = $2, master_key_id = $3
			where owner in (select owner from begun)`, owner, master.seal(data, owner[:]), master.id)
		if err != nil {
			return err
		}
		return r.read(ctx, tx)
	})
	if err != nil {
		return nil, fmt.Errorf("replace the key of owner %s: %w", owner, err)
	}
	v.Forget(owner)
	return r, nil
}

// replacement is the advisory lock of an owner that Hold and Replace take.
const replacement = `hashtextextended('replacement ' || $1::uuid, 0)`

// Hold keeps a further replacement of the owner's key from beginning until the transaction
// ends, and returns the number of the owner's key. An erasure does not wait for it.
func (r *Replacement) Hold(ctx context.Context, tx pgx.Tx) (number int, err error) {
	if _, err = tx.Exec(ctx, `select pg_advisory_xact_lock_shared(`+replacement+`)`, r.Owner); err == nil {
		err = tx.QueryRow(ctx, `select key_number from owner_keys where owner = $1`, r.Owner).Scan(&number)
	}
	if err != nil {
		return 0, fmt.Errorf("hold the key of owner %s: %w", r.Owner, err)
	}
	return number, nil
}

// read reads the keys of a replacement that has begun.
func (r *Replacement) read(ctx context.Context, db DB) error {
	var row keyRow
	if err := row.scan(db.QueryRow(ctx, selectKeys, r.Owner)); err != nil {
		return err
	}
	all, err := r.vault.unwrapKeys(row, r.Owner)
	if err != nil {
		return err
	}
	var number int
	err = db.QueryRow(ctx, `
		select key_number, clock_timestamp() - replaced_at from replaced_keys where owner = $1 and state <> 'kept'`, r.Owner).Scan(&number, &r.Age)
	if err != nil {
		return err
	}
	// The latest of the replaced keys is the one that is being replaced.
	r.Next, r.Earlier = &Key{aead: all.aead, number: all.number}, &Key{aead: all.earlier[0], number: number}
	if kept := all.earlier[1:]; len(kept) > 0 {
		r.Older = &Key{aead: kept[0], earlier: kept[1:]}
	}
	return nil
}

// ErrInUse occurs when a transaction that needs a replaced key goes on.
var ErrInUse = errors.New("a transaction needs the replaced key")

// StopSealing ends the use of the earlier key for sealing. When it returns no error, all
// transactions that have sealed with it have ended. It waits for them for 200 ms, because
// other writers of the owner wait behind it. The error is then ErrInUse, and the caller
// tries again.
func (r *Replacement) StopSealing(ctx context.Context) error {
	err := pgx.BeginTxFunc(ctx, r.db, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `set local lock_timeout = '200ms'`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended('data key ' || $1::uuid, 0))`, r.Owner); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `update replaced_keys set state = 'reading' where owner = $1 and key_number = $2 and state = 'sealing'`, r.Owner, r.Earlier.number)
		return err
	})
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "55P03" { // the code means lock_not_available
		err = ErrInUse
	}
	if err != nil {
		return fmt.Errorf("stop sealing with the earlier key of owner %s: %w", r.Owner, err)
	}
	return nil
}

// keeping is a lock. Its shared holders read values of an older snapshot. Its exclusive holder
// destroys a replaced key.
const keeping = `hashtextextended('replaced data keys', 0)`

// KeepKeys keeps replaced keys until the transaction db ends. A transaction of the isolation
// level REPEATABLE READ calls it first. All values of its snapshot can then be opened with the
// keys that are in the database, although a replacement seals them again. An erasure does not
// wait.
func KeepKeys(ctx context.Context, db DB) error {
	if _, err := db.Exec(ctx, `select pg_advisory_xact_lock_shared(`+keeping+`)`); err != nil {
		return fmt.Errorf("keep replaced keys: %w", err)
	}
	return nil
}

// End destroys the earlier key, or keeps it for reading until the owner is erased. It returns
// ErrErased if the owner was erased meanwhile. The error is ErrInUse while a transaction has
// called KeepKeys.
func (r *Replacement) End(ctx context.Context, keep bool) error {
	var erased bool
	err := pgx.BeginTxFunc(ctx, r.db, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		var free bool
		if err := tx.QueryRow(ctx, `select pg_try_advisory_xact_lock(`+keeping+`)`).Scan(&free); err != nil {
			return err
		}
		if !free {
			return ErrInUse
		}
		return tx.QueryRow(ctx, `
			with kept as (
				update replaced_keys set state = 'kept' where $3 and owner = $1 and key_number = $2 and state = 'reading'
			), destroyed as (
				delete from replaced_keys where not $3 and owner = $1 and key_number = $2 and state = 'reading'
			)
			select wrapped is null from owner_keys where owner = $1`, r.Owner, r.Earlier.number, keep).Scan(&erased)
	})
	if err != nil {
		return fmt.Errorf("end the replacement of the key of owner %s: %w", r.Owner, err)
	}
	r.vault.Forget(r.Owner)
	if erased {
		return fmt.Errorf("owner %s: %w", r.Owner, ErrErased)
	}
	return nil
}

// sealReplacedKeys seals the replaced keys of owners with a master key.
func (v *Vault) sealReplacedKeys(ctx context.Context, tx pgx.Tx, next *Master, last string) (page, error) {
	rows, _ := tx.Query(ctx, `
		select owner || '/' || lpad(key_number::text, 10, '0'), uuid_send(owner), wrapped, master_key_id from replaced_keys
		where master_key_id is distinct from $1 and owner || '/' || lpad(key_number::text, 10, '0') > $2
		order by 1 limit $3`, next.id, last, rotateBatch)
	return v.sealPage(ctx, tx, next, rows, func(b *pgx.Batch, row sealedRow, wrapped []byte) *pgx.QueuedQuery {
		return b.Queue(`update replaced_keys set master_key_id = $2, wrapped = $4 where owner = split_part($1, '/', 1)::uuid and key_number = split_part($1, '/', 2)::int and wrapped = $3`,
			row.Key, next.id, row.Wrapped, wrapped)
	})
}
