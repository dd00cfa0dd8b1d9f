package jobs_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/events"
	"colophon/migrations"
)

// shifts are differences between the clocks of the database and of this process. They are
// so large that a job that waits for them fails its test.
var shifts = map[string]time.Duration{"behind": -time.Hour, "ahead": time.Hour}

// fromDatabase returns the time that a query selects.
func (f *fixture) fromDatabase(query string, args ...any) time.Time {
	f.t.Helper()
	var at time.Time
	if err := f.db.Owner.QueryRow(f.t.Context(), query, args...).Scan(&at); err != nil {
		f.t.Fatalf("%s: %v", query, err)
	}
	return at
}

// startClock shifts the database's clock, as if it had been wrong since before the
// processes started.
func (f *fixture) startClock(shift time.Duration) {
	f.t.Helper()
	f.db.ShiftClock(f.t, shift)
	if err := f.store.Clock().Sync(f.t.Context(), f.db.App); err != nil {
		f.t.Fatal(err)
	}
}

const databaseClock = `select clock_timestamp()`

func TestJobsRunByTheDatabasesClock(t *testing.T) {
	t.Parallel()
	for name, shift := range shifts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, e := newFixture(t), newEngine()
			f.startClock(shift)
			before := f.fromDatabase(databaseClock)
			j := f.submit(request)
			for _, column := range []string{"scheduled_at", "created_at"} {
				at := f.fromDatabase(`select ` + column + ` from ` + migrations.RiverJobs)
				if at.Before(before) || at.After(f.fromDatabase(databaseClock)) {
					t.Errorf("%s of the queue entry is %v after the submit", column, at.Sub(before))
				}
			}
			e.fail[6+20] = errBroken // a failed attempt puts the job back for a second
			f.work(e)
			j = f.until(j, final)
			if want := e.text("prompt", j.Params); j.State != events.Completed || j.Text != want {
				t.Fatalf("%s %q, want %q", j.State, j.Text, want)
			}
			if off := j.FinishedAt.Sub(f.fromDatabase(databaseClock)); off.Abs() > time.Minute {
				t.Errorf("finished %v after the database's time", off)
			}
			for _, ms := range []int64{j.Timings.QueuedMS, j.Timings.FirstTokenMS, j.Timings.TotalMS} {
				if ms < 0 || ms > time.Minute.Milliseconds() {
					t.Errorf("timings %+v", j.Timings)
				}
			}
		})
	}
}

func TestPutBackJobsReturnByTheDatabasesClock(t *testing.T) {
	t.Parallel()
	for name, shift := range shifts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.startClock(shift)
			j := f.submit(request)
			if _, err := f.db.Owner.Exec(t.Context(), `insert into leases (job, holder, expires_at, tokens) values ($1, $2, clock_timestamp() + interval '1 hour', 0)`, j.ID, uuid.New()); err != nil {
				t.Fatal(err)
			}
			f.work(newEngine())
			f.awaitPutBack(j)
			at := f.fromDatabase(`select scheduled_at from ` + migrations.RiverJobs)
			if wait := at.Sub(f.fromDatabase(databaseClock)); wait > 5*time.Second || wait < -time.Minute {
				t.Errorf("the job is put back for %v", wait)
			}
		})
	}
}

func TestDeadWorkersJobsAreContinuedByTheDatabasesClock(t *testing.T) {
	t.Parallel()
	for name, shift := range shifts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, e := newFixture(t), newEngine()
			f.startClock(shift)
			j := f.orphan(12, 0, "-1 second")
			f.work(e)
			j = f.until(j, final)
			if want := e.text("prompt", j.Params); j.State != events.Completed || j.Text != want {
				t.Fatalf("%s %q, want %q", j.State, j.Text, want)
			}
		})
	}
}

// TestClockSetBack sets the clock back while a job waits and another job's worker is dead.
// The waiting job must start. The dead worker's lease must expire within the time of a
// lease.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	for name, running := range map[string]bool{"under a worker": true, "before a worker starts": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, e := newFixture(t), newEngine()
			f.startClock(0)
			left := f.orphan(12, 0, "1 minute")
			gate := make(chan struct{})
			e.pause[6+3] = gate
			if running {
				f.workSlots(e, 1)
				f.awaitSweep()
				f.until(f.submit(request), tokens(3)) // occupies the worker
			}
			waiting := f.submit(request)
			f.db.ShiftClock(t, -time.Hour)
			close(gate)
			if !running {
				f.workSlots(e, 1)
			}
			if waiting = f.until(waiting, final); waiting.State != events.Completed {
				t.Errorf("%+v", waiting)
			}
			for poll := time.NewTicker(5 * time.Millisecond); ; <-poll.C {
				var lease, attempted time.Duration
				err := f.db.Owner.QueryRow(t.Context(), `
					select expires_at - clock_timestamp(), attempted_at - clock_timestamp()
					from leases join `+migrations.RiverJobs+` on args->>'job' = job::text and state = 'running' where job = $1`, left.ID).Scan(&lease, &attempted)
				if errors.Is(err, pgx.ErrNoRows) { // the lease has expired
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if lease <= 3*time.Second && attempted <= 0 {
					break
				}
			}
		})
	}
}

// TestClockSetForwardKeepsLeases sets the clock forward under a worker. All leases expire
// at once, but the worker is alive and must keep its job.
func TestClockSetForwardKeepsLeases(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	f.startClock(0)
	gate := make(chan struct{})
	e.pause[6+12] = gate
	f.work(e)
	j := f.until(f.submit(request), tokens(12))
	f.awaitSweep()
	f.db.ShiftClock(t, time.Minute)
	shifted := f.fromDatabase(databaseClock)
	for poll := time.NewTicker(5 * time.Millisecond); f.fromDatabase(`select expires_at from leases`).Before(shifted); <-poll.C {
	}
	close(gate)
	if j = f.until(j, final); j.State != events.Completed || j.Attempts != 1 {
		t.Errorf("%s after %d starts, want completed after 1", j.State, j.Attempts)
	}
}

// awaitSweep waits until a worker has searched for expired leases. Such a search also
// removes the leases of final jobs.
func (f *fixture) awaitSweep() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	// The job has no queue entry, so that no worker takes it.
	j, err := f.store.AppendJob(ctx, events.Job{ID: uuid.Must(uuid.NewV7()), Owner: f.owner},
		events.JobAccepted{Prompt: "p", PromptTokens: 1, Model: "fake"}, events.JobCancelled{By: "owner"})
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.db.Owner.Exec(ctx, `insert into leases (job, holder, expires_at, tokens) values ($1, $2, clock_timestamp() - interval '1 second', 0)`, j.ID, uuid.New()); err != nil {
		f.t.Fatal(err)
	}
	for poll := time.NewTicker(5 * time.Millisecond); ; {
		var left bool
		if err := f.db.Owner.QueryRow(ctx, `select exists (select from leases where job = $1)`, j.ID).Scan(&left); err != nil {
			f.t.Fatal(err)
		}
		if !left {
			return
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			f.t.Fatal("no search for expired leases")
		}
	}
}
