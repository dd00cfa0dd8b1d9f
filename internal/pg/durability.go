package pg

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// querier is a pool or a connection.
type querier interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}

// UnsafeSettings returns the settings with which a crash of the server's machine may lose
// or damage committed data, in words for an operator. No session can change them.
func UnsafeSettings(ctx context.Context, db querier) (unsafe []string, err error) {
	var fsync, fullPages bool
	err = db.QueryRow(ctx, `select current_setting('fsync')::boolean, current_setting('full_page_writes')::boolean`).Scan(&fsync, &fullPages)
	if err != nil {
		return nil, fmt.Errorf("read the settings of the database: %w", err)
	}
	if !fsync {
		unsafe = append(unsafe, "fsync is off: a crash of its machine loses or damages what is committed: set fsync=on")
	}
	if !fullPages {
		unsafe = append(unsafe, "full_page_writes is off: a crash of its machine damages pages: set full_page_writes=on")
	}
	return unsafe, nil
}

// LosesAtFailover reports whether the server has standbys and waits for none of them. A
// failover then loses what was committed last. Replication of single tables and backups do
// not count as standbys.
func LosesAtFailover(ctx context.Context, db querier) (loses bool, err error) {
	// A role without pg_monitor sees that a standby exists, but not its state.
	err = db.QueryRow(ctx, `
		select current_setting('synchronous_standby_names') = '' and exists (
			select from pg_stat_replication r
			where r.state is distinct from 'backup'
				and not exists (select from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical'))`).Scan(&loses)
	if err != nil {
		return false, fmt.Errorf("read the state of the replication: %w", err)
	}
	return loses, nil
}
