package vault_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/events/ledger"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/migrations"
)

// newVaults returns a vault with two master keys.
func newVaults(t *testing.T, own, second byte) *vault.Vault {
	t.Helper()
	v, err := vault.New(bytes.Repeat([]byte{own}, vault.MasterKeySize), bytes.Repeat([]byte{second}, vault.MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// rotating is a database whose master key is replaced.
type rotating struct {
	*pgtest.DB
	t      *testing.T
	owners []uuid.UUID
}

func newRotating(t *testing.T) *rotating {
	t.Helper()
	return &rotating{DB: pgtest.New(t, migrations.Up), t: t}
}

func (r *rotating) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.Owner.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatal(err)
	}
}

// fill adds rows of each kind.
func (r *rotating) fill(v *vault.Vault, owners int) {
	r.t.Helper()
	if err := v.Prove(r.t.Context(), r.App); err != nil {
		r.t.Fatal(err)
	}
	for i := range owners {
		owner := uuid.Must(uuid.NewV7())
		if i == 0 {
			owner = uuid.UUID{} // the account of the service's own events
		}
		if err := v.Create(r.t.Context(), r.App, owner); err != nil {
			r.t.Fatal(err)
		}
		r.owners = append(r.owners, owner)
	}
	m := v.Own()
	r.exec(`insert into signing_keys (kid, wrapped, created_at, master_key_id) values ('one', $1, now(), $2)`,
		m.Wrap(bytes.Repeat([]byte{3}, 32), vault.SigningKeyPurpose+"one"), m.ID())
	if _, err := ledger.NewKeys(r.App, v).Begin(r.t.Context(), "log.example", nil); err != nil {
		r.t.Fatal(err)
	}
}

// mustOpen expects that a vault proves itself and opens every row.
func (r *rotating) mustOpen(v *vault.Vault) {
	r.t.Helper()
	if err := v.Prove(r.t.Context(), r.App); err != nil {
		r.t.Fatal(err)
	}
	for _, owner := range r.owners {
		if _, err := v.Reload(r.t.Context(), r.App, owner); err != nil {
			r.t.Error(err)
		}
	}
	var wrapped, id []byte
	if err := r.App.QueryRow(r.t.Context(), `select wrapped, master_key_id from signing_keys`).Scan(&wrapped, &id); err != nil {
		r.t.Fatal(err)
	}
	if _, err := v.UnwrapSecret(wrapped, vault.SigningKeyPurpose+"one", id); err != nil {
		r.t.Error(err)
	}
	if keys, err := ledger.NewKeys(r.App, v).Public(r.t.Context()); err != nil || len(keys) != 1 {
		r.t.Errorf("keys of the log: %v, %v", keys, err)
	}
}

// TestMasterKeyIsReplacedWhileItIsUsed rotates the master key of a database in which owners
// are created by a process that seals with the first key at the start. The rotation ends
// after each of its batches once, and is run again.
func TestMasterKeyIsReplacedWhileItIsUsed(t *testing.T) {
	t.Parallel()
	r := newRotating(t)
	r.fill(newVault(t, 1), 1200)
	process := newVaults(t, 1, 2)
	if err := process.Prove(t.Context(), r.App); err != nil {
		t.Fatal(err)
	}
	digest := process.Digest("erased name", "isaac")
	done, created := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				owner := uuid.Must(uuid.NewV7())
				err := pgx.BeginFunc(context.Background(), r.App, func(tx pgx.Tx) error { return process.Create(context.Background(), tx, owner) })
				if err != nil {
					t.Errorf("an owner during the rotation: %v", err)
					return
				}
				mu.Lock()
				r.owners = append(r.owners, owner)
				mu.Unlock()
				select {
				case created <- struct{}{}:
				default: // nobody waits for it
				}
			}
		})
	}
	operator := newVaults(t, 1, 2)
	if err := operator.Prove(t.Context(), r.App); err != nil {
		t.Fatal(err)
	}
	for batches, interrupted := 1, true; interrupted; batches++ {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		_, err := operator.Rotate(ctx, r.Owner, func(int, int) {
			if n++; n == batches {
				cancel()
			}
		})
		cancel()
		switch interrupted = n == batches; {
		case interrupted && !errors.Is(err, context.Canceled):
			t.Errorf("interrupted after batch %d: %v", batches, err)
		case interrupted:
			if err := newVault(t, 2).Prove(t.Context(), r.App); !errors.Is(err, vault.ErrMasterKey) {
				t.Errorf("the new key alone after batch %d: %v", batches, err)
			}
		case err != nil:
			t.Fatal(err)
		}
	}
	for range 3 { // the process goes on with the new key
		select {
		case <-created:
		case <-time.After(time.Minute):
			t.Fatal("no owner is created after the rotation")
		}
	}
	close(done)
	wg.Wait()

	fresh := newVault(t, 2)
	r.mustOpen(fresh)
	r.mustOpen(newVaults(t, 2, 1))
	if err := newVault(t, 1).Prove(t.Context(), r.App); !errors.Is(err, vault.ErrMasterKey) {
		t.Errorf("the earlier key alone: %v", err)
	}
	if !bytes.Equal(fresh.Digest("erased name", "isaac"), digest) || !bytes.Equal(process.Digest("erased name", "isaac"), digest) {
		t.Error("the digests have changed")
	}
	if again, err := operator.Rotate(t.Context(), r.Owner, nil); err != nil || again.Rows != 0 || !bytes.Equal(again.Key, fresh.Own().ID()) {
		t.Errorf("once more: %+v, %v", again, err)
	}
	if err := fresh.Prove(t.Context(), r.App); err != nil {
		t.Fatal(err)
	}
	// A second rotation keeps the digests too.
	third := newVaults(t, 2, 3)
	if err := third.Prove(t.Context(), r.App); err != nil {
		t.Fatal(err)
	}
	if _, err := third.Rotate(t.Context(), r.Owner, nil); err != nil {
		t.Fatal(err)
	}
	last := newVault(t, 3)
	if r.mustOpen(last); !bytes.Equal(last.Digest("erased name", "isaac"), digest) {
		t.Error("the digests have changed in the second rotation")
	}
}

// TestRotationWaitsForRowsUnderWay seals a row in a transaction that ends after the rotation
// has begun.
func TestRotationWaitsForRowsUnderWay(t *testing.T) {
	t.Parallel()
	r := newRotating(t)
	r.fill(newVault(t, 1), 1)
	both, owner := newVaults(t, 1, 2), uuid.Must(uuid.NewV7())
	tx, err := r.App.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	if err := both.Create(t.Context(), tx, owner); err != nil {
		t.Fatal(err)
	}
	rotated := make(chan error, 1)
	go func() {
		_, err := both.Rotate(t.Context(), r.Owner, nil)
		rotated <- err
	}()
	for waits := false; !waits; {
		select {
		case err := <-rotated:
			t.Fatalf("the rotation does not wait: %v", err)
		default:
		}
		err := r.Owner.QueryRow(t.Context(), `select exists (select from pg_stat_activity
			where datname = current_database() and wait_event_type = 'Lock' and wait_event = 'advisory')`).Scan(&waits)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-rotated; err != nil {
		t.Fatal(err)
	}
	r.owners = append(r.owners, owner)
	r.mustOpen(newVault(t, 2))
}

// TestRotationLeavesWhatItCannotOpen rotates a database with an erased owner, a damaged data
// key and a row of an earlier version.
func TestRotationLeavesWhatItCannotOpen(t *testing.T) {
	t.Parallel()
	r := newRotating(t)
	r.fill(newVault(t, 1), 4)
	r.exec(`update owner_keys set wrapped = null, erased_at = now() where owner = $1`, r.owners[0])
	r.exec(`update owner_keys set wrapped = '\x00' where owner = $1`, r.owners[1])
	r.exec(`update owner_keys set master_key_id = null where owner = $1`, r.owners[2])
	r.owners = r.owners[2:]
	both := newVaults(t, 1, 2)
	for range 2 {
		if got, err := both.Rotate(t.Context(), r.Owner, nil); !errors.Is(err, vault.ErrUnsealed) || got.Unreadable != 1 {
			t.Errorf("%+v, %v, want an unreadable row", got, err)
		}
		if err := newVault(t, 2).Prove(t.Context(), r.App); !errors.Is(err, vault.ErrMasterKey) {
			t.Errorf("the new key alone: %v", err)
		}
	}
	r.mustOpen(newVaults(t, 2, 1))
	r.exec(`update owner_keys set wrapped = null, erased_at = now() where wrapped = '\x00'`)
	if _, err := both.Rotate(t.Context(), r.Owner, nil); err != nil {
		t.Error(err)
	}
	r.mustOpen(newVault(t, 2))
}

// TestConcurrentRotations runs two rotations at once, beside the erasure of each second owner.
func TestConcurrentRotations(t *testing.T) {
	t.Parallel()
	r := newRotating(t)
	r.fill(newVault(t, 1), 1100)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, err := newVaults(t, 1, 2).Rotate(t.Context(), r.Owner, nil); err != nil {
				t.Error(err)
			}
		})
	}
	var kept []uuid.UUID
	for i, owner := range r.owners {
		if i%2 == 0 {
			kept = append(kept, owner)
		}
	}
	eraser := newVaults(t, 1, 2)
	for i := 1; i < len(r.owners); i += 2 {
		if err := eraser.Erase(t.Context(), r.App, r.owners[i]); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	fresh := newVault(t, 2)
	for i := 1; i < len(r.owners); i += 2 {
		if _, err := fresh.Reload(t.Context(), r.App, r.owners[i]); !errors.Is(err, vault.ErrErased) {
			t.Fatalf("an erased owner: %v", err)
		}
	}
	r.owners = kept
	r.mustOpen(fresh)
}

// TestKeysInEitherOrderGiveOneDigest gives processes the two keys in both orders, before,
// during and after a rotation.
func TestKeysInEitherOrderGiveOneDigest(t *testing.T) {
	t.Parallel()
	r := newRotating(t)
	first := newVault(t, 1)
	r.fill(first, 600)
	want := first.Digest("erased name", "isaac")
	mustAgree := func(when string) {
		t.Helper()
		for _, v := range []*vault.Vault{newVaults(t, 1, 2), newVaults(t, 2, 1)} {
			if err := v.Prove(t.Context(), r.App); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			if !bytes.Equal(v.Digest("erased name", "isaac"), want) {
				t.Errorf("%s: another digest", when)
			}
		}
	}
	mustAgree("before the rotation")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := newVaults(t, 1, 2).Rotate(ctx, r.Owner, func(int, int) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	mustAgree("during the rotation")
	// The rotation goes on in its direction, whatever the order of the keys.
	if got, err := newVaults(t, 2, 1).Rotate(t.Context(), r.Owner, nil); err != nil || !bytes.Equal(got.Key, newVault(t, 2).Own().ID()) {
		t.Fatalf("%+v, %v", got, err)
	}
	mustAgree("after the rotation")
	if _, err := newVaults(t, 2, 1).Rotate(t.Context(), r.Owner, nil); !errors.Is(err, vault.ErrRetired) {
		t.Errorf("back to the replaced key: %v", err)
	}
	r.mustOpen(newVault(t, 2))
}

// A database of an early release, or one that was restored in part, may lack the id of its key.
func TestDatabaseWithoutAnIDTakesTheKeyOfItsRows(t *testing.T) {
	t.Parallel()
	r := newRotating(t)
	r.fill(newVault(t, 1), 3)
	r.exec(`delete from master_key`)
	if err := newVaults(t, 2, 1).Prove(t.Context(), r.App); err != nil {
		t.Fatal(err)
	}
	r.mustOpen(newVault(t, 1))
}

// TestServiceCannotReplaceKeys tries what only the owner of the database may do.
func TestServiceCannotReplaceKeys(t *testing.T) {
	t.Parallel()
	r := newRotating(t)
	r.fill(newVault(t, 1), 1)
	if _, err := newVaults(t, 1, 2).Rotate(t.Context(), r.App, nil); err == nil {
		t.Error("the service has replaced the master key")
	}
	r.mustOpen(newVault(t, 1))
}

func TestRotationNeedsTheDatabasesKeyAndAnother(t *testing.T) {
	t.Parallel()
	r := newRotating(t)
	r.fill(newVault(t, 1), 1)
	for name, c := range map[string]struct {
		v    *vault.Vault
		want error
	}{
		"one key":           {newVault(t, 1), vault.ErrOneKey},
		"one key twice":     {newVaults(t, 1, 1), vault.ErrOneKey},
		"two strange keys":  {newVaults(t, 2, 3), vault.ErrMasterKey},
		"the key is second": {newVaults(t, 2, 1), nil}, // it is the database's already
	} {
		if got, err := c.v.Rotate(t.Context(), r.Owner, nil); !errors.Is(err, c.want) || got.Rows != 0 {
			t.Errorf("%s: %+v, %v, want %v", name, got, err, c.want)
		}
	}
	r.mustOpen(newVault(t, 1))
}
