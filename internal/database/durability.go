package database

import (
	"context"
	"time"

	"colophon/internal/periodic"
	"colophon/internal/pg"
)

const (
	// asynchronous is the warning of a database whose standbys are all asynchronous.
	asynchronous = "the database waits for no standby: a failover loses the jobs that were accepted last"

	// replicationEvery is the interval at which the log learns of a change of the standbys.
	replicationEvery = 30 * time.Second
)

// Unsafe returns the settings of the server with which a crash may lose accepted jobs.
func (d *Database) Unsafe(ctx context.Context) (unsafe []string, err error) {
	err = Retry(ctx, d.Log, func() (err error) {
		unsafe, err = pg.UnsafeSettings(ctx, d.Pool)
		return err
	})
	return unsafe, err
}

// WatchReplication logs when the database has standbys but waits for none of them, and
// when this ends, until ctx is done.
func (d *Database) WatchReplication(ctx context.Context) {
	warned := false
	check := func(ctx context.Context) error {
		loses, err := pg.LosesAtFailover(ctx, d.Pool)
		if err != nil || loses == warned {
			return err
		}
		if warned = loses; loses {
			d.Log.WarnContext(ctx, "only asynchronous standbys", "fault", asynchronous)
		} else {
			d.Log.InfoContext(ctx, "the only standby is no longer asynchronous")
		}
		return nil
	}
	const failure = "standbys not checked, retrying"
	if err := check(ctx); err != nil && ctx.Err() == nil {
		d.Log.WarnContext(ctx, failure, "err", err)
	}
	periodic.Run(ctx, replicationEvery, d.Log, failure, check)
}

// Ready returns an error while the database does not answer or accepts no writes. It also
// returns warnings for operators.
func (d *Database) Ready(ctx context.Context) (warnings []string, err error) {
	if err := pg.CheckWritable(ctx, d.Pool); err != nil {
		return nil, err
	}
	loses, err := pg.LosesAtFailover(ctx, d.Pool)
	if loses {
		warnings = append(warnings, asynchronous)
	}
	return warnings, err
}
