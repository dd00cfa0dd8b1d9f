package events

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Erasing an owner takes three steps, each of which may be repeated. Close, in the
// transaction that erases the account, stops further jobs of the owner. Then the
// caller ends the outstanding jobs, while there is still a key to record that with.
// Erase destroys the key. If a process dies in between, Closed returns the owner.

// Close stops an owner from starting new work: once the transaction has committed,
// no further job of the owner is accepted.
func (tx *Tx) Close(ctx context.Context, owner uuid.UUID) error {
	return tx.store.vault.Close(ctx, tx, owner)
}

// codeClosed is the SQLSTATE of a statement that would start work of a closed owner.
const codeClosed = "CL001"

// queueAdmission makes a batch fail if the owner is closed, and keeps the owner from
// being closed until the transaction ends.
func queueAdmission(batch *pgx.Batch, owner uuid.UUID) { batch.Queue(`select admit($1)`, owner) }

// Closed returns up to limit closed owners whose keys still exist.
func (s *Store) Closed(ctx context.Context, limit int) ([]uuid.UUID, error) {
	rows, _ := s.pool.Query(ctx, `select owner from owner_keys where closed_at is not null and wrapped is not null limit $1`, limit)
	owners, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("find owners to erase: %w", err)
	}
	return owners, nil
}

// Outstanding returns up to limit queued or running jobs of an owner.
func (s *Store) Outstanding(ctx context.Context, owner uuid.UUID, limit int) ([]uuid.UUID, error) {
	rows, _ := s.pool.Query(ctx, `select job from history where owner = $1 and state in ('queued', 'running') order by job limit $2`, owner, limit)
	jobs, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("find the outstanding jobs of %s: %w", owner, err)
	}
	return jobs, nil
}

// Erase destroys the key of an owner who is closed and has no outstanding jobs.
// Nothing that they wrote can be read again.
func (s *Store) Erase(ctx context.Context, owner uuid.UUID) error {
	return s.vault.Erase(ctx, s.pool, owner)
}
