package vault_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"colophon/internal/vault"
)

// newReplacing returns a database with one owner, and the owner's key.
func newReplacing(t *testing.T) (*rotating, *vault.Vault, uuid.UUID, *vault.Key) {
	t.Helper()
	r := newRotating(t)
	v := newVault(t, 1)
	r.fill(v, 2)
	owner := r.owners[1]
	key, err := v.Key(t.Context(), r.App, owner)
	if err != nil {
		t.Fatal(err)
	}
	return r, v, owner, key
}

// opens reports whether a key opens what another one seals.
func opens(k, sealer *vault.Key) bool {
	_, err := k.Open(sealer.Seal([]byte("text"), "aad"), "aad")
	return err == nil
}

func (r *rotating) reload(v *vault.Vault, owner uuid.UUID) *vault.Key {
	r.t.Helper()
	key, err := v.Reload(r.t.Context(), r.App, owner)
	if err != nil {
		r.t.Fatal(err)
	}
	return key
}

func (r *rotating) replace(v *vault.Vault, owner uuid.UUID) *vault.Replacement {
	r.t.Helper()
	p, err := v.Replace(r.t.Context(), r.Owner, owner)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// sealedBy returns the error of storing something that the key of a number has sealed.
func (r *rotating) sealedBy(owner uuid.UUID, number int) error {
	var sealed []byte
	return r.App.QueryRow(r.t.Context(), `select sealed_by($1, $2, '\x00')`, owner, number).Scan(&sealed)
}

func code(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

// TestDataKeyIsReplaced goes through the steps of a replacement, each by a process of its own.
func TestDataKeyIsReplaced(t *testing.T) {
	t.Parallel()
	r, v, owner, first := newReplacing(t)
	begun := r.replace(v, owner)
	if begun.Age < 0 || begun.Older != nil || opens(begun.Next, first) || !opens(begun.Earlier, first) || begun.Next.Number() != first.Number()+1 {
		t.Errorf("after the beginning: %+v", begun)
	}
	if err := r.sealedBy(owner, first.Number()); err != nil {
		t.Errorf("a process with the earlier key in memory: %v", err)
	}
	p := r.replace(newVault(t, 1), owner) // goes on
	if !opens(p.Next, begun.Next) || !opens(p.Earlier, first) {
		t.Error("a replacement that goes on has other keys")
	}
	if both := r.reload(v, owner); !opens(both, first) || !opens(both, p.Next) || !opens(p.Next, both) {
		t.Error("a process that reads the key does not get both, or does not seal with the new one")
	}
	for range 2 {
		if err := p.StopSealing(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.sealedBy(owner, first.Number()); code(err) != "40001" {
			t.Errorf("sealed with the earlier key: %v", err)
		}
		if err := r.sealedBy(owner, p.Next.Number()); err != nil {
			t.Errorf("sealed with the new key: %v", err)
		}
		p = r.replace(newVault(t, 1), owner)
	}
	for range 2 {
		if err := p.End(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
	if last := r.reload(v, owner); opens(last, first) || !opens(last, p.Next) {
		t.Error("the earlier key is not destroyed, or the new one does not seal")
	}
	if key, err := v.Key(t.Context(), r.App, owner); err != nil || opens(key, first) {
		t.Errorf("the process of the replacement has the earlier key in memory (%v)", err)
	}
	r.mustOpen(newVault(t, 1))
}

// TestKeptKeysAreReplacedNoMore keeps the keys of two replacements.
func TestKeptKeysAreReplacedNoMore(t *testing.T) {
	t.Parallel()
	r, v, owner, first := newReplacing(t)
	var second *vault.Key
	for range 2 {
		p := r.replace(v, owner)
		if err := errors.Join(p.StopSealing(t.Context()), p.End(t.Context(), true)); err != nil {
			t.Fatal(err)
		}
		if second == nil {
			second = p.Next
		} else if p.Older == nil || !opens(p.Older, first) || !opens(p.Earlier, second) {
			t.Error("the second replacement has other keys")
		}
	}
	key := r.reload(v, owner)
	if !opens(key, first) || !opens(key, second) || key.Number() != 3 {
		t.Errorf("key %d does not open what the kept keys have sealed", key.Number())
	}
	if code(r.sealedBy(owner, 1)) != "40001" || code(r.sealedBy(owner, 2)) != "40001" {
		t.Error("kept keys seal")
	}
}

// TestStopSealingWaitsForWriters stops the use of a key with which a transaction has sealed.
func TestStopSealingWaitsForWriters(t *testing.T) {
	t.Parallel()
	r, v, owner, first := newReplacing(t)
	p := r.replace(v, owner)
	err := pgx.BeginFunc(t.Context(), r.App, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), `select sealed_by($1, $2, '\x00')`, owner, first.Number()); err != nil {
			return err
		}
		if err := p.StopSealing(t.Context()); !errors.Is(err, vault.ErrInUse) {
			t.Errorf("during the transaction: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.StopSealing(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestEndWaitsForOlderSnapshots ends a replacement while a transaction reads values of an older
// snapshot.
func TestEndWaitsForOlderSnapshots(t *testing.T) {
	t.Parallel()
	r, v, owner, first := newReplacing(t)
	p := r.replace(v, owner)
	err := pgx.BeginTxFunc(t.Context(), r.App, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := vault.KeepKeys(t.Context(), tx); err != nil {
			return err
		}
		if err := p.StopSealing(t.Context()); err != nil {
			return err
		}
		if err := p.End(t.Context(), false); !errors.Is(err, vault.ErrInUse) || !opens(r.reload(v, owner), first) {
			t.Errorf("during the transaction: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.End(t.Context(), false); err != nil || opens(r.reload(v, owner), first) {
		t.Errorf("after the transaction: %v", err)
	}
}

// TestErasureDestroysReplacedKeys erases an owner at each step of a replacement.
func TestErasureDestroysReplacedKeys(t *testing.T) {
	t.Parallel()
	r := newRotating(t)
	v := newVault(t, 1)
	r.fill(v, 5)
	for i, owner := range r.owners[1:] {
		p := r.replace(v, owner)
		if i > 0 {
			if err := p.StopSealing(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if i > 1 {
			if err := p.End(t.Context(), i == 2); err != nil {
				t.Fatal(err)
			}
		}
		if err := v.Erase(t.Context(), r.App, owner); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Reload(t.Context(), r.App, owner); !errors.Is(err, vault.ErrErased) {
			t.Errorf("the key after an erasure at step %d: %v", i, err)
		}
		if err := p.End(t.Context(), false); !errors.Is(err, vault.ErrErased) {
			t.Errorf("the end after an erasure at step %d: %v", i, err)
		}
		if err := r.sealedBy(owner, p.Next.Number()); code(err) != "CL001" {
			t.Errorf("sealed after an erasure at step %d: %v", i, err)
		}
		if _, err := v.Replace(t.Context(), r.Owner, owner); !errors.Is(err, vault.ErrErased) {
			t.Errorf("replaced after an erasure at step %d: %v", i, err)
		}
	}
	var left int
	if err := r.Owner.QueryRow(t.Context(), `select count(*) from replaced_keys`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d replaced keys are left, %v", left, err)
	}
}

// TestMasterKeyIsReplacedDuringAReplacement replaces the master key while a data key is being
// replaced.
func TestMasterKeyIsReplacedDuringAReplacement(t *testing.T) {
	t.Parallel()
	r, v, owner, first := newReplacing(t)
	p := r.replace(v, owner)
	if got, err := newVaults(t, 1, 2).Rotate(t.Context(), r.Owner, nil); err != nil || got.Rows != len(r.owners)+3 {
		t.Fatalf("%+v, %v", got, err) // the owners' keys, one replaced key, a signing key and a log key
	}
	fresh := newVault(t, 2)
	r.mustOpen(fresh)
	if both := r.reload(fresh, owner); !opens(both, first) || !opens(both, p.Next) {
		t.Error("a key is lost")
	}
	again := r.replace(fresh, owner)
	if err := errors.Join(again.StopSealing(t.Context()), again.End(t.Context(), false)); err != nil {
		t.Fatal(err)
	}
	if last := r.reload(fresh, owner); opens(last, first) || !opens(last, p.Next) {
		t.Error("the replacement did not go on")
	}
}

// TestReplacementNeedsItsRights tries to replace a key as the service, with a wrong master key,
// for an unknown owner, and with a damaged key.
func TestReplacementNeedsItsRights(t *testing.T) {
	t.Parallel()
	r, v, owner, _ := newReplacing(t)
	if _, err := v.Replace(t.Context(), r.App, owner); code(err) != "42501" { // the code means insufficient_privilege
		t.Errorf("as the service: %v", err)
	}
	if _, err := v.Replace(t.Context(), r.Owner, uuid.New()); !errors.Is(err, vault.ErrErased) {
		t.Errorf("an unknown owner: %v", err)
	}
	if _, err := newVault(t, 9).Replace(t.Context(), r.Owner, owner); !errors.Is(err, vault.ErrMasterKey) {
		t.Errorf("a wrong master key: %v", err)
	}
	r.exec(`update owner_keys set wrapped = '\x00' where owner = $1`, owner)
	if _, err := v.Replace(t.Context(), r.Owner, owner); !errors.Is(err, vault.ErrUnreadable) {
		t.Errorf("a damaged key: %v", err)
	}
	var left int
	if err := r.Owner.QueryRow(context.Background(), `select count(*) from replaced_keys`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d replaced keys, %v", left, err)
	}
}
