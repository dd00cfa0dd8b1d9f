package monitor

import (
	"context"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"colophon/events/receipt"
)

// ahead is the number of bundles that an audit fetches before it needs them.
const ahead = 8

// Fault is something that the server shows and that contradicts a checkpoint, or another
// file of the same server.
type Fault struct {
	Index  int64 // index of the first entry to which the fault may belong
	Count  int64 // number of these entries
	Reason string
}

func (f Fault) String() string {
	switch f.Count {
	case 0:
		return f.Reason
	case 1:
		return fmt.Sprintf("entry %d: %s", f.Index, f.Reason)
	}
	return fmt.Sprintf("entries %d to %d: %s", f.Index, f.Index+f.Count-1, f.Reason)
}

// before reports whether f says more than g about where the log is wrong first.
func (f Fault) before(g Fault) bool {
	if f.Count != g.Count {
		return f.Count < g.Count
	}
	return f.Index < g.Index
}

// Audit is the result of an audit.
type Audit struct {
	Entries int64  // number of entries that were fetched
	Tiles   int64  // number of tiles of hashes that were compared
	Faults  int64  // number of faults
	First   *Fault // the fault that says best where the log is wrong first; nil if there is none
}

// auditor is the state of an audit.
type auditor struct {
	log      *Log
	now      receipt.Checkpoint
	earlier  []receipt.Checkpoint
	progress func(done, total int)

	entries tree          // of the entries
	tiles   tree          // of the hashes in the tiles of level 0, once they differ from the entries
	levels  [][]tlog.Hash // hashes since the last complete tile, for the levels from 1 on

	// The tiles of level 0 may differ from the entries. Only the checkpoint tells which of
	// both are right.
	differ      int64
	firstDiffer int64

	audit Audit
}

// Audit checks the log up to a checkpoint. It fetches all entries, computes the tree, and
// compares it with all tiles of hashes, with the checkpoint, and with earlier checkpoints of
// the log. It needs no proofs: it computes the roots of the earlier trees.
//
// An error means that the audit is not complete, because the server did not answer with the
// files of a log. The result then has the faults that were found until then. progress, which
// may be nil, is called in the goroutine of the caller.
func (l *Log) Audit(ctx context.Context, now receipt.Checkpoint, earlier []receipt.Checkpoint, progress func(done, total int)) (*Audit, error) {
	a := &auditor{log: l, now: now, earlier: earlier, progress: progress}
	err := a.run(ctx)
	if err != nil && a.differ > 0 {
		a.fault(Fault{a.firstDiffer, 1, "the hash in the tile of level 0 is not the one of the entry"})
		a.audit.Faults += a.differ - 1
	}
	return &a.audit, err
}

func (a *auditor) fault(f Fault) {
	a.audit.Faults++
	if a.audit.First == nil || f.before(*a.audit.First) {
		a.audit.First = &f
	}
}

func (a *auditor) run(ctx context.Context) error {
	for _, c := range a.earlier {
		if c.Size > a.now.Size {
			a.fault(Fault{Reason: fmt.Sprintf("the log has %d events, and an earlier checkpoint has %d: events are lost or hidden, or a cache answers with an old checkpoint", a.now.Size, c.Size)})
		}
	}
	for c, err := range a.log.chunks(ctx, a.now.Size) {
		if err == nil {
			err = a.add(ctx, c)
		}
		if err != nil {
			return err
		}
		a.audit.Entries = a.entries.size
		a.audit.Tiles++
		if a.progress != nil {
			a.progress(int(a.entries.size), int(a.now.Size))
		}
	}
	for level, hashes := range a.levels { // the last tile of each level may be partial
		if len(hashes) > 0 {
			n := a.now.Size >> ((level + 1) * tileHeight) / tileWidth
			if err := a.compare(ctx, tileID{level + 1, n, len(hashes)}, hashes); err != nil {
				return err
			}
		}
	}
	return a.finish()
}

// add adds the entries of a bundle to the tree, and the hashes of its tile of level 0.
func (a *auditor) add(ctx context.Context, c chunk) error {
	for i, leaf := range c.entries {
		if c.tile[i] != leaf {
			if a.differ == 0 {
				a.firstDiffer, a.tiles = a.entries.size, a.entries
			}
			a.differ++
		}
		complete, err := a.entries.add(leaf)
		if err == nil && a.differ > 0 {
			_, err = a.tiles.add(c.tile[i])
		}
		if err == nil {
			err = a.grow(ctx, complete)
		}
		if err == nil {
			err = a.compareEarlier()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// grow adds the complete subtrees that have the height of a tile or more to the levels from
// 1 on, and compares the tiles that become complete.
func (a *auditor) grow(ctx context.Context, complete []tlog.Hash) error {
	for height := tileHeight; height < len(complete); height += tileHeight {
		level := height / tileHeight
		if len(a.levels) < level {
			a.levels = append(a.levels, nil)
		}
		hashes := append(a.levels[level-1], complete[height])
		if len(hashes) == tileWidth {
			n := a.entries.size>>(height+tileHeight) - 1
			if err := a.compare(ctx, tileID{level, n, tileWidth}, hashes); err != nil {
				return err
			}
			hashes = hashes[:0]
		}
		a.levels[level-1] = hashes
	}
	return nil
}

// compare fetches a tile of a level from 1 on, and compares it with computed hashes.
func (a *auditor) compare(ctx context.Context, t tileID, computed []tlog.Hash) error {
	served, err := a.log.hashes(ctx, t)
	if err != nil {
		return err
	}
	a.audit.Tiles++
	for i, hash := range served {
		if hash != computed[i] {
			height := t.level * tileHeight
			a.fault(Fault{(t.n*tileWidth + int64(i)) << height, 1 << height, fmt.Sprintf("hash %d of %s is not the one of these entries", i, t)})
		}
	}
	return nil
}

// compareEarlier compares the root of the present tree with the earlier checkpoints of its
// size.
func (a *auditor) compareEarlier() error {
	for _, c := range a.earlier {
		if c.Size != a.entries.size {
			continue
		}
		root, err := a.entries.root()
		if err != nil {
			return err
		}
		if root != c.Root {
			a.fault(Fault{0, c.Size, "an earlier checkpoint has signed other ones"})
		}
	}
	return nil
}

// finish compares the root with the checkpoint.
func (a *auditor) finish() error {
	root, err := a.entries.root()
	if err == nil && a.differ > 0 {
		err = a.blame(root)
	}
	switch {
	case err != nil:
		return err
	case root == a.now.Root:
	case a.now.Size == 0:
		a.fault(Fault{Reason: "the checkpoint of an empty log has a wrong root"})
	default:
		a.fault(Fault{0, a.now.Size, "the checkpoint has signed other ones"})
	}
	return nil
}

// blame says which of two files that differ is wrong, if the checkpoint tells. The parameter
// is the root of the entries.
func (a *auditor) blame(fromEntries tlog.Hash) error {
	fromTiles, err := a.tiles.root()
	if err != nil {
		return err
	}
	n := a.firstDiffer / tileWidth
	width := int(min(a.now.Size-n*tileWidth, tileWidth))
	bundle, tile := tileID{entryLevel, n, width}, tileID{0, n, width}
	reason := fmt.Sprintf("%s and %s do not belong together, and the checkpoint has signed neither", bundle, tile)
	switch a.now.Root {
	case fromEntries:
		reason = fmt.Sprintf("the hash in %s is wrong: the checkpoint has signed the entry in %s", tile, bundle)
	case fromTiles:
		reason = fmt.Sprintf("the entry in %s is wrong: the checkpoint has signed the hash in %s", bundle, tile)
	}
	a.fault(Fault{a.firstDiffer, 1, reason})
	a.audit.Faults += a.differ - 1
	return nil
}
