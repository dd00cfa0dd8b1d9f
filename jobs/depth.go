package jobs

import (
	"context"
	"sync"
	"time"
)

// countEvery is how old a count of the queue may be.
const countEvery = time.Second

// depth bounds how many jobs are queued without counting them for each: they
// are counted once a second, and between two counts those that this process
// adds come on top. What has been taken up since is not subtracted, so one
// process never exceeds the limit; several may, together, by what the others
// accept within that second.
type depth struct {
	limit int // 0 is none
	count func(ctx context.Context, limit int) (int, error)

	mu      sync.Mutex
	counted int
	at      time.Time
	added   int // since then, or on their way when it was counted
	onWay   int // entered and not left
}

// enter makes room for a job or returns ErrQueueFull. After it the caller calls
// leave and says whether the job was queued.
func (d *depth) enter(ctx context.Context) error {
	if d.limit == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.at) >= countEvery {
		n, err := d.count(ctx, d.limit)
		if err != nil {
			return err
		}
		d.counted, d.added, d.at = n, d.onWay, time.Now()
	}
	if d.counted+d.added >= d.limit {
		return ErrQueueFull
	}
	d.added++
	d.onWay++
	return nil
}

func (d *depth) leave(queued bool) {
	if d.limit == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.onWay--
	if !queued {
		d.added--
	}
}
