package jobs_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/jobs"
	"colophon/migrations"
)

// within returns the fixed test request with a deadline d after the job's acceptance.
func within(d time.Duration) jobs.Request {
	r := request
	r.CancelAfter = d
	return r
}

// runQueue runs the queue's background work until the test ends.
func (f *fixture) runQueue() {
	f.queue.ShortenTiming()
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f.queue.Run(ctx) })
	f.t.Cleanup(func() { stop(); wg.Wait() })
}

// mustEndAtDeadline fails the test unless the service ended the job at the job's
// deadline.
func (f *fixture) mustEndAtDeadline(j events.Job) {
	f.t.Helper()
	facts := f.facts(j)
	last, ok := facts[len(facts)-1].(events.JobCancelled)
	if !ok || last.By != "service" || last.Reason != "the deadline has passed" {
		f.t.Fatalf("last fact of the job: %+v", facts[len(facts)-1])
	}
	if j.FinishedAt.Before(j.Deadline) {
		f.t.Errorf("ended %v before its deadline", j.Deadline.Sub(j.FinishedAt))
	}
	// On an idle machine, the job ends a second or two after its deadline. The limit
	// leaves time for a busy machine.
	if late := j.FinishedAt.Sub(j.Deadline); late > 20*time.Second {
		f.t.Errorf("ended %v after its deadline", late)
	}
}

func TestQueuedJobPastItsDeadlineNeverStarts(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	j := f.submit(within(time.Millisecond))
	if j.Deadline.IsZero() || j.Deadline.Sub(j.AcceptedAt) > time.Second {
		t.Fatalf("deadline %v of a job accepted at %v", j.Deadline, j.AcceptedAt)
	}
	for past := false; !past; { // no event marks the deadline
		if err := f.db.Owner.QueryRow(t.Context(), `select clock_timestamp() > $1`, j.Deadline).Scan(&past); err != nil {
			t.Fatal(err)
		}
	}
	f.work(e)
	j = f.until(j, final)
	f.mustEndAtDeadline(j)
	if j.Attempts != 0 || e.calls != 0 {
		t.Errorf("%d attempts and %d calls of the model, want none", j.Attempts, e.calls)
	}
}

func TestRunningJobEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	e.pause[6+12] = make(chan struct{}) // never closed, so the job stops here
	f.work(e)
	j := f.until(f.submit(within(3*time.Second)), final)
	f.mustEndAtDeadline(j)
	if late := j.FinishedAt.Sub(j.Deadline); late >= 2*time.Second {
		t.Errorf("ended %v after its deadline, by the search and not by its worker", late)
	}
	if want := e.text("prompt", j.Params); len(j.Tokens) != 12 || j.Text != want[:len(j.Text)] || len(j.Text) == 0 {
		t.Errorf("%d tokens on record, want 12; text %q", len(j.Tokens), j.Text)
	}
	e.mu.Lock()
	clear(e.pause)
	e.mu.Unlock()
	if j := f.until(f.submit(request), final); j.State != events.Completed {
		t.Fatalf("next job: %+v", j)
	}
	var leases, attempts int
	err := f.db.Owner.QueryRow(t.Context(), `select (select count(*) from leases), (select max(attempt) from `+migrations.RiverJobs+`)`).Scan(&leases, &attempts)
	if err != nil || leases != 0 || attempts != 1 {
		t.Errorf("%d leases left, attempt %d, %v, want none and attempt 1", leases, attempts, err)
	}
}

// TestJobWithoutAWorkerEndsAtItsDeadline makes a queued job and a job whose worker is
// dead. The queue must end both jobs at their deadlines.
func TestJobWithoutAWorkerEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.runQueue()
	left := f.orphan(12, 0, "1 hour")
	queued := f.submit(within(500 * time.Millisecond))
	f.mustEndAtDeadline(f.until(queued, final))
	// The job without a worker has the default deadline, which cannot be changed in the
	// job's events. So the test changes it in the job's row of the history view.
	if _, err := f.db.Owner.Exec(t.Context(), `update history set deadline = clock_timestamp() where job = $1`, left.ID); err != nil {
		t.Fatal(err)
	}
	left = f.until(left, final)
	if left.State != events.Cancelled || left.Reason != "the deadline has passed" || len(left.Tokens) == 0 {
		t.Errorf("%+v", left)
	}
}

func TestOverdueJobsOfErasedOwnersAreSkipped(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	lost := f.submit(within(time.Millisecond))
	if _, err := f.db.Owner.Exec(t.Context(), `update owner_keys set wrapped = null, erased_at = now()`); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(lost.Deadline) + time.Millisecond) // the test must sleep, because no event marks the deadline
	if late, err := f.store.Overdue(t.Context(), 0, 10); err != nil || len(late) != 0 {
		t.Errorf("overdue jobs: %v, %v, want none (%s has an erased owner)", late, err, lost.ID)
	}
}

// TestUnreadableOverdueJobsDoNotBlockOthers damages the key of one owner. The overdue
// job of another owner must still be ended.
func TestUnreadableOverdueJobsDoNotBlockOthers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	broken, other := f.register(), f.register()
	for range 8 {
		f.submitFor(broken, within(time.Millisecond))
	}
	if _, err := f.db.Owner.Exec(t.Context(), `update owner_keys set wrapped = '\x00' where owner = $1`, broken); err != nil {
		t.Fatal(err)
	}
	f.store = f.newStore() // the new store has no cached key
	f.queue = f.newQueue(jobs.Limits{})
	j := f.submitFor(other, within(time.Millisecond))
	f.runQueue()
	f.mustEndAtDeadline(f.until(j, final))
}

// Jobs that cannot be ended stay overdue. They must not fill every result of Overdue.
func TestOverdueJobsDoNotHideOthers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	seen := map[uuid.UUID]bool{}
	for range 2 {
		f.submit(within(time.Millisecond))
	}
	f.eventually("each job is found", func() bool {
		late, err := f.store.Overdue(t.Context(), 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range late {
			seen[id] = true
		}
		return len(seen) == 2
	})
}

func TestCancelAfterOnlyShortensTheDeadline(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for given, want := range map[time.Duration]time.Duration{
		0:               10 * time.Minute,
		time.Minute:     time.Minute,
		100 * time.Hour: 10 * time.Minute,
	} {
		j := f.submit(within(given))
		// The deadline is counted from the begin of the transaction, which is before the
		// acceptance.
		if got := j.Deadline.Sub(j.AcceptedAt); got > want || got < want-10*time.Second {
			t.Errorf("Cancel-After %v: deadline %v after the acceptance, want %v", given, got, want)
		}
		if again, err := f.store.Job(t.Context(), j.ID); err != nil || !again.Deadline.Equal(j.Deadline) {
			t.Errorf("deadline on record: %v, %v, want %v", again.Deadline, err, j.Deadline)
		}
	}
}

// TestCancelStopsWithinAToken counts the calls of the model after a cancel has
// returned. At most one more call may follow.
func TestCancelStopsWithinAToken(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	e.stepTime = 500 * time.Millisecond // far longer than the notification of the cancel takes
	f.work(e)
	j := f.until(f.submit(request), tokens(1))
	calls := func() int {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.calls
	}
	cancelled, err := f.queue.Cancel(t.Context(), j, events.JobCancelled{By: "owner"})
	if err != nil {
		t.Fatal(err)
	}
	before := calls()
	f.awaitIdle(e)
	if more := calls() - before; more > 1 {
		t.Errorf("%d calls of the model after the cancel, want at most 1", more)
	}
	if now, err := f.store.Job(t.Context(), j.ID); err != nil || now.Version != cancelled.Version || len(now.Tokens) != len(cancelled.Tokens) {
		t.Errorf("job has events after the cancel: %+v, %v", now, err)
	}
}

// TestCancelOutlastsManyConflicts simulates a worker that appends an event before each
// of the first 50 tries of a cancel. The cancel must succeed after that.
func TestCancelOutlastsManyConflicts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	job := f.submit(request)
	for _, sql := range []string{
		`create sequence tries`, // counts the tries; a rolled-back try counts too
		`grant usage on sequence tries to ` + migrations.AppRole,
		`create function lose() returns trigger language plpgsql as $$
		begin
			if new.type = 'job.cancelled' and nextval('tries') <= 50 then
				raise unique_violation using constraint = 'events_pkey';
			end if;
			return new;
		end $$`,
		`create trigger lose before insert on events for each row execute function lose()`,
	} {
		if _, err := f.db.Owner.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	after, err := f.queue.Cancel(t.Context(), job, events.JobCancelled{By: "owner"})
	if err != nil || after.State != events.Cancelled {
		t.Fatalf("after 50 conflicts: state %q, %v", after.State, err)
	}
}
