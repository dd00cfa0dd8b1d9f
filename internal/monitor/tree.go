package monitor

import "golang.org/x/mod/sumdb/tlog"

// tree is a Merkle tree that grows at its right edge. It keeps the last complete subtree of
// each height, which is all that package tlog reads to continue the tree and to compute its
// root. It implements tlog.HashReader for these.
type tree struct {
	size int64
	last [64]tlog.Hash
}

// add adds a leaf. It returns the hashes of the subtrees that become complete, by height. The
// first one is the leaf.
func (t *tree) add(leaf tlog.Hash) ([]tlog.Hash, error) {
	complete, err := tlog.StoredHashesForRecordHash(t.size, leaf, t)
	if err != nil {
		return nil, err
	}
	copy(t.last[:], complete)
	t.size++
	return complete, nil
}

func (t *tree) root() (tlog.Hash, error) { return tlog.TreeHash(t.size, t) }

// ReadHashes returns hashes by their indexes in the order of x/mod.
func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		level, _ := tlog.SplitStoredHashIndex(index)
		hashes[i] = t.last[level]
	}
	return hashes, nil
}
