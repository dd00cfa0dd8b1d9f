package api_test

import (
	"fmt"
	"testing"

	"colophon/api"
	"colophon/internal/policy"
	"colophon/jobs"
)

// TestStoppedBatchHoldsUpNoOther cancels a long batch. While its lines fail, the batch of another
// owner must begin and end.
func TestStoppedBatchHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.advance()
	long := begin(f.Client, upload(f.Client, many("fake", 10_000, 5)...), "/v1/completions")
	until(f.Client, long.ID, is("in_progress"))
	_, other := f.user("other")
	c := f.As(other)
	file := upload(c, line("a", "/v1/completions", `{}`))
	f.Do("POST", "/v1/batches/"+long.ID+"/cancel", "").Must(t, 200)
	until(f.Client, long.ID, func(b batch) bool { return b.RequestCounts.Failed > 0 })
	until(c, begin(c, file, "/v1/completions").ID, is("completed"))
	f.Do("GET", "/v1/batches/"+long.ID, "").Must(t, 200).Into(t, &long)
	if long.Status != "cancelling" {
		t.Errorf("when the other batch has ended, the long one is %+v", long)
	}
}

// TestBatchLeavesRoomInTheQueue begins a batch with more texts than the queue may have. Half of the
// queue must be left to other requests.
func TestBatchLeavesRoomInTheQueue(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) {
		var err error
		if f.queue, err = jobs.NewQueue(f.db.App, f.store, f.api.Model, policy.Default, jobs.Limits{Queued: 40}, f.api.Log); err != nil {
			f.T.Fatal(err)
		}
		f.api.Queue = f.queue
	})
	f.advance()
	var lines []string
	for i := range 32 {
		lines = append(lines, line(fmt.Sprint(i), "/v1/completions", `{"model":"fake","prompt":"light","n":3,"max_tokens":5}`))
	}
	begin(f.Client, upload(f.Client, lines...), "/v1/completions")
	f.newest(21) // the line that begins below the half of 40 has all of its texts
	for range 19 {
		f.Do("POST", "/jobs", prompt).Must(t, 202)
	}
	f.Do("POST", "/jobs", prompt).Refused(t, 503, "queue_full")
}

// TestRefusedLinesAreBounded begins several batches of one owner whose lines are all refused. A
// pass must begin no more of them than may run at once, because no limit counts refused lines.
func TestRefusedLinesAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	b, err := api.NewBatches(f.api)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for i := range 100 {
		lines = append(lines, line(fmt.Sprint(i), "/v1/completions", `{"model":"fake","prompt":"such violence"}`))
	}
	for range 3 {
		begin(f.Client, upload(f.Client, lines...), "/v1/completions")
	}
	for pass, want := range []int{0, 32, 64} { // the first pass reads the inputs
		if err := b.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := f.count(`select count(*) from events where type = 'policy.refused'`); n != want {
			t.Errorf("after pass %d, %d lines are refused, want %d", pass+1, n, want)
		}
	}
}
