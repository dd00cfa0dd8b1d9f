package jobs_test

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/vault"
	"colophon/jobs"
	"colophon/migrations"
)

// damage makes an event of a job unreadable.
func (f *fixture) damage(j events.Job, version int) {
	f.t.Helper()
	f.db.Damage(f.t, `update events set payload = '\x00' where stream = $1 and version = $2`, events.JobStream(j.ID), version)
}

// entry returns the state of a job's queue entry.
func (f *fixture) entry(j events.Job) (state string) {
	f.t.Helper()
	err := f.db.Owner.QueryRow(f.t.Context(), `select state from `+migrations.RiverJobs+` where args->>'job' = $1 order by id desc limit 1`, j.ID).Scan(&state)
	if err != nil {
		f.t.Fatal(err)
	}
	return state
}

// eventually waits until ok returns true.
func (f *fixture) eventually(what string, ok func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("not within a minute: %s", what)
		}
	}
}

// TestDamagedJobLeavesTheQueue damages the events of a queued job. The job must leave the
// queue, and the job behind it must run.
func TestDamagedJobLeavesTheQueue(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	damaged, next := f.submit(request), f.submit(request)
	f.damage(damaged, 1)
	f.workSlots(e, 1)
	if j := f.until(next, final); j.State != events.Completed {
		t.Fatalf("the next job: %+v", j)
	}
	f.eventually("the queue entry ends", func() bool { return f.entry(damaged) == "cancelled" })
	if n, err := f.store.Queued(t.Context(), "", 10); err != nil || n != 0 {
		t.Errorf("%d jobs queued, %v, want none", n, err)
	}
	if _, err := f.queue.Cancel(t.Context(), damaged, events.JobCancelled{By: "owner"}); !errors.Is(err, events.ErrDamaged) {
		t.Errorf("cancel: %v, want ErrDamaged", err)
	}
}

// TestRunningJobStopsWhenItsDamageIsFound damages a running job, and another process
// finds the damage. The job must stop, and nothing more may be appended to its events.
func TestRunningJobStopsWhenItsDamageIsFound(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	gate := make(chan struct{})
	e.pause[len(request.Prompt)+5] = gate
	f.work(e)
	j := f.until(f.submit(request), tokens(1))
	f.damage(j, 1)
	if _, err := f.store.Job(t.Context(), j.ID); !errors.Is(err, events.ErrDamaged) {
		t.Fatalf("%v, want ErrDamaged", err)
	}
	count := func() (n int) {
		if err := f.db.Owner.QueryRow(t.Context(), `select count(*) from events where stream = $1`, events.JobStream(j.ID)).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count()
	close(gate)
	f.eventually("the queue entry ends", func() bool { return f.entry(j) == "cancelled" })
	if after := count(); after != before {
		t.Errorf("%d events were added to a damaged stream", after-before)
	}
	var leases int
	if err := f.db.Owner.QueryRow(t.Context(), `select count(*) from leases`).Scan(&leases); err != nil || leases != 0 {
		t.Errorf("%d leases left, %v, want none", leases, err)
	}
}

// TestDamagedJobIsOverdueOnce damages a job whose deadline has passed. The search for
// overdue jobs must find the job only once. It must still end another overdue job.
func TestDamagedJobIsOverdueOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	damaged, other := f.submit(within(time.Millisecond)), f.submit(within(time.Millisecond))
	f.damage(damaged, 1)
	f.runQueue()
	if j := f.until(other, final); j.State != events.Cancelled {
		t.Errorf("another job: %+v", j)
	}
	f.eventually("no job is overdue", func() bool {
		late, err := f.store.Overdue(t.Context(), 0, 10)
		return err == nil && len(late) == 0
	})
}

// TestEraseDestroysTheKeyOfDamagedJobs erases an owner with a damaged event, an owner
// with events of a later version, and an owner with a damaged key. The key must be
// destroyed each time, and the readable jobs must be ended.
func TestEraseDestroysTheKeyOfDamagedJobs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for what, damage := range map[string]func(events.Job){
		"event": func(j events.Job) { f.damage(j, 1) },
		"later version": func(j events.Job) {
			f.db.Damage(t, `update events set payload = convert_to(replace(convert_from(payload, 'UTF8'), '"schema":2', '"schema":9'), 'UTF8') where stream = $1`,
				events.JobStream(j.ID))
		},
		"key": func(j events.Job) { f.db.Damage(t, `update owner_keys set wrapped = '\x00' where owner = $1`, j.Owner) },
	} {
		owner := f.register()
		var all []events.Job
		for range 3 {
			j, err := f.queue.Submit(t.Context(), owner, request)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, j)
		}
		damage(all[1])
		f.close(owner)
		v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize)) // a new vault, which has not cached the owner's key
		if err != nil {
			t.Fatal(err)
		}
		store := events.NewStore(f.db.App, v, slog.New(slog.DiscardHandler))
		if err := jobs.Erase(t.Context(), store, owner); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		f.mustHaveNoKey(what, owner)
		outstanding, err := store.Outstanding(t.Context(), owner, 10)
		if err != nil || len(outstanding) != 0 {
			t.Errorf("%s: outstanding jobs: %v, %v, want none", what, outstanding, err)
		}
		if _, err := store.RebuildHistory(t.Context(), events.Observer{}); err != nil {
			t.Errorf("%s: rebuild: %v", what, err)
		}
		if outstanding, err = store.Outstanding(t.Context(), owner, 10); err != nil || len(outstanding) != 0 {
			t.Errorf("%s: outstanding jobs after a rebuild: %v, %v, want none", what, outstanding, err)
		}
	}
}

func (f *fixture) mustHaveNoKey(what string, owner uuid.UUID) {
	f.t.Helper()
	var gone bool
	if err := f.db.Owner.QueryRow(f.t.Context(), `select wrapped is null from owner_keys where owner = $1`, owner).Scan(&gone); err != nil || !gone {
		f.t.Errorf("%s: the key is still there, %v", what, err)
	}
}
