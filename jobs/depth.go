package jobs

import (
	"context"
	"sync"
	"time"
)

// countMaxAge is the maximum age of a count of the queue.
const countMaxAge = time.Second

// depth limits the number of queued jobs without counting them for each submit. It
// counts them once a second and adds the jobs that this process has queued since.
// It does not subtract the jobs started since.
//
// So one process never exceeds the limit. Several processes may exceed it together,
// by the number of jobs that the others queue within a second.
type depth struct {
	limit int // 0 is no limit
	count func(ctx context.Context, limit int) (int, error)

	mu      sync.Mutex
	counted int
	at      time.Time // of the count
	added   int       // reservations since the count, and those open at the count
	open    int       // reservations that are not settled
}

// reserve reserves room for one job, or returns ErrQueueFull. The caller must then
// call settle.
func (d *depth) reserve(ctx context.Context) error {
	if d.limit == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.at) >= countMaxAge {
		n, err := d.count(ctx, d.limit)
		if err != nil {
			return err
		}
		d.counted, d.added, d.at = n, d.open, time.Now()
	}
	if d.counted+d.added >= d.limit {
		return ErrQueueFull
	}
	d.added++
	d.open++
	return nil
}

// settle ends a reservation. queued says whether its job was queued.
func (d *depth) settle(queued bool) {
	if d.limit == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	if !queued {
		d.added--
	}
}
