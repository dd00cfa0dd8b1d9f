package database

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/vault"
)

// masterKeyFile is the file of the master key if no option has the key or names a file.
func (o Options) masterKeyFile() string { return filepath.Join(o.Data, "master.key") }

// ReadMasterKey returns the master key of the options or of the file in the data directory.
// It returns nil if there is neither.
func (o Options) ReadMasterKey() ([]byte, error) {
	switch {
	case o.MasterKey != nil && o.KeyFile != "":
		return nil, &OptionError{"master-key-file", errors.New("--master-key is set too: set one of them")}
	case o.MasterKey != nil:
		return o.MasterKey, nil
	case o.KeyFile != "":
		key, err := vault.ReadMasterKey(o.KeyFile)
		if err != nil {
			return nil, &OptionError{"master-key-file", err}
		}
		return key, nil
	}
	key, err := vault.ReadMasterKey(o.masterKeyFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return key, err
}

// ReadSecondKey returns the second master key of the options, or nil if there is none.
func (o Options) ReadSecondKey() ([]byte, error) {
	switch {
	case o.SecondKey != nil && o.SecondKeyFile != "":
		return nil, &OptionError{"second-master-key-file", errors.New("--second-master-key is set too: set one of them")}
	case o.SecondKeyFile == "":
		return o.SecondKey, nil
	}
	key, err := vault.ReadMasterKey(o.SecondKeyFile)
	if err != nil {
		return nil, &OptionError{"second-master-key-file", err}
	}
	return key, nil
}

// ErrNoMasterKey is the error of a process without a key whose database has data.
var ErrNoMasterKey = errors.New("the database has data that a master key sealed, and this process has no master key: " +
	"set COLOPHON_MASTER_KEY, or copy the file master.key from the data directory of the first process")

// openVault returns a vault that has the database's master key. If key is nil and the
// database has no data, openVault makes a key and writes it to the file.
//
// Only the statements are repeated while the database is unavailable. An error of the
// file is final.
func (o Options) openVault(ctx context.Context, pool *pgxpool.Pool, key []byte) (*vault.Vault, error) {
	created := false
	if key == nil {
		var unused bool
		err := Retry(ctx, o.Log, func() (err error) { unused, err = vault.IsUnused(ctx, pool); return err })
		if err != nil {
			return nil, err
		}
		// A process that started at the same moment may have made the key since it was read.
		if key, err = o.ReadMasterKey(); err == nil && key == nil {
			if !unused {
				return nil, ErrNoMasterKey
			}
			key, created, err = vault.CreateMasterKey(o.masterKeyFile())
		}
		if err != nil {
			return nil, err
		}
	}
	var others [][]byte
	if second, err := o.ReadSecondKey(); err != nil {
		return nil, err
	} else if second != nil {
		others = append(others, second)
	}
	v, err := vault.New(key, others...)
	if err != nil {
		return nil, err
	}
	err = Retry(ctx, o.Log, func() error { return v.Prove(ctx, pool) })
	switch {
	case !errors.Is(err, vault.ErrMasterKey):
		return v, err
	case created:
		// Another process has claimed the empty database with a key of its own.
		return nil, errors.Join(err, os.Remove(o.masterKeyFile()))
	}
	return nil, fmt.Errorf("%w: set COLOPHON_MASTER_KEY to the database's key, or put that key into %s; during a rotation, the other key is COLOPHON_SECOND_MASTER_KEY",
		err, cmp.Or(o.KeyFile, o.masterKeyFile()))
}
