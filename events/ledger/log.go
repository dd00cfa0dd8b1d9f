package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/tlog"

	"colophon/events/receipt"
	"colophon/internal/errcode"
)

var (
	// ErrNoCheckpoint occurs while the log has no checkpoint: no event has an index yet, or
	// no process signs.
	ErrNoCheckpoint = errcode.New("no_checkpoint", "the log has no checkpoint yet")

	// ErrNoTile occurs for a tile that the last checkpoint does not contain.
	ErrNoTile = errcode.New("no_such_tile", "the log has no such tile")
)

// Log reads what the log has published. It is safe for concurrent use.
type Log struct {
	pool   *pgxpool.Pool
	latest atomic.Pointer[latest]
}

// latest is the size of the latest checkpoint, and when it was read.
type latest struct {
	size int64
	at   time.Time
}

// latestFor is the time for which the size of the latest checkpoint is used again. The size
// shrinks when the database is restored.
const latestFor = time.Second

// NewLog returns a reader of the log.
func NewLog(pool *pgxpool.Pool) *Log { return &Log{pool: pool} }

// Checkpoint returns the latest checkpoint, as a signed note of c2sp.org/tlog-checkpoint. It
// returns ErrNoCheckpoint if there is none.
func (l *Log) Checkpoint(ctx context.Context) (string, error) {
	var size int64
	var note string
	err := l.pool.QueryRow(ctx, `
		select size, note from log_checkpoints
		where origin = (select name from log_origins order by n desc limit 1)
		order by size desc, n desc limit 1`).Scan(&size, &note)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", ErrNoCheckpoint
	}
	if err != nil {
		return "", fmt.Errorf("read the latest checkpoint: %w", err)
	}
	l.latest.Store(&latest{size, time.Now()})
	return note, nil
}

// Keys returns the public keys that sign the log's checkpoints, the newest first, in the
// form NAME+HASH+KEY. It returns ErrNoCheckpoint if there are none.
func (l *Log) Keys(ctx context.Context) ([]string, error) {
	rows, _ := l.pool.Query(ctx, `
		select origin, public from log_keys
		where origin = (select name from log_origins order by n desc limit 1) and (retired_at is null or retired_at > clock_timestamp())
		order by created_at desc`)
	keys, err := collectKeys(rows)
	if err != nil {
		return nil, fmt.Errorf("read the log's keys: %w", err)
	}
	if len(keys) == 0 {
		return nil, ErrNoCheckpoint
	}
	return keys, nil
}

// collectKeys returns public keys in the form NAME+HASH+KEY. The rows have a name and a key.
func collectKeys(rows pgx.Rows) ([]string, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var origin string
		var public []byte
		if err := row.Scan(&origin, &public); err != nil {
			return "", err
		}
		return verifierKey(origin, public)
	})
}

// Tile returns the hashes of a tile of c2sp.org/tlog-tiles, one after another. The tile has
// the number n in its level, and width is 1 to 256. Tile returns ErrNoTile if the latest
// checkpoint does not contain all hashes. The hashes never change.
func (l *Log) Tile(ctx context.Context, level int, n int64, width int) ([]byte, error) {
	if err := l.published(ctx, level, n, width); err != nil {
		return nil, err
	}
	hashes, err := readLevel(ctx, l.pool, level, n*tileWidth, n*tileWidth+int64(width))
	if err != nil {
		return nil, fmt.Errorf("read tile %d of level %d: %w", n, level, err)
	}
	tile := make([]byte, 0, len(hashes)*tlog.HashSize)
	for _, hash := range hashes {
		tile = append(tile, hash[:]...)
	}
	return tile, nil
}

// Entries returns the entries of a tile of level 0, as an entry bundle of
// c2sp.org/tlog-tiles: each has 32 bytes and its length before it. An entry is the SHA-256
// of an event's payload. The errors are those of Tile.
func (l *Log) Entries(ctx context.Context, n int64, width int) ([]byte, error) {
	if err := l.published(ctx, 0, n, width); err != nil {
		return nil, err
	}
	entries, err := readEntries(ctx, l.pool, n*tileWidth, n*tileWidth+int64(width))
	if err != nil {
		return nil, fmt.Errorf("read entry bundle %d: %w", n, err)
	}
	bundle := make([]byte, 0, len(entries)*(2+tlog.HashSize))
	for _, entry := range entries {
		bundle = binary.BigEndian.AppendUint16(bundle, tlog.HashSize)
		bundle = append(bundle, entry[:]...)
	}
	return bundle, nil
}

// published returns ErrNoTile unless the latest checkpoint contains the tile.
func (l *Log) published(ctx context.Context, level int, n int64, width int) error {
	if level < 0 || level > maxLevel || n < 0 || width < 1 || width > tileWidth {
		return ErrNoTile
	}
	within := func() bool {
		known := l.latest.Load()
		if known == nil || time.Since(known.at) > latestFor {
			return false
		}
		nodes := known.size >> (level * tileHeight) // nodes of the level
		return n <= nodes/tileWidth && n*tileWidth+int64(width) <= nodes
	}
	if within() {
		return nil
	}
	_, err := l.Checkpoint(ctx)
	if err == nil && !within() || errors.Is(err, ErrNoCheckpoint) {
		return ErrNoTile
	}
	return err
}

// maxLevel is the highest level of a tile: a tree of 2^63 entries has no higher one.
const maxLevel = 7

// tree reads the hashes of a tree of the given size. It implements tlog.HashReader, and is
// not safe for concurrent use. It reads each tile once.
type tree struct {
	ctx   context.Context //nolint:containedctx // the interface of x/mod has no context
	db    querier
	size  int64
	tiles map[tileID][]tlog.Hash
}

type tileID struct {
	level int
	n     int64
}

func newTree(ctx context.Context, db querier, size int64) *tree {
	return &tree{ctx, db, size, map[tileID][]tlog.Hash{}}
}

// ReadHashes returns hashes by their indexes in the order of x/mod.
func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		// The hash is the root of a subtree of a tile, which has 2^height hashes.
		id, height := tileID{level: level / tileHeight}, level%tileHeight
		first := n << height
		id.n = first / tileWidth
		tile, err := t.tile(id)
		if err != nil {
			return nil, err
		}
		first -= id.n * tileWidth
		hashes[i] = root(tile[first : first+1<<height])
	}
	return hashes, nil
}

func (t *tree) tile(id tileID) ([]tlog.Hash, error) {
	if hashes, ok := t.tiles[id]; ok {
		return hashes, nil
	}
	from := id.n * tileWidth
	hashes, err := readLevel(t.ctx, t.db, id.level, from, min(from+tileWidth, t.size>>(id.level*tileHeight)))
	if err == nil {
		t.tiles[id] = hashes
	}
	return hashes, err
}

// hash returns the root of the tree.
func (t *tree) hash() (tlog.Tree, error) {
	hash, err := tlog.TreeHash(t.size, t)
	return tlog.Tree{N: t.size, Hash: hash}, err
}

// proof returns the proof that the tree begins with a smaller tree of the given size. It is
// empty for a size of 0.
func (t *tree) proof(size int64) (tlog.TreeProof, error) {
	if size == 0 {
		return nil, nil
	}
	return tlog.ProveTree(t.size, size, t)
}

// continues returns ErrForked unless the tree of a checkpoint begins with the tree of an
// earlier one.
func (t *tree) continues(now tlog.Tree, earlier receipt.Checkpoint) error {
	if earlier.Size > now.N {
		return fmt.Errorf("%w: it has %d events, and %d events were signed", ErrForked, now.N, earlier.Size)
	}
	proof, err := t.proof(earlier.Size)
	if err != nil || earlier.Size == 0 { // each tree begins with the empty one
		return err
	}
	if tlog.CheckTree(proof, now.N, now.Hash, earlier.Size, earlier.Root) != nil {
		return fmt.Errorf("%w: its first %d events are not those that were signed", ErrForked, earlier.Size)
	}
	return nil
}
