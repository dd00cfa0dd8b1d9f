package main

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// counters count calls and jobs of all clients. They are safe for concurrent use.
type counters struct {
	accepted    atomic.Int64 // requests that were answered with a job
	followed    atomic.Int64 // jobs followed to the end
	resubmitted atomic.Int64 // requests for a job that had to be sent again
	resumed     atomic.Int64 // streams that continued on a new connection
	broken      atomic.Int64 // calls without an answer

	mu       sync.Mutex
	statuses map[int]int // number of answers for each status from 500
}

func (c *counters) addStatus(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.statuses == nil {
		c.statuses = map[int]int{}
	}
	c.statuses[status]++
}

func (c *counters) statusCounts() map[int]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.statuses)
}

// injectedFault is a fault that has taken effect.
type injectedFault struct {
	fault
	writer     string    // name of the affected process; empty for a connection or Postgres
	injectedAt time.Time // time when the fault took effect
	endedAt    time.Time // time when the target of the fault worked again
}

// faultLog keeps the injected faults and the failed starts. It is safe for concurrent use.
type faultLog struct {
	mu     sync.Mutex
	faults []injectedFault // faults that have ended
	kinds  map[string]int  // number of faults by kind, including faults that have not ended
	notes  []string        // descriptions of failed starts, and kinds of faults that the run lacked
}

func (l *faultLog) add(f injectedFault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, f)
}

// count counts a fault when it takes effect.
func (l *faultLog) count(f fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kinds == nil {
		l.kinds = map[string]int{}
	}
	l.kinds[f.kind()]++
}

func (l *faultLog) counts() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.kinds)
}
