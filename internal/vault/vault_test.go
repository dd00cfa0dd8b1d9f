package vault_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/uuid"

	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/migrations"
)

func newVault(t *testing.T, fill byte) *vault.Vault {
	t.Helper()
	v, err := vault.New(bytes.Repeat([]byte{fill}, vault.MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestSealedValuesOpenOnlyWithTheirAssociatedData encrypts a value for one owner.
// Decryption must fail for other associated data, another owner's key and damaged bytes.
//
// security: ASVS 11.3.1, ASVS 11.3.2, ASVS 11.3.3
func TestSealedValuesOpenOnlyWithTheirAssociatedData(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up).App
	v, one, other := newVault(t, 1), uuid.New(), uuid.New()
	for _, owner := range []uuid.UUID{one, other} {
		if err := v.Create(t.Context(), db, owner); err != nil {
			t.Fatal(err)
		}
	}
	key, err := v.Key(t.Context(), db, one)
	if err != nil {
		t.Fatal(err)
	}
	sealed := key.Seal([]byte("secret"), "here")
	if bytes.Contains(sealed, []byte("secret")) {
		t.Fatal("the ciphertext contains the plain text")
	}
	if bytes.Equal(sealed, key.Seal([]byte("secret"), "here")) {
		t.Error("sealing a value twice gives the same ciphertext")
	}
	// A second vault with the same master key stands for another process. It must also
	// open the sealed value.
	again, err := newVault(t, 1).Key(t.Context(), db, one)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := again.Open(sealed, "here"); err != nil || string(plain) != "secret" {
		t.Fatalf("%q, %v", plain, err)
	}
	otherKey, err := v.Key(t.Context(), db, other)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(sealed)
	damaged[len(damaged)/2] ^= 1
	for name, open := range map[string]func() ([]byte, error){
		"another aad":   func() ([]byte, error) { return key.Open(sealed, "there") },
		"another owner": func() ([]byte, error) { return otherKey.Open(sealed, "here") },
		"a flipped bit": func() ([]byte, error) { return key.Open(damaged, "here") },
		"only 10 bytes": func() ([]byte, error) { return key.Open(sealed[:10], "here") },
		"no bytes":      func() ([]byte, error) { return key.Open(nil, "here") },
		"no last byte":  func() ([]byte, error) { return key.Open(sealed[:len(sealed)-1], "here") },
	} {
		if plain, err := open(); !errors.Is(err, vault.ErrUnreadable) {
			t.Errorf("%s: %q, %v; want ErrUnreadable", name, plain, err)
		}
	}
	if _, err := newVault(t, 2).Key(t.Context(), db, one); !errors.Is(err, vault.ErrUnreadable) {
		t.Errorf("with another master key: %v, want ErrUnreadable", err)
	}
}

func TestErasedKeysStayErased(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up).App
	v, owner := newVault(t, 1), uuid.New()
	if _, err := v.Key(t.Context(), db, owner); !errors.Is(err, vault.ErrErased) {
		t.Fatalf("unknown owner: %v, want ErrErased", err)
	}
	if err := v.Create(t.Context(), db, owner); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Key(t.Context(), db, owner); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := v.Erase(t.Context(), db, owner); err != nil {
			t.Fatal(err)
		}
		for _, v := range []*vault.Vault{v, newVault(t, 1)} {
			if _, err := v.Key(t.Context(), db, owner); !errors.Is(err, vault.ErrErased) {
				t.Fatalf("after erasure: %v, want ErrErased", err)
			}
		}
	}
	if err := v.Create(t.Context(), db, owner); err == nil {
		t.Error("an erased owner got a new key")
	}
}

func TestServiceSecretsAreBoundToTheirPurpose(t *testing.T) {
	t.Parallel()
	v := newVault(t, 1)
	wrapped := v.Own().Wrap([]byte("secret"), "signing key 1")
	if plain, err := v.UnwrapSecret(wrapped, "signing key 1", v.Own().ID()); err != nil || string(plain) != "secret" {
		t.Fatalf("%q, %v", plain, err)
	}
	if _, err := v.UnwrapSecret(wrapped, "signing key 2", v.Own().ID()); !errors.Is(err, vault.ErrUnreadable) {
		t.Errorf("for another purpose: %v, want ErrUnreadable", err)
	}
	if _, err := newVault(t, 2).UnwrapSecret(wrapped, "signing key 1", nil); !errors.Is(err, vault.ErrUnreadable) {
		t.Errorf("with another master key: %v, want ErrUnreadable", err)
	}
}

func TestMasterKeyOfAnotherLengthIsRefused(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := vault.New(make([]byte, n)); err == nil {
			t.Errorf("%d bytes make a vault", n)
		}
	}
}

func TestDigestsDifferByPurposePartsAndMasterKey(t *testing.T) {
	t.Parallel()
	v := newVault(t, 7)
	other, err := vault.New(bytes.Repeat([]byte{8}, vault.MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for what, digest := range map[string][]byte{
		"a, b":                   v.Digest("p", "a", "b"),
		"ab":                     v.Digest("p", "ab"),
		"ab and nothing":         v.Digest("p", "ab", ""),
		"nothing and ab":         v.Digest("p", "", "ab"),
		"nothing":                v.Digest("p"),
		"another purpose":        v.Digest("q", "a", "b"),
		"the purpose and a part": v.Digest("pa", "b"),
		"another master key":     other.Digest("p", "a", "b"),
	} {
		if first, ok := seen[string(digest)]; ok || len(digest) != 32 {
			t.Errorf("%s and %s: %x", what, first, digest)
		}
		seen[string(digest)] = what
	}
	if again := newVault(t, 7).Digest("p", "a", "b"); seen[string(again)] != "a, b" {
		t.Error("another process gets another digest")
	}
}
