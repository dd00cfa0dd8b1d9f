package events

import "time"

// SetClaimWait shortens the wait of a claim for an uncommitted one.
func (s *Store) SetClaimWait(wait time.Duration) { s.claimWait = wait }

// SetListenCheck shortens the silence after which the listening connection is
// checked, and the time that a check may take. Call it before Run.
func (s *Store) SetListenCheck(silence, timeout time.Duration) {
	s.listenCheck, s.listenCheckTimeout = silence, timeout
}
