package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/pg"
	"colophon/migrations"
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
}

// clusterDir is the directory of the private Postgres.
func (f *dataFlags) clusterDir() string { return filepath.Join(f.Data, "postgres") }

// startTimeout bounds the time until a database answers.
const startTimeout = time.Minute

// database is the Postgres that a command uses.
type database struct {
	url     string      // for all but direct
	direct  string      // for sessions that last and for migrations; "" if url is for these too
	cluster *pg.Cluster // the private Postgres; nil with DATABASE_URL
}

// serviceLogin is the login of the service in a private Postgres. It owns nothing.
const serviceLogin = "colophon_service"

// open starts a private Postgres unless the flags name another database. It does not
// connect to the database. The caller closes the result.
func (f *databaseFlags) open(ctx context.Context, log *slog.Logger) (*database, error) {
	if f.DatabaseURL != "" {
		return &database{url: f.DatabaseURL, direct: f.DirectURL}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cluster, err := pg.Start(ctx, f.clusterDir(), pg.Options{Bin: f.PGBin, Log: log})
	if err != nil {
		return nil, fmt.Errorf("start the private Postgres: %w", err)
	}
	return &database{url: cluster.LoginURL(serviceLogin), cluster: cluster}, nil
}

// exited returns a channel that is closed when the private Postgres has ended. Without a
// private Postgres it returns nil.
func (d *database) exited() <-chan struct{} {
	if d.cluster == nil {
		return nil
	}
	return d.cluster.Exited()
}

func (d *database) close(ctx context.Context) error {
	if d.cluster == nil {
		return nil
	}
	return d.cluster.Stop(ctx)
}

// migrate migrates the schema, as the owner of the database. Unless always is set, it does
// nothing for a login that has the rights of the application and no others.
func (d *database) migrate(ctx context.Context, log *slog.Logger, always bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	url := d.lasting()
	if d.cluster != nil {
		url = d.cluster.URL()
	}
	pool, err := connect(ctx, log, func(ctx context.Context) (*pgxpool.Pool, error) { return pg.Connect(ctx, url, "") })
	if err != nil {
		return err
	}
	defer pool.Close()
	if !always {
		login, err := migrations.LoginOf(ctx, pool)
		if err != nil || login.Member && login.Power == "" {
			return err
		}
	}
	if err := migrations.Up(ctx, pool); err != nil {
		return err
	}
	if d.cluster != nil {
		return migrations.AddLogin(ctx, pool, serviceLogin)
	}
	return nil
}

// lasting returns the URL for sessions that last.
func (d *database) lasting() string { return cmp.Or(d.direct, d.url) }

// connect returns two pools with the rights of the application. A connection of direct
// keeps its session. Without a direct URL, both pools are the same.
func (d *database) connect(ctx context.Context, log *slog.Logger) (pool, direct *pgxpool.Pool, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	direct, err = connect(ctx, log, func(ctx context.Context) (*pgxpool.Pool, error) {
		return pg.Connect(ctx, d.lasting(), migrations.AppRole)
	})
	if errors.Is(err, pg.ErrNoRole) {
		err = fmt.Errorf("%w: %w", migrations.ErrBehind, err)
	}
	if err != nil || d.direct == "" {
		return direct, direct, err
	}
	if pool, err = connectPooled(ctx, log, d.url, direct); err != nil {
		direct.Close()
	}
	return pool, direct, err
}

const (
	// firstNotice and nextNotice are the times between two notices that the database does
	// not answer.
	firstNotice = 2 * time.Second
	nextNotice  = 10 * time.Second
)

// connect calls dial until it returns no error or an error of its own. Each call has until
// the next notice is due. A call that was cut short is logged and repeated until ctx ends.
func connect[T any](ctx context.Context, log *slog.Logger, dial func(context.Context) (T, error)) (T, error) {
	for wait := firstNotice; ; wait = nextNotice {
		try, cancel := context.WithTimeout(ctx, wait)
		result, err := dial(try)
		late := try.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil || !late {
			return result, err
		}
		log.WarnContext(ctx, "database does not answer, retrying", "err", err)
	}
}

type migrateCmd struct{ databaseFlags }

func (c *migrateCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) (err error) {
	db, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.close(context.WithoutCancel(ctx))) }()
	if err := db.refusePooler(ctx, log); err != nil {
		return err
	}
	if err := db.migrate(ctx, log, true); err != nil {
		return err
	}
	fmt.Fprintln(t.out, "the database is up to date")
	return nil
}
