package ledger

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/tlog"
)

// SetLimit sets the maximum number of events that one pass adds.
func (s *Sequencer) SetLimit(events int) { s.limit = events }

// SetBeforeCommit sets a function that each pass calls before its commit, with the number of
// events that it adds. If the function returns an error, the pass is rolled back.
func (s *Sequencer) SetBeforeCommit(fn func(added int) error) { s.beforeCommit = fn }

// SetPool sets another pool, as a connection string with several hosts leads to another
// server.
func (s *Sequencer) SetPool(pool *pgxpool.Pool) { s.pool = pool }

// StoredHashes is an oracle: the hashes of a tree as x/mod stores them.
type StoredHashes []tlog.Hash

func (s StoredHashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		hashes[i] = s[index]
	}
	return hashes, nil
}
