package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Lag returns the age of the oldest committed event that has no index yet, by the database's
// clock. It returns 0 if all events have an index. The age counts from the time of the event,
// which is a little before its commit.
func Lag(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) (time.Duration, error) {
	var low int64
	err := db.QueryRow(ctx, `select low from log_state`).Scan(&low)
	if err != nil {
		return 0, fmt.Errorf("read the state of the log: %w", err)
	}
	// The value of low is a parameter, so that the planner can know how few events follow it.
	var lag time.Duration
	err = db.QueryRow(ctx, `
		select greatest(clock_timestamp() - at, '0') from events
		where position > $1 and not exists (select from log_entries as entry where entry.position = events.position and entry.position > $1)
		order by position limit 1`, low).Scan(&lag)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find the oldest event without an index: %w", err)
	}
	return lag, nil
}

// Unsigned returns the age of the oldest event that has an index and is in no checkpoint, by
// the database's clock. It returns 0 if there is none. It also counts events of a log that no
// process has ever signed.
func Unsigned(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) (time.Duration, error) {
	var age time.Duration
	err := db.QueryRow(ctx, `
		select greatest(clock_timestamp() - at, '0') from log_entries join events using (position)
		where idx = coalesce((select max(size) from log_checkpoints where origin = (select name from log_origins order by n desc limit 1)), 0)`).Scan(&age)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find the oldest event without a checkpoint: %w", err)
	}
	return age, nil
}
