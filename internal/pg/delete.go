package pg

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// DeleteBatches deletes rows in batches, so that no statement holds many locks or takes
// long. It runs the statement sql until a run deletes fewer than batch rows. It returns
// the number of deleted rows, also after an error. The parameters of sql are args,
// followed by the largest number of rows to delete. Each run is a transaction of its
// own and may take as long as timeout.
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
