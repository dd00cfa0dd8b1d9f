package bench

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLoadIgnoresLateResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		perSecond, err := load{1, 50 * time.Millisecond}.run(t.Context(), func(_ context.Context, _, _ int, count func(int)) error {
			count(3)
			time.Sleep(60 * time.Millisecond)
			count(100) // this result arrives after the load's duration, so it must not count
			calls++
			return nil
		})
		if err != nil || calls != 1 || perSecond != 60 {
			t.Errorf("%d calls, %g per second, %v", calls, perSecond, err)
		}
	})
}

func TestLoadLastsUntilTheFirstResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		perSecond, err := load{2, time.Second}.run(t.Context(), func(_ context.Context, caller, _ int, count func(int)) error {
			count(0)
			time.Sleep(time.Duration(2+caller) * time.Second)
			count(3)
			return nil
		})
		if err != nil || perSecond != 1.5 {
			t.Errorf("%g per second, %v", perSecond, err)
		}
	})
}

func TestErrorEndsTheLoad(t *testing.T) {
	broken := errors.New("broken")
	start := time.Now()
	_, err := load{4, time.Hour}.run(t.Context(), func(ctx context.Context, caller, _ int, _ func(int)) error {
		if caller == 2 {
			return broken
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, broken) || time.Since(start) > time.Minute {
		t.Errorf("%v", err)
	}
}

func TestPercentileRoundsUp(t *testing.T) {
	var l latencies
	if got := l.percentile(0.5); got != 0 {
		t.Errorf("%g without times", got)
	}
	for i := range 100 {
		l.add(time.Duration(100-i) * time.Millisecond)
	}
	if p50, p99, most := l.percentile(0.5), l.percentile(0.99), l.percentile(1); p50 != 51 || p99 != 100 || most != 100 {
		t.Errorf("%g, %g and %g", p50, p99, most)
	}
}

func TestOutOfOrderIsTheLargestDistance(t *testing.T) {
	want := []string{"a", "b", "c", "d"}
	for _, c := range []struct {
		got  string
		want int
	}{{"abcd", 0}, {"bacd", 1}, {"dabc", 3}} {
		if n, err := outOfOrder(strings.Split(c.got, ""), want); n != c.want || err != nil {
			t.Errorf("%s: %d, %v", c.got, n, err)
		}
	}
	if _, err := outOfOrder([]string{"x"}, want); err == nil {
		t.Error("an unknown string has a position")
	}
}

func TestMedianIsTheMiddleTime(t *testing.T) {
	if got := median([]time.Duration{5, 1, 9, 2, 3}); got != 3 {
		t.Errorf("%d", got)
	}
}
