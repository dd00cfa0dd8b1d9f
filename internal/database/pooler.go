package database

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/pg"
	"colophon/migrations"
)

// errPooler is the error for a pooler where sessions have to last.
var errPooler = errors.New("the URL leads to a pooler that shares sessions between transactions, where LISTEN does not work and SET changes the sessions of others: " +
	"set COLOPHON_DATABASE_DIRECT_URL to a URL of the same database without the pooler, and leave DATABASE_URL as it is")

// refusePooler returns an error if the URL for sessions that last leads to a pooler.
func (d *server) refusePooler(ctx context.Context, log *slog.Logger) error {
	if d.cluster != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	pooled, err := connect(ctx, log, func(ctx context.Context) (bool, error) { return pg.Pooled(ctx, d.lasting()) })
	if pooled {
		err = &OptionError{"database-direct-url", errPooler}
	}
	return err
}

// connectPooled connects through a pooler. Connections there act with the rights of their
// login, because SET ROLE would last beyond their transactions. So the login must have no
// other rights.
func connectPooled(ctx context.Context, log *slog.Logger, url string, direct *pgxpool.Pool) (*pgxpool.Pool, error) {
	pool, err := connect(ctx, log, func(ctx context.Context) (*pgxpool.Pool, error) { return pg.ConnectPooled(ctx, url) })
	if err != nil {
		return nil, err
	}
	if err := checkPooled(ctx, pool, direct); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// checkPooled returns an error unless a pool behind a pooler leads to the database of the
// pool direct, with a login that needs no SET.
func checkPooled(ctx context.Context, pool, direct *pgxpool.Pool) error {
	if err := sameDatabase(ctx, pool, direct); err != nil {
		return err
	}
	login, err := migrations.LoginOf(ctx, pool)
	if err != nil {
		return err
	}
	if err := login.WithoutSet(); err != nil {
		return &OptionError{"database-url", fmt.Errorf("behind a pooler %w", err)}
	}
	return nil
}

// sameDatabase returns an error unless both pools lead to the same database.
func sameDatabase(ctx context.Context, pools ...*pgxpool.Pool) error {
	var first string
	for i, pool := range pools {
		var id string
		if err := pool.QueryRow(ctx, `select current_database() || ' ' || extract(epoch from pg_postmaster_start_time())`).Scan(&id); err != nil {
			return fmt.Errorf("identify the database: %w", err)
		}
		if i > 0 && id != first {
			return &OptionError{"database-direct-url", errors.New("it leads to another database than the database URL")}
		}
		first = id
	}
	return nil
}
