package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"colophon/events/receipt"
)

// published is a signed checkpoint.
type published struct {
	receipt.SignedCheckpoint
	note   string // the signed note; empty if there is no checkpoint
	stored bool   // the database has the note
}

// last returns the last checkpoint in the database. It returns ErrForked if no known key has
// signed that row. The service's login may insert such a row, and last does not look behind it
// for three reasons:
//
//   - The row may be a real checkpoint, of a key that this process cannot open. Then the log
//     may have been signed further than any row behind it says.
//   - It shows that somebody uses the service's login. They could as well insert a new name or
//     retire the keys, so that going on would not stop them, and would hide them.
//   - Waiting for the operator loses nothing. Jobs go on, and once the row is removed, one
//     checkpoint covers all events since.
func (k *Keys) last(ctx context.Context, keys *keySet) (p published, err error) {
	err = k.pool.QueryRow(ctx, `select note from log_checkpoints where origin = $1 order by size desc, n desc limit 1`, keys.name).Scan(&p.note)
	if errors.Is(err, pgx.ErrNoRows) {
		return published{}, nil
	}
	if err != nil {
		return p, fmt.Errorf("read the latest checkpoint: %w", err)
	}
	p.stored = true
	if p.SignedCheckpoint, err = receipt.OpenCheckpoint(p.note, keys.verifiers...); err != nil {
		return p, fmt.Errorf("%w: the last checkpoint in the database is not the log's: %w", ErrForked, err)
	}
	return p, nil
}

// Latest returns the latest checkpoint of the database, after it has verified its signatures.
// Without trusted keys, it takes those that the master key has sealed: nobody can have signed
// the checkpoint who had the rights of the database's owner but no master key. It returns nil
// if there is none, and [ErrForked] if it is not the log's.
func (k *Keys) Latest(ctx context.Context, trusted receipt.Keys) (*receipt.SignedCheckpoint, error) {
	keys, err := k.load(ctx)
	if errors.Is(err, ErrNoCheckpoint) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if trusted != nil {
		keys.verifiers = trusted
	}
	last, err := k.last(ctx, keys)
	if err != nil || !last.stored {
		return nil, err
	}
	return &last.SignedCheckpoint, nil
}

// LastPublished returns the last checkpoint of the newest name that has one, without
// verifying it. It returns nil if there is none.
func (l *Log) LastPublished(ctx context.Context) (*receipt.Checkpoint, error) {
	var signed string
	err := l.pool.QueryRow(ctx, `
		select note from log_checkpoints join log_origins on log_origins.name = origin
		order by log_origins.n desc, size desc, log_checkpoints.n desc limit 1`).Scan(&signed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the last checkpoint: %w", err)
	}
	text, _, err := receipt.CutSignatures(signed)
	if err != nil {
		return nil, err
	}
	c, err := receipt.ParseCheckpoint(text)
	return &c, err
}
