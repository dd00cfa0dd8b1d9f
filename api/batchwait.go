package api

import (
	"maps"
	"time"

	"github.com/google/uuid"

	"colophon/events"
)

// longestWait is the longest time between two tries of a line that waits for a token budget.
const longestWait = 30 * time.Second

// budgetWait says when to try a line again that waits for a token budget.
type budgetWait struct {
	until time.Time
	pause time.Duration // before the next try
}

// budgetWaits are the waits of batches. Each process has its own. A budget grows at midnight, and
// when a job ends that used less than it reserved. The process that records the end of a line
// also ends the wait of its batch. Other processes, and the other batches of the owner, do not hear of
// it. So a line is also tried at growing intervals of up to longestWait.
type budgetWaits map[uuid.UUID]budgetWait

// add makes a batch wait after a try at the time now. The budgets of the next day begin after the
// duration midnight, which ends every wait.
func (w budgetWaits) add(batch uuid.UUID, now time.Time, midnight time.Duration) {
	pause := min(max(2*w[batch].pause, 2*batchesEvery), longestWait)
	w[batch] = budgetWait{now.Add(min(pause, midnight)), pause}
}

// waiting reports whether a batch waits at the time now.
func (w budgetWaits) waiting(batch uuid.UUID, now time.Time) bool { return now.Before(w[batch].until) }

// keep forgets all batches but the open ones.
func (w budgetWaits) keep(open []events.OpenBatch) {
	ids := make(map[uuid.UUID]bool, len(open))
	for _, b := range open {
		ids[b.ID] = true
	}
	maps.DeleteFunc(w, func(id uuid.UUID, _ budgetWait) bool { return !ids[id] })
}
