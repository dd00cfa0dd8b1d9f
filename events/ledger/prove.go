package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"colophon/events/receipt"
)

// notCovered is the type of ErrNotCovered.
type notCovered struct{}

func (notCovered) Error() string             { return "no signed checkpoint of the log contains the events yet" }
func (notCovered) Code() string              { return "not_in_checkpoint" }
func (notCovered) RetryAfter() time.Duration { return 2 * time.Second }

// ErrNotCovered occurs when the latest checkpoint does not contain an event. A later one
// will, if a process signs the log.
var ErrNotCovered error = notCovered{}

// Proof shows that the log contains events of a stream.
type Proof struct {
	Checkpoint string                    // signed note
	Keys       []string                  // keys of the log that have signed it
	Inclusions map[int]receipt.Inclusion // by version
}

// Prove returns a proof that the latest checkpoint contains the given versions of a stream.
// It returns ErrNotCovered if the checkpoint does not contain them all.
func (l *Log) Prove(ctx context.Context, stream string, versions []int) (*Proof, error) {
	signed, err := l.Checkpoint(ctx)
	if errors.Is(err, ErrNoCheckpoint) {
		return nil, ErrNotCovered
	}
	if err != nil {
		return nil, err
	}
	c, keys, err := l.open(ctx, signed)
	if err != nil {
		return nil, fmt.Errorf("prove events of %s: %w", stream, err)
	}
	p := &Proof{signed, keys, map[int]receipt.Inclusion{}}
	rows, _ := l.pool.Query(ctx, `
		select version, idx, hash from events join log_entries using (position)
		where stream = $1 and version = any($2) and idx < $3`, stream, versions, c.Size)
	t := newTree(ctx, l.pool, c.Size)
	type event struct {
		Version int
		Index   int64
		Hash    []byte
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[event])
	for _, e := range found {
		if err == nil {
			p.Inclusions[e.Version], err = t.include(c.Tree(), e.Index, e.Hash)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("prove events of %s: %w", stream, err)
	}
	if len(found) != len(versions) {
		return nil, ErrNotCovered
	}
	return p, nil
}

// open opens a checkpoint of the database. It returns the keys of the log that have signed
// it.
func (l *Log) open(ctx context.Context, signed string) (c receipt.SignedCheckpoint, signers []string, err error) {
	rows, _ := l.pool.Query(ctx, `
		select origin, public from log_keys
		where origin = (select name from log_origins order by n desc limit 1) order by created_at desc`)
	vkeys, err := collectKeys(rows)
	if err != nil {
		return c, nil, err
	}
	keys, err := receipt.ParseKeys(strings.Join(vkeys, "\n"))
	if err != nil {
		return c, nil, err
	}
	c, err = receipt.OpenCheckpoint(signed, keys...)
	for _, key := range keys {
		if c.SignedBy(key) {
			signers = append(signers, key.String())
		}
	}
	return c, signers, err
}

// include returns the proof that the tree contains an entry. It checks the proof, so a
// damaged tree is an error and not a wrong receipt.
func (t *tree) include(now tlog.Tree, index int64, entry []byte) (receipt.Inclusion, error) {
	hashes, err := tlog.ProveRecord(now.N, index, t)
	if err == nil {
		err = tlog.CheckRecord(hashes, now.N, now.Hash, index, tlog.RecordHash(entry))
	}
	if err != nil {
		return receipt.Inclusion{}, fmt.Errorf("entry %d: %w", index, err)
	}
	if hashes == nil {
		hashes = tlog.RecordProof{} // the log has one entry; nil would be null in JSON
	}
	return receipt.Inclusion{Index: index, Hashes: hashes}, nil
}
