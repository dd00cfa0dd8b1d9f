package events

import (
	"context"
	"time"
)

// SetClaimWait sets the maximum time for which a claim waits for an uncommitted claim of
// the same key.
func (s *Store) SetClaimWait(wait time.Duration) { s.claimWait = wait }

// SetListenCheck sets the time for which the listening connection may be silent before
// it is checked, and the timeout of the check. Call it before Run.
func (s *Store) SetListenCheck(silence, timeout time.Duration) {
	s.listenCheck, s.listenCheckTimeout = silence, timeout
}

// SetSyncEvery sets the interval between two reads of the database's clock. Call it
// before Run.
func (s *Store) SetSyncEvery(interval time.Duration) { s.syncEvery = interval }

// SetRebuildBatch sets the number of streams that a rebuild reads in one snapshot.
func (s *Store) SetRebuildBatch(streams int) { s.rebuildBatch = streams }

// SetEmptyBatch sets the number of events or rows whose ciphertext one statement empties.
func (s *Store) SetEmptyBatch(events int) { s.emptyBatch = events }

// SetKeyWait sets the time for which a replacement of a data key waits for processes that have
// the earlier key in memory.
func (s *Store) SetKeyWait(wait time.Duration) { s.keyWait = wait }

// FeedQuery is the query of Feed.
const FeedQuery = feedQuery

// ListQuery and UsageQuery are the queries of Jobs and of UsageByDay.
const (
	ListQuery  = listQuery
	UsageQuery = usageQuery
)

// ListArgs and UsageArgs return the arguments of ListQuery and of UsageQuery.
var (
	ListArgs  = listArgs
	UsageArgs = usageArgs
)

// ForgetDeliveriesBeyond is ForgetDeliveries with another number of messages of a webhook.
func (s *Store) ForgetDeliveriesBeyond(ctx context.Context, most int) error {
	return s.forgetDeliveries(ctx, most)
}
