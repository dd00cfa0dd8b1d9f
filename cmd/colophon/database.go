package main

import (
	"context"
	"fmt"
	"log/slog"

	"colophon/internal/database"
	"colophon/internal/vault"
)

// dataFlags select the data directory.
type dataFlags struct {
	Data string `default:"data" type:"path" help:"Directory for keys, pulled models and the private Postgres ($COLOPHON_DATA)."`
}

// databaseFlags select the database and the key that encrypts the secrets in the
// database.
type databaseFlags struct {
	dataFlags
	DatabaseURL string    `var:"DATABASE_URL" placeholder:"URL" help:"URL of the Postgres database. Default: a private Postgres is started in the data directory ($DATABASE_URL)."`
	DirectURL   string    `name:"database-direct-url" placeholder:"URL" help:"URL of the same database without a pooler. Needed if the database URL leads to a pooler in transaction mode, such as PgBouncer. LISTEN, the queue of workers and migrate use it ($COLOPHON_DATABASE_DIRECT_URL)."`
	PGBin       string    `name:"pg-bin" var:"PGBIN" type:"path" placeholder:"DIR" help:"Directory of the programs initdb and postgres, for the private Postgres ($PGBIN)."`
	MasterKey   masterKey `placeholder:"KEY" help:"Key that encrypts the stored secrets: 32 bytes in base64. Default: the file master.key in the data directory, which is made for an empty database ($COLOPHON_MASTER_KEY)."`
	KeyFile     string    `name:"master-key-file" type:"path" placeholder:"FILE" help:"File with the master key in base64, which other accounts must not be able to read ($COLOPHON_MASTER_KEY_FILE)."`
	Second      masterKey `name:"second-master-key" placeholder:"KEY" help:"A second master key, which opens stored secrets too. All processes need it while keys rotate --master puts it into the place of the first ($COLOPHON_SECOND_MASTER_KEY)."`
	SecondFile  string    `name:"second-master-key-file" type:"path" placeholder:"FILE" help:"File with the second master key ($COLOPHON_SECOND_MASTER_KEY_FILE)."`
}

// masterKey is the value of --master-key: 32 bytes in base64.
type masterKey []byte

func (k *masterKey) UnmarshalText(text []byte) (err error) {
	*k, err = vault.ParseMasterKey(string(text))
	return err
}

// options returns the database options that the flags select.
func (f *databaseFlags) options(log *slog.Logger) database.Options {
	return database.Options{
		Data: f.Data, URL: f.DatabaseURL, DirectURL: f.DirectURL, Bin: f.PGBin,
		MasterKey: f.MasterKey, KeyFile: f.KeyFile, SecondKey: f.Second, SecondKeyFile: f.SecondFile, Log: log,
	}
}

type migrateCmd struct{ databaseFlags }

func (c *migrateCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	if err := database.Migrate(ctx, c.options(log)); err != nil {
		return err
	}
	fmt.Fprintln(t.out, "the database is up to date")
	return nil
}
