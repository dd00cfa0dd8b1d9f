package jobs

import (
	"context"
	"sync"
)

// depthLimit limits the number of queued jobs. To be cheap, it does not count the jobs at
// each submit, but when the queue refreshes its snapshot. To this count it adds the jobs
// that this process has queued since. It does not subtract the jobs that have started
// since.
//
// So one process alone never exceeds the limit. Several processes may exceed the limit by
// the number of jobs that the other processes queue between two counts.
type depthLimit struct {
	limit int // maximum number of queued jobs, or 0 for no limit

	known chan struct{} // closed after the first count

	mu      sync.Mutex
	counted int
	added   int // reservations that counted may not include; added to counted
	next    int // the value of added when the running count ends
	open    int // number of reservations that are not settled
}

func newDepthLimit(limit int) *depthLimit {
	return &depthLimit{limit: limit, known: make(chan struct{})}
}

// beginCount must be called before the queued jobs are counted. If the count fails, the
// earlier count stays in force.
func (d *depthLimit) beginCount() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next = d.open // the running count may not include the jobs of these reservations
}

// endCount sets the number of queued jobs.
func (d *depthLimit) endCount(queued int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counted, d.added = queued, d.next
	select {
	case <-d.known:
	default:
		close(d.known)
	}
}

// reserve reserves room for one job, or returns ErrQueueFull. It waits for the first count.
// After a reservation the caller must call settle. If yields is set, the room is that of half of
// the limit, so that jobs that can wait leave the other half to those that cannot.
func (d *depthLimit) reserve(ctx context.Context, yields bool) error {
	if d.limit == 0 {
		return nil
	}
	select {
	case <-d.known:
	case <-ctx.Done():
		return ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	limit := d.limit
	if yields {
		limit = (limit + 1) / 2
	}
	if d.counted+d.added >= limit {
		return ErrQueueFull
	}
	d.added++
	d.next++
	d.open++
	return nil
}

// settle ends a reservation. queued reports whether the reserved job was queued.
func (d *depthLimit) settle(queued bool) {
	if d.limit == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	if !queued {
		d.added--
		d.next--
	}
}
