package main

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// counters count what clients meet. They are safe for concurrent use.
type counters struct {
	accepted    atomic.Int64 // submits that were answered with a job
	followed    atomic.Int64 // jobs seen to their end
	resubmitted atomic.Int64 // submits that had to be sent again
	resumed     atomic.Int64 // streams that went on over a new connection
	broken      atomic.Int64 // calls without an answer

	mu       sync.Mutex
	statuses map[int]int // of 500 and more
}

func (c *counters) refused(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.statuses == nil {
		c.statuses = map[int]int{}
	}
	c.statuses[status]++
}

func (c *counters) refusals() map[int]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.statuses)
}

// struck is a blow that has taken effect.
type struck struct {
	blow
	writer string    // the process that it hit, if it hit one
	hit    time.Time // when it took effect
	over   time.Time // when its target was as before
}

// ledger keeps the blows that were dealt, and what went wrong besides. It is safe
// for concurrent use.
type ledger struct {
	mu    sync.Mutex
	blows []struck
	notes []string // what a supervisor had to repair
	kinds map[string]int
}

func (l *ledger) add(s struck) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blows = append(l.blows, s)
}

// dealt counts a blow as soon as it has taken effect.
func (l *ledger) dealt(a act) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kinds == nil {
		l.kinds = map[string]int{}
	}
	l.kinds[a.kind()]++
}

func (l *ledger) counts() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.kinds)
}
