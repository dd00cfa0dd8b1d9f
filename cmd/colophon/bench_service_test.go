package main

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBenchService(t *testing.T) {
	out, progress, err := command(t, "", "bench", "service", "--quick", "--model", "opticks", "--json")
	if err != nil {
		t.Fatalf("%v\n%s", err, progress)
	}
	var r serviceReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	var callers []int
	for _, row := range r.Rows {
		callers = append(callers, row.Callers)
		if !(row.TokS > 0 && row.Share > 0 && row.FirstP50MS > 0 && row.FirstP99MS >= row.FirstP50MS && row.Jobs > 0) {
			t.Errorf("row %+v", row)
		}
	}
	if !slices.Equal(callers, []int{8, 16, 8, 16}) || len(r.Alone) != 2 {
		t.Errorf("rows for %v callers, the engine alone %v", callers, r.Alone)
	}
	if b := r.Burst; b.Requests != 40 || !(b.TokS > 0) || b.OutOfOrder >= b.Requests {
		t.Errorf("burst %+v", b)
	}
	if w := r.Watch; w.Clients != 100 || w.Jobs != 8 || w.Messages == 0 || w.Listening != 1 || w.P99MS < w.P50MS {
		t.Errorf("watch %+v", w)
	}
	if len(r.Calls) != 8 {
		t.Errorf("calls %+v", r.Calls)
	}
	for _, c := range r.Calls {
		if !(c.P50MS > 0 && c.P99MS >= c.P50MS) || c.Busy != (c.TokS > 0) {
			t.Errorf("call %+v", c)
		}
	}
	var text, markdown strings.Builder
	if err := r.text(&text); err != nil || !strings.Contains(text.String(), "POST /token") {
		t.Errorf("%v\n%s", err, &text)
	}
	if err := r.markdown(&markdown); err != nil || !strings.Contains(markdown.String(), "| POST /token | busy |") {
		t.Errorf("%v\n%s", err, &markdown)
	}
}

func TestLoadCountsWhatIsInTime(t *testing.T) {
	calls := 0
	perSecond, err := load{1, 50 * time.Millisecond}.run(t.Context(), func(_ context.Context, _, call int, count func(int)) error {
		count(3)
		for start := time.Now(); call == 1 && time.Since(start) < 60*time.Millisecond; {
			continue
		}
		count(100) // too late
		calls++
		return nil
	})
	if err != nil || calls != 1 || perSecond != 60 {
		t.Errorf("%d calls, %g per second, %v", calls, perSecond, err)
	}
}

func TestLoadEndsWithAnError(t *testing.T) {
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

func TestPercentile(t *testing.T) {
	var l latencies
	if got := l.percentile(0.5); got != 0 {
		t.Errorf("%g of nothing", got)
	}
	for i := range 100 {
		l.add(time.Duration(100-i) * time.Millisecond)
	}
	if p50, p99, most := l.percentile(0.5), l.percentile(0.99), l.percentile(1); p50 != 51 || p99 != 100 || most != 100 {
		t.Errorf("%g, %g and %g", p50, p99, most)
	}
}

func TestOutOfOrder(t *testing.T) {
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
		t.Error("something unknown has a place")
	}
}
