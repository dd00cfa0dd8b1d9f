package vault_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/google/uuid"

	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/migrations"
)

// TestMasterKeyIsProven puts rows of both kinds, of this version and of earlier ones,
// into a database. Only the key that sealed the rows may pass. After it has passed, no
// other key may pass.
func TestMasterKeyIsProven(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	right, wrong := newVault(t, 1), newVault(t, 2)
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := db.Owner.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	dataKey := func(v *vault.Vault) {
		t.Helper()
		if err := v.Create(t.Context(), db.App, uuid.New()); err != nil {
			t.Fatal(err)
		}
	}
	signingKey := func(v *vault.Vault, kid string) {
		exec(`insert into signing_keys (kid, wrapped, created_at, retired_at, master_key_id) values ($1, $2, now(), now(), $3)`,
			kid, v.Own().Wrap(bytes.Repeat([]byte{3}, 32), vault.SigningKeyPurpose+kid), v.Own().ID())
	}
	const older = `update owner_keys set master_key_id = null; update signing_keys set master_key_id = null`
	for name, fill := range map[string]func(){
		"an empty database":      func() {},
		"data keys":              func() { dataKey(right) },
		"older data keys":        func() { dataKey(right); exec(older) },
		"signing keys":           func() { signingKey(right, "one") },
		"older signing keys":     func() { signingKey(right, "one"); exec(older) },
		"both":                   func() { dataKey(right); signingKey(right, "one") },
		"both older":             func() { dataKey(right); signingKey(right, "one"); exec(older) },
		"a damaged data key":     func() { dataKey(right); exec(`update owner_keys set wrapped = '\x00'`); dataKey(right); exec(older) },
		"an erased data key":     func() { exec(`insert into owner_keys (owner, erased_at) values (gen_random_uuid(), now())`) },
		"a damaged one with its": func() { dataKey(right); exec(`update owner_keys set wrapped = '\x00'`) },
	} {
		exec(`truncate owner_keys, signing_keys, master_key`)
		fill()
		if name != "an empty database" && name != "an erased data key" {
			if err := wrong.Prove(t.Context(), db.App); !errors.Is(err, vault.ErrMasterKey) {
				t.Errorf("%s: a wrong key: %v", name, err)
			}
			if unused, err := vault.IsUnused(t.Context(), db.App); unused || err != nil {
				t.Errorf("%s: unused %v, %v", name, unused, err)
			}
		}
		for range 2 {
			if err := right.Prove(t.Context(), db.App); err != nil {
				t.Errorf("%s: the right key: %v", name, err)
			}
		}
		exec(`truncate owner_keys, signing_keys`)
		if err := wrong.Prove(t.Context(), db.App); !errors.Is(err, vault.ErrMasterKey) {
			t.Errorf("%s: another key in a database that has one: %v", name, err)
		}
	}
	// If different keys sealed the rows of the two kinds, neither key may pass.
	exec(`truncate owner_keys, signing_keys, master_key`)
	dataKey(right)
	signingKey(wrong, "one")
	exec(older)
	for _, v := range []*vault.Vault{right, wrong} {
		if err := v.Prove(t.Context(), db.App); !errors.Is(err, vault.ErrMasterKey) {
			t.Errorf("two master keys in one database: %v", err)
		}
	}
}

// TestOneKeyClaimsAnEmptyDatabase calls Prove with different keys at the same time.
// Exactly one key must become the database's key.
func TestOneKeyClaimsAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	if unused, err := vault.IsUnused(t.Context(), db.App); !unused || err != nil {
		t.Fatalf("an empty database: unused %v, %v", unused, err)
	}
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = newVault(t, byte(i)).Prove(t.Context(), db.App) })
	}
	wg.Wait()
	passed := 0
	for _, err := range errs {
		if err == nil {
			passed++
		} else if !errors.Is(err, vault.ErrMasterKey) {
			t.Error(err)
		}
	}
	if passed != 1 {
		t.Errorf("%d keys passed", passed)
	}
}

// Rows that earlier versions wrote have no key id.
func TestRowsWithoutAKeyIDStayReadable(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	v, owner := newVault(t, 1), uuid.New()
	if err := v.Create(t.Context(), db.App, owner); err != nil {
		t.Fatal(err)
	}
	var id []byte
	err := db.Owner.QueryRow(t.Context(), `select master_key_id from owner_keys`).Scan(&id)
	if err != nil || !bytes.Equal(id, v.Own().ID()) || len(id) != 16 || bytes.Equal(id, newVault(t, 2).Own().ID()) {
		t.Errorf("id %x, %v", id, err)
	}
	if _, err := db.Owner.Exec(t.Context(), `update owner_keys set master_key_id = null`); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Key(t.Context(), db.App, owner); err != nil {
		t.Error(err)
	}
	if secret, err := v.UnwrapSecret(v.Own().Wrap([]byte("secret"), "p"), "p", nil); err != nil || string(secret) != "secret" {
		t.Errorf("%q, %v", secret, err)
	}
	if _, err := v.UnwrapSecret(v.Own().Wrap([]byte("secret"), "p"), "p", newVault(t, 2).Own().ID()); !errors.Is(err, vault.ErrUnreadable) {
		t.Errorf("a row of another master key: %v", err)
	}
}
