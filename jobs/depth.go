package jobs

import (
	"context"
	"sync"
	"time"
)

// maxCountAge is the age after which the queued jobs are counted again.
const maxCountAge = time.Second

// depthLimit limits the number of queued jobs. It counts the queued jobs at most once a
// second, and not at each submit. To this count it adds the jobs that this process has
// queued since the count. It does not subtract the jobs that have started since the
// count.
//
// So one process alone never exceeds the limit. Several processes together may exceed
// the limit by the number of jobs that the other processes queue within a second.
type depthLimit struct {
	limit int // maximum number of queued jobs, or 0 for no limit
	count func(ctx context.Context, limit int) (int, error)

	mu      sync.Mutex
	counted int
	at      time.Time // time of the count
	added   int       // number of reservations made since the count, plus the reservations open at the count
	open    int       // number of reservations that are not settled
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
	}
}
