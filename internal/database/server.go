package database

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

// Options say which database a process uses, and with which master key.
type Options struct {
	Data      string // data directory, which has the private Postgres and the file master.key
	URL       string // URL of the database; empty for the private Postgres
	DirectURL string // URL of the same database without a pooler; empty if URL leads to none
	Bin       string // directory of the programs of the private Postgres; empty to search for them
	MasterKey []byte // nil if KeyFile or the file in the data directory has the key
	KeyFile   string // file of the master key; empty for the file in the data directory

	// While the master key is replaced, a process has a second one, or a file with it.
	SecondKey     []byte
	SecondKeyFile string

	Log *slog.Logger

	// Check decides whether the process may use the database. It is called before an empty
	// database gets the master key of the process. Its argument has no vault yet, and perhaps
	// not the tables of this program. A nil Check accepts every database.
	Check func(context.Context, *Database) error
}

// OptionError is a mistake in an option.
type OptionError struct {
	Option string // name of the flag of the option, without dashes
	Err    error
}

func (e *OptionError) Error() string { return "--" + e.Option + ": " + e.Err.Error() }
func (e *OptionError) Unwrap() error { return e.Err }

// ClusterDir is the directory of the private Postgres.
func (o Options) ClusterDir() string { return filepath.Join(o.Data, "postgres") }

// startTimeout bounds the time until a database answers.
const startTimeout = time.Minute

// server is the Postgres that a process uses.
type server struct {
	url     string      // for all but direct
	direct  string      // for sessions that last and for migrations; "" if url is for these too
	cluster *pg.Cluster // the private Postgres; nil with a URL
}

// serviceLogin is the login of the service in a private Postgres. It owns nothing.
const serviceLogin = "colophon_service"

// Validate returns an OptionError for an option that is wrong whatever the database answers.
// The error contains no password.
func (o Options) Validate() error {
	for _, u := range []struct{ option, url string }{{"database-url", o.URL}, {"database-direct-url", o.DirectURL}} {
		if u.url == "" {
			continue
		}
		if err := pg.CheckURL(u.url); err != nil {
			return &OptionError{u.option, err}
		}
	}
	if o.URL == "" {
		if err := pg.CheckPrograms(o.Bin); err != nil {
			return &OptionError{"pg-bin", err}
		}
	}
	return nil
}

// start starts a private Postgres unless the options name another database. It does not
// connect to the database. The caller closes the result.
func (o Options) start(ctx context.Context) (*server, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.URL != "" {
		return &server{url: o.URL, direct: o.DirectURL}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cluster, err := pg.Start(ctx, o.ClusterDir(), pg.Options{Bin: o.Bin, Log: o.Log})
	if err != nil {
		return nil, fmt.Errorf("start the private Postgres: %w", err)
	}
	return &server{url: cluster.LoginURL(serviceLogin), cluster: cluster}, nil
}

// exited returns a channel that is closed when the private Postgres has ended. Without a
// private Postgres it returns nil.
func (d *server) exited() <-chan struct{} {
	if d.cluster == nil {
		return nil
	}
	return d.cluster.Exited()
}

func (d *server) close(ctx context.Context) error {
	if d.cluster == nil {
		return nil
	}
	return d.cluster.Stop(ctx)
}

// migrate migrates the schema, as the owner of the database. Unless always is set, it does
// nothing for a login that has the rights of the application and no others.
func (d *server) migrate(ctx context.Context, log *slog.Logger, always bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	pool, err := d.asLogin(ctx, log)
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

// asLogin returns a pool with the rights of the login, or of the owner of a private Postgres.
func (d *server) asLogin(ctx context.Context, log *slog.Logger) (*pgxpool.Pool, error) {
	url := d.lasting()
	if d.cluster != nil {
		url = d.cluster.URL()
	}
	return connect(ctx, log, func(ctx context.Context) (*pgxpool.Pool, error) { return pg.Connect(ctx, url, "") })
}

// lasting returns the URL for sessions that last.
func (d *server) lasting() string { return cmp.Or(d.direct, d.url) }

// connect returns two pools with the rights of the application. A connection of direct
// keeps its session. Without a direct URL, both pools are the same.
func (d *server) connect(ctx context.Context, log *slog.Logger) (pool, direct *pgxpool.Pool, err error) {
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
