// Package database opens the database of a process and proves that the process may use it.
//
// [Open] starts the private Postgres of a data directory, or connects to the database of a
// URL. It refuses a pooler that would break sessions, runs the check of the caller, checks
// that the schema is current, and proves the master key. A [Database] is therefore safe to
// use as soon as there is one.
// It is safe for concurrent use until it is closed.
package database

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/pg"
	"colophon/internal/retry"
	"colophon/internal/vault"
	"colophon/migrations"
)

// Database is an open database.
type Database struct {
	Pool   *pgxpool.Pool
	Direct *pgxpool.Pool // without a pooler, for sessions that last; may be Pool
	Vault  *vault.Vault
	Log    *slog.Logger

	server *server
}

// ErrEnded is the cause of the end of a context of [Database.While].
var ErrEnded = errors.New("the private Postgres has ended; its log is in the data directory")

// stopTimeout bounds the time to stop a private Postgres.
const stopTimeout = 20 * time.Second

// Open opens the database. It always migrates a private Postgres. It migrates another
// database only if migrate is set and the login may, because the owner of that database
// decides when to migrate. Open returns an OptionError for a mistake in the options, and the
// error of o.Check. A process that is refused leaves no master key in the database. The
// caller closes the result.
func Open(ctx context.Context, o Options, migrate bool) (_ *Database, err error) {
	key, err := o.ReadMasterKey()
	if err != nil {
		return nil, err
	}
	if _, err := o.ReadSecondKey(); err != nil { // an error of a file must not wait for the database
		return nil, err
	}
	server, err := o.start(ctx)
	if err != nil {
		return nil, err
	}
	d := &Database{server: server, Log: o.Log}
	defer func() {
		if err != nil {
			ended, end := context.WithCancel(context.WithoutCancel(ctx))
			end()
			err = errors.Join(err, d.Close(ended))
		}
	}()
	if err := server.refusePooler(ctx, o.Log); err != nil {
		return nil, err
	}
	if migrate || server.cluster != nil {
		if err := server.migrate(ctx, o.Log, server.cluster != nil); err != nil {
			return nil, err
		}
	}
	if d.Pool, d.Direct, err = server.connect(ctx, o.Log); err != nil {
		return nil, err
	}
	ctx, stop := d.While(ctx)
	defer stop()
	if o.Check != nil {
		if err := o.Check(ctx, d); err != nil {
			return nil, err
		}
	}
	if err := Retry(ctx, o.Log, func() error { return migrations.Check(ctx, d.Pool) }); err != nil {
		return nil, err
	}
	if d.Vault, err = o.openVault(ctx, d.Pool, key); err != nil {
		return nil, err
	}
	return d, nil
}

// Migrate migrates the database to the schema of this program.
func Migrate(ctx context.Context, o Options) (err error) {
	server, err := o.start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.close(context.WithoutCancel(ctx))) }()
	if err := server.refusePooler(ctx, o.Log); err != nil {
		return err
	}
	return server.migrate(ctx, o.Log, true)
}

// ErrNotOwner occurs when a login that has only the rights of the service needs those of the
// owner.
var ErrNotOwner = errors.New("the login of the service may not do this: use the URL of the database's owner, as for colophon migrate")

// AsOwner returns a pool that has the rights of the login itself, not those of the service.
// The error is ErrNotOwner if the login has no others. The caller closes the pool.
func (d *Database) AsOwner(ctx context.Context) (*pgxpool.Pool, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	pool, err := d.server.asLogin(ctx, d.Log)
	if err != nil {
		return nil, err
	}
	login, err := migrations.LoginOf(ctx, pool)
	if err == nil && login.Power == "" {
		err = ErrNotOwner
	}
	if err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// While returns a context that also ends when the private Postgres ends. Its cause is then
// ErrEnded. The caller calls stop.
func (d *Database) While(ctx context.Context) (_ context.Context, stop func()) {
	ctx, end := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-d.server.exited():
			end(ErrEnded)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { end(nil) }
}

// Close closes the connections and stops a private Postgres. It waits until all connections
// have been returned or expired is done.
func (d *Database) Close(expired context.Context) error {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if d.Pool != nil {
			d.Pool.Close()
			d.Direct.Close()
		}
	}()
	select {
	case <-closed:
	case <-expired.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(expired), stopTimeout)
	defer cancel()
	return d.server.close(ctx)
}

// retryInterval is the wait between two tries while the database is unavailable.
const retryInterval = 500 * time.Millisecond

// Retry calls fn again while fn reports that the database is unavailable. It
// logs the first such error, and then one in ten seconds. It stops when fn returns nil or
// another error, or when ctx is done. It returns the last error of fn.
func Retry(ctx context.Context, log *slog.Logger, fn func() error) error {
	var logged time.Time
	return retry.Do(ctx, fn, func(err error) (time.Duration, bool) {
		if !pg.Unavailable(err) {
			return 0, false
		}
		if logged.IsZero() || time.Since(logged) >= nextNotice {
			logged = time.Now()
			log.WarnContext(ctx, "database unavailable at startup, retrying", "err", err)
		}
		return retryInterval, true
	})
}
