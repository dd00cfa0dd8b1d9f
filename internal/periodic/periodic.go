// Package periodic runs background work at intervals.
package periodic

import (
	"context"
	"log/slog"
	"time"
)

// Run calls fn once per interval until ctx is done. The first call begins after one
// interval. Calls do not overlap. A call that takes longer than the interval delays the
// next call. When fn returns an error, Run logs a warning with the given message and
// continues. After ctx is done, Run logs nothing.
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
