package events

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Erasing an owner takes three steps, each of which may be repeated. CloseOwner, in
// the transaction that erases the account, stops further jobs of the owner. Then the
// caller ends the outstanding jobs, which needs the owner's key. Erase destroys the
// key. If a process dies in between, ClosedOwners returns the owner.

// CloseOwner stops an owner from starting new work: after the commit, no further job
// of the owner is accepted. Outstanding jobs can go on.
func (tx *Tx) CloseOwner(ctx context.Context, owner uuid.UUID) error {
	return tx.store.vault.CloseOwner(ctx, tx, owner)
}

// codeClosed is the SQLSTATE of the function admit for a closed owner.
const codeClosed = "CL001"

// queueOpenCheck makes a batch fail with codeClosed if the owner is closed. An open
// owner cannot be closed until the transaction ends.
func queueOpenCheck(batch *pgx.Batch, owner uuid.UUID) { batch.Queue(`select admit($1)`, owner) }

// ClosedOwners returns up to limit closed owners whose keys still exist.
func (s *Store) ClosedOwners(ctx context.Context, limit int) ([]uuid.UUID, error) {
	rows, _ := s.pool.Query(ctx, `select owner from owner_keys where closed_at is not null and wrapped is not null limit $1`, limit)
	owners, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("find owners to erase: %w", err)
	}
	return owners, nil
}

// Outstanding returns up to limit queued or running jobs of an owner, oldest first.
func (s *Store) Outstanding(ctx context.Context, owner uuid.UUID, limit int) ([]uuid.UUID, error) {
	rows, _ := s.pool.Query(ctx, `select job from history where owner = $1 and state in ('queued', 'running') order by job limit $2`, owner, limit)
	jobs, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("find the outstanding jobs of %s: %w", owner, err)
	}
	return jobs, nil
}

// Erase destroys the owner's key, so that nothing the owner wrote can be read again.
// Other processes can still read for up to vault.KeyTTL. The owner must be closed and
// have no outstanding jobs.
func (s *Store) Erase(ctx context.Context, owner uuid.UUID) error {
	return s.vault.Erase(ctx, s.pool, owner)
}
