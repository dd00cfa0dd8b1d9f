package jobs_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/migrations"
)

// orphan returns a job whose worker seems to have been killed after the given number of
// tokens. The job's events and its queue entry say that the job is running. The job's
// lease expires after the given interval.
func (f *fixture) orphan(after, crashes int, lease string) events.Job {
	f.t.Helper()
	e := newEngine()
	e.pause[6+after] = make(chan struct{}) // never closed, so the job stops here
	stop := f.work(e)
	j := f.until(f.submit(request), tokens(min(after, 1)))
	stop()
	j, err := f.store.Job(f.t.Context(), j.ID)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, sql := range []string{
		`update ` + migrations.RiverJobs + ` set state = 'running', attempted_at = now() - interval '10 seconds', attempt = 1 where state = 'available'`,
		`insert into leases (job, holder, expires_at, tokens, crashes) values ($1, $2, now() + interval '` + lease + `', $3, $4)`,
	} {
		args := []any{j.ID, uuid.New(), len(j.Tokens), crashes}
		if sql[0] == 'u' {
			args = nil
		}
		if _, err := f.db.Owner.Exec(f.t.Context(), sql, args...); err != nil {
			f.t.Fatal(err)
		}
	}
	return j
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
	// River's own rescue of a dead worker's job makes the job's queue entry available
	// in the same way.
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
