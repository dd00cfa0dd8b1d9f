// Package migrations brings a database of PostgreSQL 15 or later to the schema that this
// build needs. It first migrates the tables of this program with goose, and then River's
// tables. Any number of processes may call [Up] at once, because an advisory lock lets only
// one of them migrate at a time. [Up] may be called again at any time. In an up-to-date
// database it only mends the service's role and rights.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

//go:embed *.sql
var files embed.FS

// The names of River's schema and table are defined here, because this package creates
// the schema and imports no other package of the program. A change of a name needs a
// migration that renames the schema or table.
const (
	// RiverSchema is the Postgres schema that holds River's tables.
	RiverSchema = "river"

	// RiverJobs is River's table of jobs, for use in SQL.
	RiverJobs = RiverSchema + ".river_job"
)

// AppRole is the least-privileged role that the service runs as. The application connects
// with a login that is a member of AppRole. AppRole cannot log in, owns nothing and
// cannot rewrite the log. A role belongs to the whole database server, so [Up] creates
// AppRole outside the migrations.
const AppRole = "colophon_app"

// ErrBehind is returned by Check if a database has not been migrated to the schema of
// this build.
var ErrBehind = errors.New("the database is behind this version: run colophon migrate as its owner")

// lockKey is the key of the advisory lock under which migrations run: "colophon" in
// ASCII.
const lockKey = 0x636f6c6f70686f6e

// Up migrates the database. It also mends AppRole and its rights, which a restored
// database may lack. The pool's role must own the schema, or be allowed to create objects
// in the schema. The pool's role must also be allowed to create roles, unless AppRole
// exists and the pool's role is a member of AppRole.
func Up(ctx context.Context, pool *pgxpool.Pool) error {
	// The lock has a connection of its own, because the pool may have only one
	// connection.
	lock, err := pgx.ConnectConfig(ctx, pool.Config().ConnConfig)
	if err != nil {
		return fmt.Errorf("connect to migrate: %w", err)
	}
	defer lock.Close(context.WithoutCancel(ctx)) // the end of the connection releases the lock
	if _, err := lock.Exec(ctx, `select pg_advisory_lock($1)`, int64(lockKey)); err != nil {
		return fmt.Errorf("lock for migration: %w", err)
	}
	if err := checkVersion(lock.PgConn().ParameterStatus("server_version")); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if err := ensureRole(ctx, pool); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if err := checkOwner(ctx, pool); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if err := upOwn(ctx, pool); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if err := upRiver(ctx, pool); err != nil {
		return fmt.Errorf("migrate river: %w", err)
	}
	sql, err := grants()
	if err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, sql); err != nil {
		return fmt.Errorf("grant rights to %s: %w", AppRole, err)
	}
	return nil
}

// oldest is the oldest supported major version of PostgreSQL.
const oldest = 15

// checkVersion returns an error for a version of PostgreSQL that is too old, such as 14.9.
// A version that it cannot read may be a new one.
func checkVersion(version string) error {
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err == nil && n < oldest {
		return fmt.Errorf("PostgreSQL %s is too old: use version 15 to 18", version)
	}
	return nil
}

// Check returns ErrBehind unless every migration of this build has been applied. The
// pool's role needs no more rights than AppRole has.
func Check(ctx context.Context, pool *pgxpool.Pool) error {
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	p, err := provider(db)
	if err != nil {
		return err
	}
	sources := p.ListSources()
	var applied int64
	err = pool.QueryRow(ctx, `select coalesce(max(version_id), 0) from goose_db_version where is_applied`).Scan(&applied)
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "42P01" { // the code means undefined_table
		return fmt.Errorf("%w: the schemas of its search_path have no tables of this program", ErrBehind)
	}
	if err != nil {
		return fmt.Errorf("list applied migrations: %w", err)
	}
	if want := sources[len(sources)-1].Version; applied < want {
		return fmt.Errorf("%w: at migration %d of %d", ErrBehind, applied, want)
	}
	m, err := river(pool)
	if err != nil {
		return err
	}
	valid, err := m.Validate(ctx, nil)
	if err != nil {
		return fmt.Errorf("list applied migrations of river: %w", err)
	}
	if !valid.OK {
		return fmt.Errorf("%w: river: %s", ErrBehind, strings.Join(valid.Messages, ", "))
	}
	return nil
}

func provider(db *sql.DB) (*goose.Provider, error) {
	return goose.NewProvider(goose.DialectPostgres, db, files, goose.WithLogger(goose.NopLogger()))
}

func upOwn(ctx context.Context, pool *pgxpool.Pool) error {
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	p, err := provider(db)
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

func upRiver(ctx context.Context, pool *pgxpool.Pool) error {
	// "create schema if not exists" would need the right to create schemas even if the
	// schema exists.
	_, err := pool.Exec(ctx, `do $$ begin if to_regnamespace('`+RiverSchema+`') is null then create schema `+RiverSchema+`; end if; end $$`)
	if err != nil {
		return err
	}
	m, err := river(pool)
	if err != nil {
		return err
	}
	_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

func river(pool *pgxpool.Pool) (*rivermigrate.Migrator[pgx.Tx], error) {
	return rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: RiverSchema, Logger: slog.New(slog.DiscardHandler)})
}
