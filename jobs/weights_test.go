package jobs_test

import (
	"testing"
	"time"

	"colophon/events"
	"colophon/jobs"
	"colophon/migrations"
)

// interrupted returns a job of which a worker with the kernel a has generated some tokens.
// The worker has stopped.
func (f *fixture) interrupted() events.Job {
	f.t.Helper()
	e := newEngine()
	e.kernel = "a"
	e.pause[len(small.Prompt)+4] = make(chan struct{})
	stop := f.work(e)
	j := f.until(f.submit(small), func(j events.Job) bool { return len(j.Tokens) > 0 })
	stop()
	return f.until(j, func(j events.Job) bool { return len(j.Tokens) >= 4 })
}

// untilPutBack waits until a worker has put the job back into the queue at least n times.
func (f *fixture) untilPutBack(j events.Job, n int) {
	f.t.Helper()
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		var snoozes int
		err := f.db.Owner.QueryRow(f.t.Context(), `
			select coalesce(max((metadata->>'snoozes')::integer), 0) from `+migrations.RiverJobs+`
			where args->>'job' = $1 and finalized_at is null`, j.ID.String()).Scan(&snoozes)
		if err != nil {
			f.t.Fatal(err)
		}
		if snoozes >= n {
			return
		}
		select {
		case <-tick.C:
		case <-f.t.Context().Done():
			f.t.Fatal("the test ended first")
		}
	}
}

// kernels returns the kernels of a job's starts.
func (f *fixture) kernels(j events.Job) (kernels []string) {
	f.t.Helper()
	stored, err := f.store.Read(f.t.Context(), events.JobStream(j.ID), 0)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range stored {
		if s, ok := e.Fact.(events.JobStarted); ok {
			kernels = append(kernels, s.Kernel)
		}
	}
	return kernels
}

// A worker whose arithmetic gives other bits must leave a started job to a worker with the
// same arithmetic, so that the text has the same bytes as an uninterrupted one.
func TestStartedJobWaitsForTheSameArithmetic(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j := f.interrupted()
	other := newEngine()
	other.kernel = "b"
	f.work(other)
	f.untilPutBack(j, 2)
	same := newEngine()
	same.kernel = "a"
	f.work(same)
	j = f.until(j, final)
	if j.State != events.Completed || j.Mixed {
		t.Errorf("%s, mixed %v", j.State, j.Mixed)
	}
	if k := f.kernels(j); len(k) != 2 || k[0] != "a" || k[1] != "a" {
		t.Errorf("started with the kernels %q, want a twice", k)
	}
}

// If no worker with the same arithmetic appears for a time, another worker continues the
// job, and the job says so. A job without tokens does not wait.
func TestStartedJobIsContinuedWithOtherArithmeticInTheEnd(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j := f.interrupted()
	other := newEngine()
	other.kernel = "b"
	f.workSlots(other, 8, func(w *jobs.Worker) { w.SameKernelFor(0) })
	j = f.until(j, final)
	if j.State != events.Completed || !j.Mixed || len(j.Tokens) != small.MaxNewTokens {
		t.Errorf("%s, mixed %v, %d tokens", j.State, j.Mixed, len(j.Tokens))
	}
	if j := f.until(f.submit(small), final); j.Mixed {
		t.Error("a job of one worker has mixed kernels")
	}
}

// A job waits for the weights that it was accepted for. An operator may give it other
// weights, or cancel it.
func TestJobsWaitForTheirWeights(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue = f.newQueueFor("w", jobs.Limits{})
	first, second := f.submit(small), f.submit(small)
	e := newEngine()
	e.weights = "v/f32"
	f.work(e)
	f.untilPutBack(first, 1)
	f.untilPutBack(second, 1)
	now := f.newQueueFor("v", jobs.Limits{})
	if !now.WaitsForModel(first) || f.queue.WaitsForModel(first) {
		t.Error("the job does not wait for its model, or waits for the model that new jobs get")
	}
	waiting, err := jobs.FindWaiting(t.Context(), f.db.App)
	if err != nil || len(waiting) != 1 || waiting[0].Weights != "w" || waiting[0].Model != "fake" || waiting[0].Jobs != 2 || !waiting[0].Oldest.Equal(first.AcceptedAt) {
		t.Errorf("waiting: %+v, %v", waiting, err)
	}
	if _, err := f.queue.Cancel(t.Context(), second, events.JobCancelled{By: "owner"}); err != nil {
		t.Fatal(err)
	}
	reassigned, started, err := jobs.Reassign(t.Context(), f.db.App, f.store, "w", "v")
	if err != nil || reassigned != 1 || started != 0 {
		t.Errorf("%d reassigned, %d started, %v", reassigned, started, err)
	}
	if j := f.until(first, final); j.State != events.Completed || j.Weights != "v/f32" || j.AcceptedFor != "v" {
		t.Errorf("%s on %s, accepted for %s", j.State, j.Weights, j.AcceptedFor)
	}
	if wrong := f.check(); wrong != 0 {
		t.Errorf("%d rows of the history view differ from the events", wrong)
	}
}

// A job that has tokens keeps its weights, and an operator can only cancel it.
func TestStartedJobsAreNotReassigned(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue = f.newQueueFor("w", jobs.Limits{})
	j := f.interrupted()
	if n, started, err := jobs.Reassign(t.Context(), f.db.App, f.store, "w", "v"); n != 0 || started != 1 || err != nil {
		t.Errorf("%d reassigned, %d started, %v", n, started, err)
	}
	if n, err := jobs.CancelWaiting(t.Context(), f.db.App, f.store, "v"); n != 0 || err != nil {
		t.Errorf("other weights: %d cancelled, %v", n, err)
	}
	if n, err := jobs.CancelWaiting(t.Context(), f.db.App, f.store, "w"); n != 1 || err != nil {
		t.Errorf("%d cancelled, %v", n, err)
	}
	if j := f.until(j, final); j.State != events.Cancelled || j.Reason == "" {
		t.Errorf("%s, %q", j.State, j.Reason)
	}
}

// check returns the number of rows of the history view that differ from the events.
func (f *fixture) check() int {
	f.t.Helper()
	report, err := f.store.CheckHistory(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return len(report.Wrong)
}
