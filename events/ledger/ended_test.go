package ledger_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/events/ledger"
)

// TestEndedJobsAreReturnedOnce reads the jobs that have ended, in windows of several sizes.
// Jobs that go on after a failure must not be among them.
func TestEndedJobsAreReturnedOnce(t *testing.T) {
	t.Parallel()
	a := newAudited(t, 20)
	var want []events.Stream
	for _, id := range a.jobs {
		want = append(want, events.JobStream(id))
	}
	for _, facts := range [][]events.Fact{
		{events.JobCancelled{By: "owner"}},
		{events.JobStarted{Attempt: 1}, events.JobFailed{Attempt: 1}},
		{events.JobStarted{Attempt: 1}, events.JobFailed{Attempt: 1}, events.JobStarted{Attempt: 2}, events.JobFailed{Attempt: 2, Final: true}},
		{events.JobStarted{Attempt: 1}, events.JobFailed{Attempt: 1}, events.JobStarted{Attempt: 2}, events.JobCompleted{FinishReason: "stop"}},
		{events.JobStarted{Attempt: 1}},
	} {
		job := events.Job{ID: uuid.Must(uuid.NewV7()), Owner: a.owner}
		job, err := a.store.AppendJob(t.Context(), job, append([]events.Fact{events.JobAccepted{Prompt: "p", Model: "m"}}, facts...)...)
		must(t, err)
		if job.State.Final() {
			want = append(want, events.JobStream(job.ID))
		}
	}
	log := ledger.NewLog(a.App)
	ended := func(since time.Time, window int64) (streams []events.Stream) {
		t.Helper()
		last := int64(-1)
		for job, err := range ledger.EndedJobsIn(t.Context(), log, since, window) {
			must(t, err)
			if job.Index <= last || job.Index >= job.Size {
				t.Errorf("index %d after %d, in a log of %d", job.Index, last, job.Size)
			}
			last = job.Index
			streams = append(streams, job.Stream)
		}
		return streams
	}
	if got := ended(time.Time{}, 100); len(got) != 20 {
		t.Errorf("%d jobs have ended before the last events have an index, want 20", len(got))
	}
	a.grow(0)
	for _, window := range []int64{1, 2, 7, 1000} {
		if got := ended(time.Time{}, window); !slices.Equal(got, want) {
			t.Errorf("windows of %d entries: %d jobs have ended, want %d", window, len(got), len(want))
		}
	}
	if got := ended(time.Now().Add(24*time.Hour), 100); len(got) != 0 {
		t.Errorf("%d jobs have ended in the future", len(got))
	}
	for range log.EndedJobs(t.Context(), time.Time{}) {
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range log.EndedJobs(ctx, time.Time{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("interrupted: %v", err)
		}
	}
}
