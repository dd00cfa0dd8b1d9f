package ledger

import (
	"context"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/tlog"

	"colophon/events"
	"colophon/events/receipt"
)

// SetLimit sets the maximum number of events that one pass adds.
func (s *Sequencer) SetLimit(events int) { s.limit = events }

// SetBeforeCommit sets a function that each pass calls before its commit, with the number of
// events that it adds. If the function returns an error, the pass is rolled back.
func (s *Sequencer) SetBeforeCommit(fn func(added int) error) { s.beforeCommit = fn }

// SetPool sets another pool, as a connection string with several hosts leads to another
// server.
func (s *Sequencer) SetPool(pool *pgxpool.Pool) { s.pool = pool }

// VerifyIn is Verify in a transaction of the caller.
func VerifyIn(ctx context.Context, tx pgx.Tx, store *events.Store, signed []receipt.Checkpoint) (*Audit, error) {
	a := &auditor{store: store, signed: signed}
	err := a.verify(ctx, tx)
	return &a.audit, err
}

// StoredHashes is an oracle: the hashes of a tree as x/mod stores them.
type StoredHashes []tlog.Hash

func (s StoredHashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		hashes[i] = s[index]
	}
	return hashes, nil
}

// Err returns the error of the last call of Sign by Run, or nil.
func (s *Signer) Err() error {
	if err := s.refused.Load(); err != nil {
		return *err
	}
	return nil
}

// EndedJobsIn is EndedJobs with another number of entries that one query reads.
func EndedJobsIn(ctx context.Context, l *Log, since time.Time, window int64) iter.Seq2[EndedJob, error] {
	return l.endedJobs(ctx, since, window)
}
