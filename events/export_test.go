package events

import "time"

// SetClaimWait sets how long a claim waits for an uncommitted claim of the same key.
func (s *Store) SetClaimWait(wait time.Duration) { s.claimWait = wait }

// SetListenCheck sets how long the listening connection may be silent before it is
// checked, and how long a check may take. Call it before Run.
func (s *Store) SetListenCheck(silence, timeout time.Duration) {
	s.listenCheck, s.listenCheckTimeout = silence, timeout
}
