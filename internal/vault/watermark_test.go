package vault_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/uuid"

	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/migrations"
)

// TestWatermarkSecretIsCreatedOnce asks for an owner's secret in several processes at once.
func TestWatermarkSecretIsCreatedOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up).App
	owner, other := uuid.New(), uuid.New()
	for _, o := range []uuid.UUID{owner, other} {
		if err := newVault(t, 1).Create(t.Context(), db, o); err != nil {
			t.Fatal(err)
		}
	}
	if secret, found, err := newVault(t, 1).FindWatermarkSecret(t.Context(), db, owner); found || err != nil || secret != ([32]byte{}) {
		t.Fatalf("before the first need: %v, %v", found, err)
	}
	secrets := make([][32]byte, 12)
	var wg sync.WaitGroup
	for i := range secrets {
		process := newVault(t, 1)
		wg.Go(func() {
			var err error
			if secrets[i], err = process.WatermarkSecret(t.Context(), db, owner); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, secret := range secrets {
		if secret != secrets[0] || secret == ([32]byte{}) {
			t.Fatal("the secrets differ, or are empty")
		}
	}
	if secret, found, err := newVault(t, 1).FindWatermarkSecret(t.Context(), db, owner); !found || err != nil || secret != secrets[0] {
		t.Errorf("found later: %v, %v, equal: %v", found, err, secret == secrets[0])
	}
	if secret, err := newVault(t, 1).WatermarkSecret(t.Context(), db, other); err != nil || secret == secrets[0] {
		t.Errorf("another owner: %v, the same secret: %v", err, secret == secrets[0])
	}
}

// TestErasureDestroysTheWatermarkSecret erases an owner. No process may find the secret or
// create another one.
func TestErasureDestroysTheWatermarkSecret(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	v, owner, never := newVault(t, 1), uuid.New(), uuid.New()
	if err := v.Create(t.Context(), db.App, owner); err != nil {
		t.Fatal(err)
	}
	if _, err := v.WatermarkSecret(t.Context(), db.App, owner); err != nil {
		t.Fatal(err)
	}
	gone := func(owner uuid.UUID) {
		t.Helper()
		var gone bool
		err := db.Owner.QueryRow(t.Context(), `select watermark is null and watermark_master_key_id is null from owner_keys where owner = $1`, owner).Scan(&gone)
		if err != nil || !gone {
			t.Errorf("the secret is gone: %v, %v", gone, err)
		}
	}
	if err := v.Erase(t.Context(), db.App, owner); err != nil {
		t.Fatal(err)
	}
	gone(owner)
	// A process of an earlier build does not know the columns.
	earlier := uuid.New()
	if err := v.Create(t.Context(), db.App, earlier); err != nil {
		t.Fatal(err)
	}
	if _, err := v.WatermarkSecret(t.Context(), db.App, earlier); err != nil {
		t.Fatal(err)
	}
	if _, err := db.App.Exec(t.Context(), `update owner_keys set wrapped = null, erased_at = now() where owner = $1`, earlier); err != nil {
		t.Fatal(err)
	}
	gone(earlier)
	for _, v := range []*vault.Vault{v, newVault(t, 1)} {
		for _, o := range []uuid.UUID{owner, never} {
			if _, _, err := v.FindWatermarkSecret(t.Context(), db.App, o); !errors.Is(err, vault.ErrErased) {
				t.Errorf("find: %v, want ErrErased", err)
			}
			if _, err := v.WatermarkSecret(t.Context(), db.App, o); !errors.Is(err, vault.ErrErased) {
				t.Errorf("create: %v, want ErrErased", err)
			}
		}
	}
	if _, err := db.Owner.Exec(t.Context(), `update owner_keys set watermark = '\x00', watermark_master_key_id = '\x00' where owner = $1`, owner); err == nil {
		t.Error("the database keeps a secret of an erased owner")
	}
}

// TestWatermarkSecretIsBoundToItsOwner moves sealed secrets between rows and columns. None of
// them may open there.
func TestWatermarkSecretIsBoundToItsOwner(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	v := newVault(t, 1)
	owners := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	for _, o := range owners {
		if err := v.Create(t.Context(), db.App, o); err != nil {
			t.Fatal(err)
		}
		if _, err := v.WatermarkSecret(t.Context(), db.App, o); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := newVault(t, 2).FindWatermarkSecret(t.Context(), db.App, owners[0]); !errors.Is(err, vault.ErrUnreadable) {
		t.Errorf("with another master key: %v, want ErrUnreadable", err)
	}
	for i, change := range []string{
		`update owner_keys set watermark = (select watermark from owner_keys where owner = $2) where owner = $1`,
		`update owner_keys set watermark = wrapped where owner = $1 and $2::uuid is not null`,
	} {
		if _, err := db.Owner.Exec(t.Context(), change, owners[i], owners[2]); err != nil {
			t.Fatal(err)
		}
		if _, _, err := v.FindWatermarkSecret(t.Context(), db.App, owners[i]); !errors.Is(err, vault.ErrUnreadable) {
			t.Errorf("%s: %v, want ErrUnreadable", change, err)
		}
	}
	if _, err := db.Owner.Exec(t.Context(), `update owner_keys set wrapped = watermark where owner = $1`, owners[2]); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Reload(t.Context(), db.App, owners[2]); !errors.Is(err, vault.ErrUnreadable) {
		t.Errorf("a watermark secret as the data key: %v, want ErrUnreadable", err)
	}
}

// TestRotationSealsWatermarkSecrets replaces the master key while owners get their secrets.
// An interrupted rotation goes on. Afterwards the new key alone opens all secrets, and they
// have not changed.
func TestRotationSealsWatermarkSecrets(t *testing.T) {
	t.Parallel()
	r := newRotating(t)
	r.fill(newVault(t, 1), 1100)
	process := newVaults(t, 1, 2)
	if err := process.Prove(t.Context(), r.App); err != nil {
		t.Fatal(err)
	}
	secrets := map[uuid.UUID][32]byte{}
	mark := func(owners []uuid.UUID) {
		for _, o := range owners {
			secret, err := process.WatermarkSecret(context.WithoutCancel(t.Context()), r.App, o)
			if err != nil {
				t.Errorf("a secret during the rotation: %v", err)
				return
			}
			secrets[o] = secret
		}
	}
	mark(r.owners[:600])
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	batches := 0
	_, err := newVaults(t, 1, 2).Rotate(ctx, r.Owner, func(int, int) {
		if batches++; batches == 4 { // the first batch of the watermark secrets
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { mark(r.owners[600:]) })
	if _, err := newVaults(t, 1, 2).Rotate(t.Context(), r.Owner, nil); err != nil {
		t.Error(err)
	}
	wg.Wait()
	fresh := newVault(t, 2)
	r.mustOpen(fresh)
	for _, o := range r.owners {
		if secret, found, err := fresh.FindWatermarkSecret(t.Context(), r.App, o); err != nil || !found || secret != secrets[o] {
			t.Fatalf("with the new key: found %v, %v, unchanged: %v", found, err, secret == secrets[o])
		}
	}
	r.exec(`update owner_keys set watermark = '\x00' where owner = $1`, r.owners[0])
	if got, err := newVaults(t, 2, 3).Rotate(t.Context(), r.Owner, nil); !errors.Is(err, vault.ErrUnsealed) || got.Unreadable != 1 {
		t.Errorf("a damaged secret: %+v, %v, want ErrUnsealed", got, err)
	}
}
