package api_test

import (
	"slices"
	"testing"
	"time"

	"colophon/api"
)

// TestLinesTryAgainLessAndLess moves a batch on, whose second line waits for the budget of the day.
// The intervals between its tries must grow. When the first line has ended, the second one must be
// tried at once.
func TestLinesTryAgainLessAndLess(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var key struct{ Key string }
	f.Do("POST", "/keys", `{"name":"k","tokens_per_day":100}`).Must(t, 201).Into(t, &key)
	c := f.As(key.Key)
	const body = `{"model":"fake","prompt":"light","max_tokens":60}`
	begin(c, upload(c, line("a", "/v1/completions", body), line("b", "/v1/completions", body)), "/v1/completions")
	moved, err := api.NewBatches(f.api)
	if err != nil {
		t.Fatal(err)
	}
	var now time.Time
	pass := func(after time.Duration) []time.Duration {
		t.Helper()
		now = now.Add(after)
		if err := moved.Advance(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		return moved.Pauses()
	}
	pass(0) // validates the input
	for i, k := range []struct {
		after time.Duration
		pause time.Duration // after the pass
	}{
		{0, 500 * time.Millisecond},
		{499 * time.Millisecond, 500 * time.Millisecond},
		{time.Millisecond, time.Second},
		{time.Second, 2 * time.Second},
		{1999 * time.Millisecond, 2 * time.Second},
		{time.Millisecond, 4 * time.Second},
		{4 * time.Second, 8 * time.Second},
		{8 * time.Second, 16 * time.Second},
		{16 * time.Second, 30 * time.Second},
		{30 * time.Second, 30 * time.Second},
		{29 * time.Second, 30 * time.Second},
	} {
		if got := pass(k.after); !slices.Equal(got, []time.Duration{k.pause}) {
			t.Errorf("pass %d: the pause is %v, want %v", i, got, k.pause)
		}
	}
	first := f.newest(1)
	f.complete(first.ID) // it used fewer tokens than were reserved
	if got := pass(0); len(got) != 0 {
		t.Errorf("after the end of the first line, the pause is %v", got)
	}
	f.newest(2)
	if f.count(`select count(*) from batch_lines where state = 'running'`) != 1 {
		t.Error("the second line does not run")
	}
}
