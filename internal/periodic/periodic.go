// Package periodic runs background work at intervals.
package periodic

import (
	"context"
	"log/slog"
	"time"
)

// Run calls fn once per interval until ctx is done, first after one interval. A call that takes longer delays the next one; calls do not overlap.
// If fn returns an error, Run logs a warning with the message failure, unless ctx
// is done, and goes on.
func Run(ctx context.Context, interval time.Duration, log *slog.Logger, failure string, fn func(context.Context) error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := fn(ctx); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, failure, "err", err)
		}
	}
}
