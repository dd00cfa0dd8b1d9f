package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/vault"
)

// masterKey is the value of a flag, which has 32 bytes in base64.
type masterKey []byte

func (k *masterKey) UnmarshalText(text []byte) (err error) {
	*k, err = vault.ParseMasterKey(string(text))
	return err
}

// masterKeyFile is the file of the master key if no flag has the key or names a file.
func (f *databaseFlags) masterKeyFile() string { return filepath.Join(f.Data, "master.key") }

// readMasterKey returns the master key of the flags or of the file in the data directory.
// It returns nil if there is neither.
func (f *databaseFlags) readMasterKey() ([]byte, error) {
	switch {
	case f.MasterKey != nil && f.KeyFile != "":
		return nil, &usageError{errors.New("--master-key-file: --master-key is set too: set one of them")}
	case f.MasterKey != nil:
		return f.MasterKey, nil
	case f.KeyFile != "":
		key, err := vault.ReadMasterKey(f.KeyFile)
		if err != nil {
			return nil, &usageError{fmt.Errorf("--master-key-file: %w", err)}
		}
		return key, nil
	}
	key, err := vault.ReadMasterKey(f.masterKeyFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return key, err
}

// errNoMasterKey is the error of a process without a key whose database has data.
var errNoMasterKey = errors.New("the database has data that a master key sealed, and this process has no master key: " +
	"set COLOPHON_MASTER_KEY, or copy the file master.key from the data directory of the first process")

// openVault returns a vault whose master key is the database's. If key is nil and the
// database has no data, openVault makes a key and writes it to the file.
//
// Only the statements are repeated while the database is unavailable. An error of the
// file is final.
func (f *databaseFlags) openVault(ctx context.Context, pool *pgxpool.Pool, key []byte, log *slog.Logger) (*vault.Vault, error) {
	created := false
	if key == nil {
		var unused bool
		err := retryUntilAvailable(ctx, log, func() (err error) { unused, err = vault.IsUnused(ctx, pool); return err })
		if err != nil {
			return nil, err
		}
		// A process that started at the same moment may have made the key since it was read.
		if key, err = f.readMasterKey(); err == nil && key == nil {
			if !unused {
				return nil, errNoMasterKey
			}
			key, created, err = vault.CreateMasterKey(f.masterKeyFile())
		}
		if err != nil {
			return nil, err
		}
	}
	v, err := vault.New(key)
	if err != nil {
		return nil, err
	}
	err = retryUntilAvailable(ctx, log, func() error { return v.Prove(ctx, pool) })
	switch {
	case !errors.Is(err, vault.ErrMasterKey):
		return v, err
	case created:
		// Another process has claimed the empty database with a key of its own.
		return nil, errors.Join(err, os.Remove(f.masterKeyFile()))
	}
	return nil, fmt.Errorf("%w: set COLOPHON_MASTER_KEY to the database's key, or put that key into %s", err, cmp.Or(f.KeyFile, f.masterKeyFile()))
}
