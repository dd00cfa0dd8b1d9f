package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events"
	"colophon/internal/metrics"
	"colophon/internal/pg"
	"colophon/internal/retry"
	"colophon/internal/vault"
	"colophon/migrations"
)

// base holds the resources of a command that uses the database.
type base struct {
	pool    *pgxpool.Pool
	direct  *pgxpool.Pool // without a pooler, for sessions that last; may be pool
	vault   *vault.Vault
	store   *events.Store
	metrics *metrics.Metrics
	log     *slog.Logger
	expired context.Context // done when the grace period of a stopping process is over
	grace   grace
}

// with opens the database, proves the master key, calls fn, and closes everything in the
// opposite order. It always migrates a private Postgres. It migrates another database only
// if migrate is set and the login may, because the owner of that database decides when to
// migrate. The context of fn is done when ctx is done or when a private Postgres ends. From
// then on fn must return within the grace period. with returns errDatabaseEnded if a
// private Postgres ended and fn returned no error.
func (f *databaseFlags) with(ctx context.Context, log *slog.Logger, migrate bool, g grace, fn func(context.Context, *base) error) (err error) {
	key, err := f.readMasterKey()
	if err != nil {
		return err
	}
	db, err := f.open(ctx, log)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		err = errors.Join(err, db.close(ctx))
	}()
	if err := db.refusePooler(ctx, log); err != nil {
		return err
	}
	if migrate || db.cluster != nil {
		if err := db.migrate(ctx, log, db.cluster != nil); err != nil {
			return err
		}
	}
	pool, direct, err := db.connect(ctx, log)
	if err != nil {
		return err
	}
	expired, expire := context.WithCancel(context.WithoutCancel(ctx))
	defer expire()
	defer func() {
		// pool.Close waits until all connections have been returned. The process stops
		// waiting for them when its grace period ends.
		closed := make(chan struct{})
		go func() { pool.Close(); direct.Close(); close(closed) }()
		select {
		case <-closed:
		case <-expired.Done():
		}
	}()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-db.exited():
			stop(errDatabaseEnded)
		case <-ctx.Done():
		}
	}()
	if err := retryUntilAvailable(ctx, log, func() error { return migrations.Check(ctx, pool) }); err != nil {
		return err
	}
	v, err := f.openVault(ctx, pool, key, log)
	if err != nil {
		return err
	}
	store := events.NewStore(pool, v, log)
	m := metrics.New(pool)
	store.Appended = m.Appended
	store.Listener = direct.Config().ConnConfig
	context.AfterFunc(ctx, func() { time.AfterFunc(g.Duration, expire) })
	// The store goes on announcing events until fn has returned, so that the last event
	// of fn is announced too.
	defer background(context.WithoutCancel(ctx), func(ctx context.Context) { store.Run(ctx, nil) })()
	if err := fn(ctx, &base{pool, direct, v, store, m, log, expired, g}); err != nil {
		return err
	}
	if cause := context.Cause(ctx); errors.Is(cause, errDatabaseEnded) {
		return cause
	}
	return nil
}

// retryInterval is the wait between two tries while the database is unavailable.
const retryInterval = 500 * time.Millisecond

// retryUntilAvailable calls fn again while fn reports that the database is unavailable. It
// logs the first such error, and then one in ten seconds. It stops when fn returns nil or
// another error, or when ctx is done. It returns the last error of fn.
func retryUntilAvailable(ctx context.Context, log *slog.Logger, fn func() error) error {
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

// stopTimeout bounds the time to stop a private Postgres.
const stopTimeout = 20 * time.Second

// errDatabaseEnded is the error of a process whose private Postgres has ended.
var errDatabaseEnded = errors.New("the private Postgres has ended; its log is in the data directory")

// quiet returns a logger for River, which drops every record below the level of a
// warning.
func quiet(log *slog.Logger) *slog.Logger { return slog.New(atLeast{log.Handler(), slog.LevelWarn}) }

// atLeast is a log handler that drops the records below a level.
type atLeast struct {
	slog.Handler
	level slog.Level
}

func (h atLeast) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= h.level && h.Handler.Enabled(ctx, level)
}

func (h atLeast) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atLeast{h.Handler.WithAttrs(attrs), h.level}
}
func (h atLeast) WithGroup(name string) slog.Handler {
	return atLeast{h.Handler.WithGroup(name), h.level}
}
