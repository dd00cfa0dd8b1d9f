package ledger

import (
	"context"
	"fmt"
	"math/bits"
	"slices"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"
)

// The tree is stored by complete subtrees of 256^level entries, as the tiles of
// c2sp.org/tlog-tiles contain them. A subtree of level 1 has 256 entries, a subtree of level
// 2 has 256 subtrees of level 1, and so on. Its hash never changes.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

// grow stores the subtrees that become complete when the entries are added to a tree of the
// given size.
func grow(ctx context.Context, tx pgx.Tx, size int64, entries []tlog.Hash) error {
	if size/tileWidth == (size+int64(len(entries)))/tileWidth {
		return nil // no subtree becomes complete
	}
	edge, err := readEdge(ctx, tx, size)
	if err != nil {
		return err
	}
	var batch pgx.Batch
	for i, entry := range entries {
		edge.add(size+int64(i), tlog.RecordHash(entry[:]), func(level int, n int64, hash tlog.Hash) {
			batch.Queue(`insert into log_nodes (level, n, hash) values ($1, $2, $3)`, level, n, hash[:])
		})
	}
	return tx.SendBatch(ctx, &batch).Close()
}

// edge contains the hashes at the right edge of a tree. edge[0] contains the leaves after the
// last complete subtree of level 1, edge[1] the subtrees of level 1 after the last complete
// one of level 2, and so on. Each level has fewer than 256 hashes.
type edge [][]tlog.Hash

// readEdge reads the edge of a tree of the given size.
func readEdge(ctx context.Context, tx pgx.Tx, size int64) (edge, error) {
	var e edge
	for level, n := 0, size; n > 0; level, n = level+1, n/tileWidth {
		hashes, err := readLevel(ctx, tx, level, n-n%tileWidth, n)
		if err != nil {
			return nil, err
		}
		e = append(e, hashes)
	}
	return e, nil
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// readLevel returns the hashes of a level with the numbers from ≤ n < to. Level 0 has the
// hashes of the leaves.
func readLevel(ctx context.Context, db querier, level int, from, to int64) ([]tlog.Hash, error) {
	if level == 0 {
		hashes, err := readEntries(ctx, db, from, to)
		for i, entry := range hashes {
			hashes[i] = tlog.RecordHash(entry[:])
		}
		return hashes, err
	}
	rows, _ := db.Query(ctx, `select hash from log_nodes where level = $1 and n >= $2 and n < $3 order by n`, level, from, to)
	return collectHashes(rows, level, from, to)
}

// readEntries returns the entries with the indexes from ≤ idx < to.
func readEntries(ctx context.Context, db querier, from, to int64) ([]tlog.Hash, error) {
	rows, _ := db.Query(ctx, `select hash from log_entries where idx >= $1 and idx < $2 order by idx`, from, to)
	return collectHashes(rows, 0, from, to)
}

func collectHashes(rows pgx.Rows, level int, from, to int64) ([]tlog.Hash, error) {
	hashes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (hash tlog.Hash, err error) {
		var stored []byte
		err = row.Scan(&stored)
		copy(hash[:], stored) // the database checks the length
		return hash, err
	})
	if err == nil && int64(len(hashes)) != to-from {
		err = fmt.Errorf("the log's tree has %d hashes of level %d from %d to %d", len(hashes), level, from, to)
	}
	return hashes, err
}

// add adds the hash of the i-th leaf. It calls complete for each subtree that becomes
// complete.
func (e *edge) add(i int64, hash tlog.Hash, complete func(level int, n int64, hash tlog.Hash)) {
	for level := 0; ; level, i = level+1, i/tileWidth {
		if level == len(*e) {
			*e = append(*e, nil)
		}
		(*e)[level] = append((*e)[level], hash)
		if len((*e)[level]) < tileWidth {
			return
		}
		hash = root((*e)[level])
		complete(level+1, i/tileWidth, hash)
		(*e)[level] = nil
	}
}

// hash returns the root of the tree that has this edge. The tree must not be empty.
func (e edge) hash() tlog.Hash {
	// The tree consists of complete subtrees of decreasing sizes. Each node to the right of
	// one has all smaller ones below it.
	var subtrees []tlog.Hash
	for _, hashes := range slices.Backward(e) {
		for len(hashes) > 0 {
			n := 1 << (bits.Len(uint(len(hashes))) - 1)
			subtrees, hashes = append(subtrees, root(hashes[:n])), hashes[n:]
		}
	}
	hash := subtrees[len(subtrees)-1]
	for i := len(subtrees) - 2; i >= 0; i-- {
		hash = tlog.NodeHash(subtrees[i], hash)
	}
	return hash
}

// root returns the root of the hashes, whose number is a power of two.
func root(hashes []tlog.Hash) tlog.Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return tlog.NodeHash(root(hashes[:half]), root(hashes[half:]))
}
