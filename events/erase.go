package events

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// The erasure of an owner has three steps, and each step may be repeated. First,
// CloseOwner stops further jobs of the owner. It runs in the transaction that erases
// the account. Second, the caller ends the outstanding jobs, which needs the owner's
// key. Third, Erase destroys the key. If a process dies between the first and the last
// step, ClosedOwners returns the owner, so that the erasure can be finished.

// CloseOwner stops an owner from starting new work. After the commit, no further job of
// the owner is accepted. Outstanding jobs can continue.
func (tx *Tx) CloseOwner(ctx context.Context, owner uuid.UUID) error {
	return tx.store.vault.CloseOwner(ctx, tx, owner)
}

// codeClosed is the SQLSTATE that the database function admit raises for a closed owner.
const codeClosed = "CL001"

// queueOpenCheck adds a statement to the batch that fails with codeClosed if the owner
// is closed. If the owner is open, no other transaction can close the owner before this
// transaction ends.
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

// Erase destroys the owner's key, so that nothing that the owner wrote can be read
// again. Other processes can still read the owner's values for up to vault.KeyTTL. The
// owner must be closed and have no outstanding jobs.
func (s *Store) Erase(ctx context.Context, owner uuid.UUID) error {
	return s.vault.Erase(ctx, s.pool, owner)
}
