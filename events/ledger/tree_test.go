package ledger

import (
	"encoding/binary"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// TestCompleteSubtreesHaveTheHashesOfTheTree adds more than 256² leaves. Each complete
// subtree must have the hash that x/mod computes for its root.
func TestCompleteSubtreesHaveTheHashesOfTheTree(t *testing.T) {
	const leaves = 256*256 + 256 + 1
	var oracle StoredHashes
	var e edge
	complete := map[int]int64{}
	for i := range int64(leaves) {
		entry := binary.BigEndian.AppendUint64(nil, uint64(i))
		more, err := tlog.StoredHashes(i, entry, oracle)
		if err != nil {
			t.Fatal(err)
		}
		oracle = append(oracle, more...)
		e.add(i, tlog.RecordHash(entry), func(level int, n int64, hash tlog.Hash) {
			if n != complete[level] {
				t.Errorf("subtree %d of level %d, want %d", n, level, complete[level])
			}
			complete[level]++
			if want := oracle[tlog.StoredHashIndex(tileHeight*level, n)]; hash != want {
				t.Errorf("subtree %d of level %d has the hash %s, want %s", n, level, hash, want)
			}
		})
	}
	for _, size := range []int64{1, 2, 3, 255, 256, 257, 511, 512, 1000, 65535, 65536, 65537, leaves} {
		var small edge
		for i := range size {
			small.add(i, oracle[tlog.StoredHashIndex(0, i)], func(int, int64, tlog.Hash) {})
		}
		if want, err := tlog.TreeHash(size, oracle); err != nil || small.hash() != want {
			t.Errorf("the root of %d leaves is %s, want %s, %v", size, small.hash(), want, err)
		}
	}
	if complete[1] != 257 || complete[2] != 1 || len(complete) != 2 {
		t.Errorf("complete subtrees by level: %v, want 257 and 1", complete)
	}
	for level, want := range []int{1, 1, 1} {
		if len(e[level]) != want {
			t.Errorf("the edge has %d hashes of level %d, want %d", len(e[level]), level, want)
		}
	}
}
