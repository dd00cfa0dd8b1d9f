// Package periodic runs background work at intervals.
package periodic

import (
	"context"
	"log/slog"
	"time"
)

// Run calls fn once per interval until ctx is done. The first call comes after one
// interval. Calls do not overlap: one that takes longer than the interval delays the next.
// When fn returns an error, Run logs a warning with the message failure and continues. It
// logs nothing once ctx is done.
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
