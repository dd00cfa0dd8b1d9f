package jobs_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/jobs"
	"colophon/migrations"
)

// orphan returns a job whose worker seems to have died after the given number of tokens.
// The job's events and its queue entry say that the job is running. The job's lease
// expires after the given interval, which may be negative. crashes is the number of
// crashes counted so far.
func (f *fixture) orphan(after, crashes int, lease string) events.Job {
	f.t.Helper()
	return f.orphans(1, after, crashes, lease)[0]
}

// orphans returns n jobs of one dead worker, in the order in which it took their leases.
func (f *fixture) orphans(n, after, crashes int, lease string) []events.Job {
	f.t.Helper()
	e := newEngine()
	e.pause[6+after] = make(chan struct{}) // never closed, so the jobs stop here
	left := make([]events.Job, n)
	for i := range left {
		left[i] = f.submit(request)
	}
	stop := f.work(e)
	for _, j := range left {
		f.until(j, tokens(min(after, 1)))
	}
	stop()
	_, err := f.db.Owner.Exec(f.t.Context(), `update `+migrations.RiverJobs+` set state = 'running', attempted_at = now() - interval '10 seconds', attempt = 1 where state = 'available'`)
	for i, j := range left {
		if err == nil {
			left[i], err = f.store.Job(f.t.Context(), j.ID)
		}
		if err == nil {
			_, err = f.db.Owner.Exec(f.t.Context(), `
				insert into leases (job, holder, worker, expires_at, tokens, crashes) values ($1, $2, 'dead', now() + $3::text::interval, $4, $5)`,
				j.ID, uuid.New(), lease, len(left[i].Tokens), crashes)
		}
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return left
}

func TestJobOfADeadWorkerIsContinued(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	j := f.orphan(12, 0, "-1 second")
	had := len(j.Tokens)
	f.work(e)
	j = f.until(j, final)
	if want := e.text("prompt", j.Params); j.State != events.Completed || j.Text != want {
		t.Fatalf("%s %q, want %q", j.State, j.Text, want)
	}
	facts := f.facts(j)
	i := slices.IndexFunc(facts[3:], func(fact events.Fact) bool { return fact.Type() == events.JobStarted{}.Type() })
	if i < 0 || facts[3+i].(events.JobStarted).FromToken != had {
		t.Errorf("not continued at token %d: %+v", had, facts)
	}
	var leases int
	if err := f.db.Owner.QueryRow(t.Context(), `select count(*) from leases`).Scan(&leases); err != nil || leases != 0 {
		t.Errorf("%d leases left, %v, want none", leases, err)
	}
}

// TestFetchedJobOfADeadWorkerIsStarted simulates a worker that died after it fetched a
// job and before it took the job's lease. Another worker must start the job.
func TestFetchedJobOfADeadWorkerIsStarted(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	j := f.submit(request)
	if _, err := f.db.Owner.Exec(t.Context(), `
		update `+migrations.RiverJobs+` set state = 'running', attempted_at = now() - interval '10 seconds', attempt = 2, priority = 3`); err != nil {
		t.Fatal(err)
	}
	f.work(e)
	j = f.until(j, final)
	if want := e.text("prompt", j.Params); j.State != events.Completed || j.Text != want {
		t.Fatalf("%s %q, want %q", j.State, j.Text, want)
	}
	var state string
	var maxAttempts, priority int
	if err := f.db.Owner.QueryRow(t.Context(), `select state from `+migrations.RiverJobs+` order by id limit 1`).Scan(&state); err != nil || state != "cancelled" {
		t.Errorf("queue entry of the dead worker is %s, %v, want cancelled", state, err)
	}
	if err := f.db.Owner.QueryRow(t.Context(), `select max_attempts, priority from `+migrations.RiverJobs+` order by id desc limit 1`).Scan(&maxAttempts, &priority); err != nil || maxAttempts != 2 || priority != 1 {
		t.Errorf("new queue entry has %d attempts and priority %d, %v, want 2 and 1", maxAttempts, priority, err)
	}
}

// TestCancelledJobOfADeadWorkerIsCleanedUp cancels a job whose worker is dead. A living
// worker must remove the job's lease and close the job's queue entry.
func TestCancelledJobOfADeadWorkerIsCleanedUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j := f.orphan(12, 0, "-1 second")
	if _, err := f.queue.Cancel(t.Context(), j, events.JobCancelled{By: "owner"}); err != nil {
		t.Fatal(err)
	}
	f.work(newEngine())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for poll := time.NewTicker(10 * time.Millisecond); ; {
		var leases, waiting, all int
		err := f.db.Owner.QueryRow(ctx, `
			select (select count(*) from leases), count(*) filter (where finalized_at is null), count(*) from `+migrations.RiverJobs).Scan(&leases, &waiting, &all)
		if err != nil || all != 2 {
			t.Fatalf("%d queue entries, want those of the stopped worker and the dead one, %v", all, err)
		}
		if leases == 0 && waiting == 0 {
			return
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			t.Fatalf("%d leases and %d queue entries left", leases, waiting)
		}
	}
}

func TestJobOfALivingWorkerIsLeftAlone(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	j := f.orphan(12, 0, "1 hour")
	// The update makes the running job available to workers, as a second queue entry
	// would. A worker must then leave the job alone, because the job's lease is valid.
	if _, err := f.db.Owner.Exec(t.Context(), `update `+migrations.RiverJobs+` set state = 'available', attempt = 0, scheduled_at = now() where state = 'running'`); err != nil {
		t.Fatal(err)
	}
	f.work(e)
	f.awaitPutBack(j)
	if now, err := f.store.Job(t.Context(), j.ID); err != nil || now.Version != j.Version {
		t.Errorf("job after the put-back: %+v, %v", now, err)
	}
}

func TestJobThatCrashesItsWorkersFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j := f.orphan(12, 5, "-1 second")
	f.work(newEngine())
	if j = f.until(j, final); j.State != events.Failed || j.Reason == "" {
		t.Fatalf("%+v", j)
	}
}

func TestCrashesWithProgressDoNotFailTheJob(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j := f.orphan(12, 5, "-1 second")
	if _, err := f.db.Owner.Exec(t.Context(), `update leases set tokens = tokens - 1`); err != nil {
		t.Fatal(err)
	}
	f.work(newEngine())
	if j = f.until(j, final); j.State != events.Completed {
		t.Fatalf("%+v", j)
	}
}

// TestCrashCountsForTheLastStartedJob simulates a worker that died while it ran three jobs.
// One more crash would fail each of the jobs. It must fail the job that was started last,
// and no other job.
func TestCrashCountsForTheLastStartedJob(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	left := f.orphans(3, 12, 4, "-1 second")
	f.work(newEngine())
	for i, j := range left {
		want := events.Completed
		if i == len(left)-1 {
			want = events.Failed
		}
		if j = f.until(j, final); j.State != want {
			t.Errorf("job %d of the dead worker is %s (%s), want %s", i, j.State, j.Reason, want)
		}
	}
}

// TestJobWaitsAfterItsSecondCrash simulates a worker that died while it ran a job, for
// the first and for the second time. The job must wait only after the second crash. In
// both cases it must then be completed.
func TestJobWaitsAfterItsSecondCrash(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		crashes int
		wait    time.Duration
	}{"first crash": {0, 0}, "second crash": {1, jobs.CrashWait}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			j := f.orphan(12, c.crashes, "-1 second")
			var free time.Time // expiry of the dead worker's lease; before this time no worker may start the job
			err := f.db.Owner.QueryRow(t.Context(), `update leases set expires_at = clock_timestamp() returning expires_at`).Scan(&free)
			if err != nil {
				t.Fatal(err)
			}
			f.work(newEngine())
			j = f.until(j, func(j events.Job) bool { return j.Attempts == 2 })
			const exact = 50 * time.Millisecond // tolerance, because the clock that stamps events may differ a little from the database's
			if waited := j.ChangedAt.Sub(free); waited < c.wait-exact {
				t.Errorf("the job waited for %v, want %v", waited, c.wait)
			}
			if j = f.until(j, final); j.State != events.Completed {
				t.Errorf("%+v", j)
			}
		})
	}
}

// TestLostLeaseStopsTheAttempt takes the lease away from a living worker, as if the
// worker had been silent for too long. The attempt must stop, and a second attempt must
// complete the job.
func TestLostLeaseStopsTheAttempt(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	e.pause[6+12] = make(chan struct{}) // never closed, so the job stops here
	f.work(e)
	j := f.until(f.submit(request), tokens(12))
	e.mu.Lock()
	clear(e.pause) // the second attempt does not pause, but the first attempt stays paused
	e.mu.Unlock()
	if _, err := f.db.Owner.Exec(t.Context(), `update leases set expires_at = now() - interval '1 second', holder = $1`, uuid.New()); err != nil {
		t.Fatal(err)
	}
	// The first attempt stops. Then the only worker continues the job in a second
	// attempt.
	j = f.until(j, final)
	if want := e.text("prompt", j.Params); j.State != events.Completed || j.Text != want || j.Attempts != 2 {
		t.Fatalf("job %s with %q after %d starts, want %q after 2", j.State, j.Text, j.Attempts, want)
	}
}

// TestStoppedWorkerLeavesNoLease stops workers while they append tokens. No lease and
// no running queue entry may be left.
func TestStoppedWorkerLeavesNoLease(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := request
	r.MaxNewTokens = 900
	for range 10 {
		stop := f.work(newEngine())
		var running []events.Job
		for range 8 {
			running = append(running, f.submit(r))
		}
		for _, j := range running {
			f.until(j, tokens(1))
		}
		stop()
		var leases, taken int
		err := f.db.Owner.QueryRow(t.Context(), `select (select count(*) from leases), count(*) from `+migrations.RiverJobs+` where state = 'running'`).Scan(&leases, &taken)
		if err != nil || leases > 0 || taken > 0 {
			t.Fatalf("%d leases and %d running queue entries left, %v", leases, taken, err)
		}
	}
}
