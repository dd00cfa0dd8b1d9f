package api

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestStreamsExpireByTheClockAsItIs sets the clock by which a stream expires while the
// stream lasts. The stream must end when the clock as it then is reaches the time of expiry,
// or within an interval of the moment at which it was set beyond.
func TestStreamsExpireByTheClockAsItIs(t *testing.T) {
	t.Parallel()
	const lifetime, every, set = time.Minute, 10 * time.Second, 25 * time.Second
	for name, c := range map[string]struct{ step, want time.Duration }{
		"not set":                   {0, lifetime},
		"set back":                  {-20 * time.Second, lifetime + 20*time.Second},
		"corrected by a hair":       {-time.Microsecond, lifetime + time.Microsecond},
		"set forward":               {20 * time.Second, lifetime - 20*time.Second},
		"set forward beyond expiry": {time.Hour, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				now := func() time.Time {
					if time.Since(begin) < set {
						return time.Now()
					}
					return time.Now().Add(c.step)
				}
				ctx, stop := untilExpired(t.Context(), begin.Add(lifetime), now, every)
				defer stop()
				<-ctx.Done()
				if took, cause := time.Since(begin), context.Cause(ctx); took != c.want || !errors.Is(cause, errExpired) {
					t.Errorf("ended after %v with %v, want %v", took, cause, c.want)
				}
			})
		})
	}
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := untilExpired(t.Context(), time.Now().Add(lifetime), time.Now, every)
			stop()
			<-ctx.Done()
			if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
				t.Errorf("ended with %v", cause)
			}
		})
	})
}
