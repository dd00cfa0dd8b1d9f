package ledger

// SetLimit sets the maximum number of events that one pass adds.
func (s *Sequencer) SetLimit(events int) { s.limit = events }

// SetBeforeCommit sets a function that each pass calls before its commit, with the number of
// events that it adds. If the function returns an error, the pass is rolled back.
func (s *Sequencer) SetBeforeCommit(fn func(added int) error) { s.beforeCommit = fn }
