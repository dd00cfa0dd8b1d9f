package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"colophon/events"
	"colophon/events/ledger"
	"colophon/internal/database"
	"colophon/internal/metrics"
	"colophon/internal/pg"
)

// base holds the resources of a command that uses the database.
type base struct {
	*database.Database
	store   *events.Store
	metrics *metrics.Metrics
	log     *slog.Logger
	expired context.Context // done when the grace period of a stopping process is over
	grace   grace
}

// with calls fn with the database that the flags name. It does not migrate that database. fn
// has the default grace period.
func (f *databaseFlags) with(ctx context.Context, log *slog.Logger, fn func(context.Context, *base) error) error {
	return with(ctx, f.options(log), false, defaultGrace, fn)
}

// with opens the database, calls fn, and closes the database. It passes migrate to
// database.Open. The context that fn receives ends with ctx, or earlier if a private Postgres
// ends. fn must then return within the grace period g. If a private Postgres ended and fn
// returned no error, with returns database.ErrEnded.
func with(ctx context.Context, o database.Options, migrate bool, g grace, fn func(context.Context, *base) error) (err error) {
	db, err := database.Open(ctx, o, migrate)
	if err != nil {
		return err
	}
	expired, expire := context.WithCancel(context.WithoutCancel(ctx))
	defer expire()
	defer func() { err = errors.Join(err, db.Close(expired)) }()
	ctx, stop := db.While(ctx)
	defer stop()
	store := events.NewStore(db.Pool, db.Vault, db.Log)
	m := metrics.New(db.Pool)
	store.Appended = m.Appended
	store.Listener = db.Direct.Config().ConnConfig
	context.AfterFunc(ctx, func() { time.AfterFunc(g.Duration, expire) })
	// fn may append events until it returns, so the store announces events until then.
	defer background(context.WithoutCancel(ctx), func(ctx context.Context) { store.Run(ctx, nil) })()
	if err := fn(ctx, &base{db, store, m, db.Log, expired, g}); err != nil {
		return err
	}
	if cause := context.Cause(ctx); errors.Is(cause, database.ErrEnded) {
		return cause
	}
	return nil
}

// wrongClock warns that the clock of this process differs from the database's clock.
const wrongClock = "the clock of this process differs by more than 5 s from the database's, which the service uses"

// logNotSigned warns that events have no checkpoint.
const logNotSigned = "the log of events has not been signed for a minute: the metric colophon_log_unsigned_seconds and the log of the process that signs say more"

// maxUnsigned is the age of an event without a checkpoint from which ready warns.
const maxUnsigned = time.Minute

// ready reports whether the database is ready. It returns a warning if the clock of this
// process differs too much from the database's clock, and one if the log is not signed.
func (b *base) ready(ctx context.Context) (warnings []string, err error) {
	warnings, err = b.Ready(ctx)
	if err == nil && b.store.Clock().Ahead().Abs() > pg.MaxAhead {
		warnings = append(warnings, wrongClock)
	}
	if err == nil {
		var unsigned time.Duration
		if unsigned, err = ledger.Unsigned(ctx, b.Pool); unsigned > maxUnsigned {
			warnings = append(warnings, logNotSigned)
		}
	}
	return warnings, err
}
