package ledger_test

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"colophon/events/ledger"
	"colophon/events/receipt"
	"colophon/internal/pg/pgtest"
	"colophon/migrations"
)

// Each checkpoint must have the root that x/mod computes from the entries. A client must get
// the same tree from the tiles.
func TestCheckpointsHaveTheRootOfTheEntries(t *testing.T) {
	t.Parallel()
	s := newSigned(t, pgtest.New(t, migrations.Up))
	log := ledger.NewLog(s.App)
	if _, err := log.Checkpoint(t.Context()); !errors.Is(err, ledger.ErrNoCheckpoint) {
		t.Errorf("before the first event: %v", err)
	}
	must(t, s.sign(nil))
	var oracle ledger.StoredHashes
	size := int64(0)
	for _, more := range []int{1, 1, 253, 1, 1, 300, 70_000} {
		s.grow(more)
		size += int64(more)
		c := s.mustSign(size)
		rows, err := s.App.Query(t.Context(), `select payload from events join log_entries using (position) where idx >= $1 order by idx`, size-int64(more))
		must(t, err)
		for i := size - int64(more); rows.Next(); i++ {
			var payload []byte
			must(t, rows.Scan(&payload))
			hash := entry(payload)
			stored, err := tlog.StoredHashes(i, hash[:], oracle)
			must(t, err)
			oracle = append(oracle, stored...)
		}
		must(t, rows.Err())
		if want, err := tlog.TreeHash(size, oracle); err != nil || c.Root != want {
			t.Fatalf("root of %d events: %s, want %s, %v", size, c.Root, want, err)
		}
		audit(t, log, c)
	}
}

// audit reads all entries of a log through its tiles, as a client does.
func audit(t *testing.T, log *ledger.Log, c receipt.SignedCheckpoint) {
	t.Helper()
	reader := tlog.TileHashReader(c.Tree(), tileReader{t, log})
	for first := int64(0); first < c.Size; first += 256 {
		width := int(min(256, c.Size-first))
		bundle, err := log.Entries(t.Context(), first/256, width)
		must(t, err)
		if len(bundle) != width*34 {
			t.Fatalf("entry bundle %d has %d bytes", first/256, len(bundle))
		}
		var indexes []int64
		for i := range width {
			indexes = append(indexes, tlog.StoredHashIndex(0, first+int64(i)))
		}
		hashes, err := reader.ReadHashes(indexes)
		must(t, err)
		for i, hash := range hashes {
			if bundle[34*i] != 0 || bundle[34*i+1] != 32 || tlog.RecordHash(bundle[34*i+2:34*i+34]) != hash {
				t.Fatalf("entry %d has another hash than the tree", first+int64(i))
			}
		}
	}
	for _, tile := range []struct {
		level int
		n     int64
		width int
	}{{0, 0, 0}, {0, 0, 257}, {0, -1, 1}, {-1, 0, 1}, {64, 0, 1}, {0, c.Size / 256, int(c.Size%256) + 1}, {0, 1 << 62, 1}, {3, 0, 1}} {
		if _, err := log.Tile(t.Context(), tile.level, tile.n, tile.width); !errors.Is(err, ledger.ErrNoTile) {
			t.Errorf("tile %+v of %d events: %v", tile, c.Size, err)
		}
	}
}

// tileReader reads tiles as x/mod's clients do.
type tileReader struct {
	t   *testing.T
	log *ledger.Log
}

func (r tileReader) Height() int                         { return 8 }
func (r tileReader) SaveTiles(_ []tlog.Tile, _ [][]byte) {}
func (r tileReader) ReadTiles(tiles []tlog.Tile) (all [][]byte, err error) {
	for _, tile := range tiles {
		data, err := r.log.Tile(r.t.Context(), tile.L, tile.N, tile.W)
		if err != nil {
			return nil, fmt.Errorf("tile %+v: %w", tile, err)
		}
		all = append(all, data)
	}
	return all, nil
}
