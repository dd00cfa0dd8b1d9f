package events

import "time"

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
