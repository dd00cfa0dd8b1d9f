package ledger

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/note"

	"colophon/events/receipt"
	"colophon/internal/vault"
)

// Keys manages the names of the log and the keys that sign its checkpoints.
//
// A name is the origin of checkpoints. A log has a new name only when it cannot continue the
// checkpoints of the old one, because events were lost that a checkpoint contained. Each
// name has keys of its own. The private keys are in the database, sealed by the master key.
type Keys struct {
	pool  *pgxpool.Pool
	vault *vault.Vault
}

// NewKeys returns the keys of the log in a database.
func NewKeys(pool *pgxpool.Pool, v *vault.Vault) *Keys { return &Keys{pool, v} }

var (
	// ErrOrigin occurs when a name cannot be the name of a log.
	ErrOrigin = errors.New("not a name for a log: want a text without spaces and plus signs, such as example.com/log")

	// ErrOriginTaken occurs when the log has or had a name.
	ErrOriginTaken = errors.New("the log has or had this name")

	// ErrOtherOrigin occurs when the log has another name than it should have.
	ErrOtherOrigin = errors.New("the log has another name")
)

// Ensure gives the log a name and a key if it has none. An empty name stands for a random
// one. If the log has another name, Ensure returns [ErrOtherOrigin].
func (k *Keys) Ensure(ctx context.Context, name string) error {
	random := make([]byte, 8)
	_, _ = rand.Read(random) // never fails
	chosen := name
	if name == "" {
		chosen = "colophon/" + hex.EncodeToString(random)
	}
	return k.write(ctx, func(tx pgx.Tx) error {
		var current string
		err := tx.QueryRow(ctx, `select name from log_origins order by n desc limit 1`).Scan(&current)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return k.begin(ctx, tx, chosen, nil)
		case err == nil && name != "" && name != current:
			return fmt.Errorf("%w: %s, not %s; `colophon log begin` gives it a new one", ErrOtherOrigin, current, name)
		}
		return err
	})
}

// Begin gives the log a new name and a new key. The checkpoints of the new name say that it
// continues the checkpoint last, which may be nil. Begin returns the new public key.
func (k *Keys) Begin(ctx context.Context, name string, last *receipt.Checkpoint) (vkey string, err error) {
	err = k.write(ctx, func(tx pgx.Tx) error {
		var taken bool
		if err := tx.QueryRow(ctx, `select exists (select from log_origins where name = $1)`, name).Scan(&taken); err != nil {
			return err
		}
		if taken {
			return fmt.Errorf("%s: %w", name, ErrOriginTaken)
		}
		return k.begin(ctx, tx, name, last)
	})
	if err != nil {
		return "", fmt.Errorf("begin a log: %w", err)
	}
	keys, err := NewLog(k.pool).Keys(ctx)
	if err != nil {
		return "", err
	}
	return keys[0], nil
}

// Rotate adds a key, which signs from now on. The earlier keys sign too, for the given time.
// Rotate returns the new public key and the time at which the earlier ones retire.
func (k *Keys) Rotate(ctx context.Context, overlap time.Duration) (vkey string, retire time.Time, err error) {
	err = k.write(ctx, func(tx pgx.Tx) error {
		var name string
		if err := tx.QueryRow(ctx, `select name from log_origins order by n desc limit 1`).Scan(&name); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `
			with retired as (
				update log_keys set retired_at = clock_timestamp() + $2::interval
				where origin = $1 and (retired_at is null or retired_at > clock_timestamp() + $2::interval))
			select clock_timestamp() + $2::interval`, name, overlap).Scan(&retire)
		if err != nil {
			return err
		}
		vkey, err = k.add(ctx, tx, name)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNoCheckpoint
	}
	if err != nil {
		return "", retire, fmt.Errorf("rotate the log's key: %w", err)
	}
	return vkey, retire.UTC(), nil
}

// write calls fn in a transaction. One such transaction runs at a time.
func (k *Keys) write(ctx context.Context, fn func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, k.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended('colophon log keys', 0))`); err != nil {
			return err
		}
		return fn(tx)
	})
}

func (k *Keys) begin(ctx context.Context, tx pgx.Tx, name string, last *receipt.Checkpoint) error {
	if !receipt.ValidName(name) || len(name) > 200 {
		return ErrOrigin
	}
	var previous *string
	if last != nil {
		text := last.Text()
		previous = &text
	}
	_, err := tx.Exec(ctx, `insert into log_origins (n, name, previous) select coalesce(max(n), 0) + 1, $1, $2 from log_origins`, name, previous)
	if err != nil {
		return err
	}
	_, err = k.add(ctx, tx, name)
	return err
}

// add stores a new key of the name.
func (k *Keys) add(ctx context.Context, tx pgx.Tx, name string) (vkey string, err error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	master, err := k.vault.Sealing(ctx, tx)
	if err != nil {
		return "", err
	}
	_, err = tx.Exec(ctx, `insert into log_keys (public, origin, wrapped, master_key_id) values ($1, $2, $3, $4)`,
		[]byte(public), name, master.Wrap(private.Seed(), purpose(name, public)), master.ID())
	if err != nil {
		return "", err
	}
	return verifierKey(name, public)
}

// purpose returns the purpose of a wrapped key. It binds the key to its row. A rotation of the
// master key has the same text in SQL.
func purpose(name string, public []byte) string {
	return "log key " + hex.EncodeToString(public) + " of " + name
}

func verifierKey(name string, public []byte) (string, error) {
	vkey, err := note.NewEd25519VerifierKey(name, public)
	if err != nil {
		return "", fmt.Errorf("key of the log %s: %w", name, err)
	}
	return vkey, nil
}

// keySet is the name of the log and its keys, the newest first.
type keySet struct {
	name      string
	previous  *receipt.Checkpoint // last checkpoint of the name before; may be nil
	signers   []note.Signer       // without the retired keys
	verifiers receipt.Keys
}

// load reads the name of the log and its keys. It leaves out keys that the master key has not
// sealed. It returns [ErrNoCheckpoint] if there are
// none.
func (k *Keys) load(ctx context.Context) (*keySet, error) {
	rows, _ := k.pool.Query(ctx, `
		select o.name, o.previous, k.public, k.wrapped, k.master_key_id, coalesce(k.retired_at <= clock_timestamp(), false)
		from log_origins as o join log_keys as k on k.origin = o.name
		where o.n = (select max(n) from log_origins) order by k.created_at desc`)
	set := &keySet{}
	var previous *string
	var public, wrapped, id []byte
	var retired bool
	var foreign error // why a row was left out
	_, err := pgx.ForEachRow(rows, []any{&set.name, &previous, &public, &wrapped, &id, &retired}, func() error {
		vkey, err := verifierKey(set.name, public)
		if err != nil {
			return err
		}
		verifier, err := receipt.ParseKey(vkey)
		if err != nil {
			return err
		}
		// A row whose private key was not sealed by the master key may be anybody's.
		seed, err := k.vault.UnwrapSecret(wrapped, purpose(set.name, public), id)
		if err != nil {
			foreign = err
			return nil //nolint:nilerr // the row is left out
		}
		set.verifiers = append(set.verifiers, verifier)
		if retired {
			return nil
		}
		signer, err := note.NewSigner(fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", set.name, verifier.KeyHash(),
			base64.StdEncoding.EncodeToString(append([]byte{1}, seed...))))
		if err != nil {
			return err
		}
		set.signers = append(set.signers, signer)
		return nil
	})
	if err == nil && previous != nil {
		var p receipt.Checkpoint
		p, err = receipt.ParseCheckpoint(*previous)
		set.previous = &p
	}
	if err != nil {
		return nil, fmt.Errorf("read the log's keys: %w", err)
	}
	if len(set.signers) == 0 && foreign != nil {
		return nil, fmt.Errorf("read the log's keys: %w", foreign)
	}
	if len(set.signers) == 0 {
		return nil, ErrNoCheckpoint
	}
	return set, nil
}

// checkpoint returns the checkpoint of a tree under the log's name.
func (k *keySet) checkpoint(t *tree) (receipt.Checkpoint, error) {
	now, err := t.hash()
	if err != nil {
		return receipt.Checkpoint{}, fmt.Errorf("read the tree of the log: %w", err)
	}
	c := receipt.Checkpoint{Origin: k.name, Size: now.N, Root: now.Hash}
	if k.previous != nil {
		c.Continue(*k.previous)
	}
	return c, nil
}

// Public returns all public keys of the log's name, also retired ones.
func (k *Keys) Public(ctx context.Context) (receipt.Keys, error) {
	set, err := k.load(ctx)
	if err != nil {
		return nil, err
	}
	return set.verifiers, nil
}
