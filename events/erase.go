package events

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Erasing an owner takes three steps, each of which can be done again. Close,
// in the transaction that says so of the account: no further job of the owner
// gets on record. Then whoever runs the jobs ends those that are outstanding,
// while there is a key that their end can be written with. Erase destroys the
// key. A process that dies in between leaves an owner whom Closed names.

// Close ends an owner's doings: once this has committed, all jobs that he will
// ever have are on record.
func (tx *Tx) Close(ctx context.Context, owner uuid.UUID) error {
	return tx.store.vault.Close(ctx, tx, owner)
}

// codeClosed is the SQLSTATE of what is begun for an owner who is closed.
const codeClosed = "CL001"

// queueAdmission makes a batch fail if the owner is closed, and lets him be closed
// only when the transaction is over.
func queueAdmission(batch *pgx.Batch, owner uuid.UUID) { batch.Queue(`select admit($1)`, owner) }

// Closed returns up to limit owners who are closed and whose keys are still there.
func (s *Store) Closed(ctx context.Context, limit int) ([]uuid.UUID, error) {
	rows, _ := s.pool.Query(ctx, `select owner from owner_keys where closed_at is not null and wrapped is not null limit $1`, limit)
	owners, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("look for owners to erase: %w", err)
	}
	return owners, nil
}

// Outstanding returns up to limit jobs of an owner that are queued or running.
func (s *Store) Outstanding(ctx context.Context, owner uuid.UUID, limit int) ([]uuid.UUID, error) {
	rows, _ := s.pool.Query(ctx, `select job from history where owner = $1 and state in ('queued', 'running') order by job limit $2`, owner, limit)
	jobs, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("look for the outstanding jobs of %s: %w", owner, err)
	}
	return jobs, nil
}

// Erase destroys the key of an owner, who is closed and has no outstanding jobs:
// nothing that he wrote can be read again.
func (s *Store) Erase(ctx context.Context, owner uuid.UUID) error {
	return s.vault.Erase(ctx, s.pool, owner)
}
