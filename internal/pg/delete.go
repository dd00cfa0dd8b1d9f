package pg

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// DeleteBatches deletes rows a batch at a time, so that no statement holds many
// locks or takes long. It runs the statement sql until that deletes fewer than
// batch rows, and returns how many were deleted, after an error too. sql takes
// args and then, as its last parameter, the most rows to delete. Each run may
// take as long as timeout and is a transaction of its own.
func DeleteBatches(ctx context.Context, pool *pgxpool.Pool, batch int, timeout time.Duration, sql string, args ...any) (deleted int64, err error) {
	args = append(slices.Clip(args), batch)
	for {
		one, cancel := context.WithTimeout(ctx, timeout)
		tag, err := pool.Exec(one, sql, args...)
		cancel()
		if err != nil {
			return deleted, err
		}
		if deleted += tag.RowsAffected(); tag.RowsAffected() < int64(batch) {
			return deleted, nil
		}
	}
}
