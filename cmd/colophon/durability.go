package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"colophon/internal/periodic"
	"colophon/internal/pg"
)

const (
	// asynchronous is the warning of a database whose standbys are all asynchronous.
	asynchronous = "the database waits for no standby: a failover loses the jobs that were accepted last"

	// wrongClock is the warning of a process whose clock is off.
	wrongClock = "the clock of this process differs by more than 5 s from the database's, which the service uses"

	// replicationEvery is the interval at which the log learns of a change of the standbys.
	replicationEvery = 30 * time.Second
)

// checkDurability returns an error if the database may lose accepted jobs in a crash and
// production is set. Without production, it logs a warning.
func (b *base) checkDurability(ctx context.Context, production bool) error {
	var unsafe []string
	err := retryUntilAvailable(ctx, b.log, func() (err error) {
		unsafe, err = pg.UnsafeSettings(ctx, b.pool)
		return err
	})
	if err != nil {
		return err
	}
	if production && len(unsafe) > 0 {
		return &usageError{errors.New("--production refuses to start:\n  --database-url: " + strings.Join(unsafe, "\n  --database-url: ") + "\n")}
	}
	for _, setting := range unsafe {
		b.log.WarnContext(ctx, "database may lose accepted jobs in a crash", "fault", setting)
	}
	return nil
}

// watchReplication logs when the database has standbys but waits for none of them, and
// when this ends, until ctx is done.
func (b *base) watchReplication(ctx context.Context) {
	warned := false
	check := func(ctx context.Context) error {
		loses, err := pg.LosesAtFailover(ctx, b.pool)
		if err != nil || loses == warned {
			return err
		}
		if warned = loses; loses {
			b.log.WarnContext(ctx, "only asynchronous standbys", "fault", asynchronous)
		} else {
			b.log.InfoContext(ctx, "the only standby is no longer asynchronous")
		}
		return nil
	}
	const failure = "standbys not checked, retrying"
	if err := check(ctx); err != nil && ctx.Err() == nil {
		b.log.WarnContext(ctx, failure, "err", err)
	}
	periodic.Run(ctx, replicationEvery, b.log, failure, check)
}

// ready returns an error while the database does not answer or accepts no writes.
func (b *base) ready(ctx context.Context) (warnings []string, err error) {
	if err := pg.CheckWritable(ctx, b.pool); err != nil {
		return nil, err
	}
	if b.store.Clock().Ahead().Abs() > pg.MaxAhead {
		warnings = append(warnings, wrongClock)
	}
	loses, err := pg.LosesAtFailover(ctx, b.pool)
	if loses {
		warnings = append(warnings, asynchronous)
	}
	return warnings, err
}
