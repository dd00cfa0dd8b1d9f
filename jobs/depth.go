package jobs

import (
	"context"
	"sync"
	"time"
)

// maxCountAge is the age at which a count of the queued jobs is repeated.
const maxCountAge = time.Second

// depthLimit limits the number of queued jobs without counting them for each submit.
// It counts them at most once a second and adds the jobs that this process has queued
// since. It does not subtract the jobs started since.
//
// So one process never exceeds the limit. Several processes may exceed it together,
// by the number of jobs that the others queue within a second.
type depthLimit struct {
	limit int // 0 means no limit
	count func(ctx context.Context, limit int) (int, error)

	mu      sync.Mutex
	counted int
	at      time.Time // of the count
	added   int       // reservations since the count, and those open at the count
	open    int       // reservations that are not settled
}

// reserve reserves room for one job, or returns ErrQueueFull. After a reservation the
// caller must call settle.
func (d *depthLimit) reserve(ctx context.Context) error {
	if d.limit == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.at) >= maxCountAge {
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
func (d *depthLimit) settle(queued bool) {
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
