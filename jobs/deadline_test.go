package jobs_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"colophon/events"
	"colophon/jobs"
	"colophon/migrations"
)

// within is the request with so much time for it.
func within(d time.Duration) jobs.Request {
	r := request
	r.CancelAfter = d
	return r
}

// tend runs what a queue does beside accepting jobs, until the test ends.
func (f *fixture) tend() {
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f.queue.Run(ctx) })
	f.t.Cleanup(func() { stop(); wg.Wait() })
}

func (f *fixture) mustBeOverdue(j events.Job) {
	f.t.Helper()
	facts := f.facts(j)
	last, ok := facts[len(facts)-1].(events.JobCancelled)
	if !ok || last.By != "service" || last.Reason != "the deadline has passed" {
		f.t.Fatalf("the job ends with %+v", facts[len(facts)-1])
	}
	if j.FinishedAt.Before(j.Deadline) {
		f.t.Errorf("ended %v before its deadline", j.Deadline.Sub(j.FinishedAt))
	}
	// The promise is a second or two, of a machine that has nothing else to do.
	if late := j.FinishedAt.Sub(j.Deadline); late > 20*time.Second {
		f.t.Errorf("ended %v after its deadline", late)
	}
}

func TestAQueuedJobPastItsDeadlineNeverStarts(t *testing.T) {
	f, e := newFixture(t), newEngine()
	j := f.submit(within(time.Millisecond))
	if j.Deadline.IsZero() || j.Deadline.Sub(j.AcceptedAt) > time.Second {
		t.Fatalf("deadline %v of a job accepted at %v", j.Deadline, j.AcceptedAt)
	}
	time.Sleep(time.Until(j.Deadline) + time.Millisecond) // a moment that nothing announces
	f.work(e)
	j = f.until(j, final)
	f.mustBeOverdue(j)
	if j.Attempts != 0 || e.calls != 0 {
		t.Errorf("%d attempts, and the model was asked %d times", j.Attempts, e.calls)
	}
}

func TestARunningJobEndsAtItsDeadline(t *testing.T) {
	f, e := newFixture(t), newEngine()
	e.pause[6+12] = make(chan struct{}) // never opened
	f.work(e)
	j := f.until(f.submit(within(3*time.Second)), final)
	f.mustBeOverdue(j)
	if late := j.FinishedAt.Sub(j.Deadline); late >= 2*time.Second {
		t.Errorf("ended %v after its deadline: by who looks for such jobs, and not by its worker", late)
	}
	if want := e.text("prompt", j.Params); len(j.Tokens) != 12 || j.Text != want[:len(j.Text)] || len(j.Text) == 0 {
		t.Errorf("what was there is not on record: %d tokens, %q", len(j.Tokens), j.Text)
	}
	e.mu.Lock()
	clear(e.pause)
	e.mu.Unlock()
	if j := f.until(f.submit(request), final); j.State != events.Completed {
		t.Fatalf("the next job: %+v", j)
	}
	var leases, attempts int
	err := f.db.Owner.QueryRow(t.Context(), `select (select count(*) from leases), (select max(attempt) from `+migrations.RiverJobs+`)`).Scan(&leases, &attempts)
	if err != nil || leases != 0 || attempts != 1 {
		t.Errorf("%d leases are left, attempt %d, %v", leases, attempts, err)
	}
}

// TestAJobThatNobodyRunsEndsAtItsDeadline has no worker: one job waits for it, of
// the other one it has died.
func TestAJobThatNobodyRunsEndsAtItsDeadline(t *testing.T) {
	f := newFixture(t)
	f.tend()
	left := f.orphan(12, 0, "1 hour")
	queued := f.submit(within(500 * time.Millisecond))
	f.mustBeOverdue(f.until(queued, final))
	// The orphan's deadline is the server's own; its course cannot be rewritten, the view of it can.
	if _, err := f.db.Owner.Exec(t.Context(), `update history set deadline = clock_timestamp() where job = $1`, left.ID); err != nil {
		t.Fatal(err)
	}
	left = f.until(left, final)
	if left.State != events.Cancelled || left.Reason != "the deadline has passed" || len(left.Tokens) == 0 {
		t.Errorf("%+v", left)
	}
}

func TestOverdueJobsOfErasedOwnersBlockNobody(t *testing.T) {
	f := newFixture(t)
	lost := f.submit(within(time.Millisecond))
	if _, err := f.db.Owner.Exec(t.Context(), `update owner_keys set wrapped = null, erased_at = now()`); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(lost.Deadline) + time.Millisecond) // a moment that nothing announces
	if late, err := f.store.Overdue(t.Context(), 0, 10); err != nil || len(late) != 0 {
		t.Errorf("job %s of an erased owner is to be ended: %v, %v", lost.ID, late, err)
	}
}

// TestAnOverdueJobThatCannotBeReadBlocksNobody has jobs whose owner's key is not
// what it was.
func TestAnOverdueJobThatCannotBeReadBlocksNobody(t *testing.T) {
	f := newFixture(t)
	broken, other := f.register(), f.register()
	for range 8 {
		f.submitFor(broken, within(time.Millisecond))
	}
	if _, err := f.db.Owner.Exec(t.Context(), `update owner_keys set wrapped = '\x00' where owner = $1`, broken); err != nil {
		t.Fatal(err)
	}
	f.store = f.newStore() // which has not seen the key
	f.queue = f.newQueue(jobs.Limits{})
	j := f.submitFor(other, within(time.Millisecond))
	f.tend()
	f.mustBeOverdue(f.until(j, final))
}

func TestTheDeadlineIsTheLeastOfTwo(t *testing.T) {
	f := newFixture(t)
	for given, want := range map[time.Duration]time.Duration{
		0:               10 * time.Minute,
		time.Minute:     time.Minute,
		100 * time.Hour: 10 * time.Minute,
	} {
		j := f.submit(within(given))
		// One clock is the database's, the other one this process's: here they are the same.
		if got := j.Deadline.Sub(j.AcceptedAt); got > want || got < want-10*time.Second {
			t.Errorf("Cancel-After %v: the deadline is %v after the acceptance, want %v", given, got, want)
		}
		if again, err := f.store.Job(t.Context(), j.ID); err != nil || !again.Deadline.Equal(j.Deadline) {
			t.Errorf("read again: %v, %v, want %v", again.Deadline, err, j.Deadline)
		}
	}
}

// TestCancelStopsWithinAToken counts the tokens that the model is asked for
// after a cancel has been answered.
func TestCancelStopsWithinAToken(t *testing.T) {
	f, e := newFixture(t), newEngine()
	e.pace = 500 * time.Millisecond // a token, far longer than a notice takes
	f.work(e)
	j := f.until(f.submit(request), tokens(1))
	asked := func() int {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.calls
	}
	cancelled, err := f.queue.Cancel(t.Context(), j, events.JobCancelled{By: "owner"})
	if err != nil {
		t.Fatal(err)
	}
	before := asked()
	f.idle(e)
	if more := asked() - before; more > 1 {
		t.Errorf("the model was asked for %d more tokens after the cancel", more)
	}
	if now, err := f.store.Job(t.Context(), j.ID); err != nil || now.Version != cancelled.Version || len(now.Tokens) != len(cancelled.Tokens) {
		t.Errorf("something follows the cancel: %+v, %v", now, err)
	}
}
