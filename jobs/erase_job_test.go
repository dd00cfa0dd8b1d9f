package jobs_test

import (
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/jobs"
)

// mustBeErasedAlone fails the test unless a job is a tombstone in the given state, its rows
// have no ciphertext and the history agrees.
func (f *fixture) mustBeErasedAlone(id uuid.UUID, state events.State, by string) {
	f.t.Helper()
	now, err := f.store.Job(f.t.Context(), id)
	if err != nil || now.State != state || !now.Erased || now.ErasedAt.IsZero() || now.Prompt+now.Text != "" {
		f.t.Errorf("erased job: %+v, %v", now, err)
	}
	all, err := f.store.Read(f.t.Context(), events.JobStream(id), 0)
	if err != nil || all[len(all)-1].Fact.(events.JobErased).By != by {
		f.t.Errorf("events of an erased job: %+v, %v", all, err)
	}
	var sealed int
	err = f.db.Owner.QueryRow(f.t.Context(), `select (select count(*) from events where stream = $1 and sealed is not null)
		+ (select count(*) from history where job = $2 and sealed is not null)`, events.JobStream(id), id).Scan(&sealed)
	if err != nil || sealed != 0 {
		f.t.Errorf("%d rows of an erased job have a ciphertext, %v", sealed, err)
	}
	if r, err := f.store.CheckHistory(f.t.Context(), events.Observer{}); err != nil || r.Wrong > 0 || len(r.Damaged) > 0 {
		f.t.Errorf("%d rows of the history wrong, %d streams damaged, %v", r.Wrong, len(r.Damaged), err)
	}
}

// TestEraseJobInEveryState erases a queued, a running and an ended job, each one twice. The
// queue entries of the erased jobs must end.
func TestEraseJobInEveryState(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	gate := make(chan struct{}) // each job waits at its fifth new token until gate is closed
	e.pause[len(request.Prompt)+5] = gate
	f.workSlots(e, 1)
	running := f.submit(request)
	queued := f.submit(request)
	f.until(running, tokens(1))
	for _, j := range []events.Job{queued, running} {
		after, err := f.queue.EraseJob(t.Context(), j) // running has advanced since it was read
		if err != nil || after.State != events.Cancelled || after.ErasedAt.IsZero() || after.Prompt+after.Text != "" {
			t.Errorf("%+v, %v", after, err)
		}
		if again, err := f.queue.EraseJob(t.Context(), j); err != nil || again.Version != after.Version {
			t.Errorf("again: %+v, %v", again, err)
		}
		f.mustBeErasedAlone(j.ID, events.Cancelled, "owner")
	}
	close(gate)
	ended := f.until(f.submit(request), final)
	if _, err := f.queue.EraseJob(t.Context(), ended); err != nil {
		t.Fatal(err)
	}
	f.mustBeErasedAlone(ended.ID, events.Completed, "owner")
	f.awaitIdle(e)
	f.mustBeErasedAlone(running.ID, events.Cancelled, "owner")
}

// TestEraseJobWhileAWorkerAppends erases jobs at random moments of their lives, from two
// queues at once. Each job must be erased once, and no worker may add to it afterwards.
func TestEraseJobWhileAWorkerAppends(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	f.work(e)
	queues := []*jobs.Queue{f.queue, f.newQueue(jobs.Limits{})}
	var all []events.Job
	for n := range 20 {
		j := f.submit(request)
		all = append(all, j)
		if n%4 > 0 {
			j = f.until(j, tokens(n)) // or until it has ended
		}
		var wg sync.WaitGroup
		for _, q := range queues {
			wg.Go(func() {
				if after, err := q.EraseJob(t.Context(), j); err != nil || after.ErasedAt.IsZero() {
					t.Errorf("%+v, %v", after, err)
				}
			})
		}
		wg.Wait()
	}
	f.awaitIdle(e)
	for _, j := range all {
		now, err := f.store.Job(t.Context(), j.ID)
		if err != nil {
			t.Fatal(err)
		}
		f.mustBeErasedAlone(j.ID, now.State, "owner")
	}
}

// TestRetentionErasesOldTexts lets two processes erase old texts at once. The job of another
// master key and new jobs must stay, and the former must not keep others from being erased.
func TestRetentionErasesOldTexts(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	f.work(e)
	var old []events.Job
	for range 3 {
		old = append(old, f.until(f.submit(request), final))
	}
	unreadable := f.register()
	locked, err := f.queue.Submit(t.Context(), unreadable, request)
	if err != nil {
		t.Fatal(err)
	}
	f.until(locked, final)
	fresh := f.until(f.submit(request), final)
	f.awaitIdle(e)
	// Rows that say wrong things of new jobs, and of one that does not exist, must erase nothing.
	f.db.Damage(t, `update history set finished_at = finished_at - interval '31 days'`)
	f.db.Damage(t, `insert into history (job, owner, state, model, prompt_tokens, completion_tokens, finish_reason, created_at, finished_at, sealed)
		select gen_random_uuid(), owner, state, model, 0, 0, '', created_at, finished_at - interval '1 day', sealed from history where job = $1`, fresh.ID)
	quiet := slog.New(slog.DiscardHandler)
	if err := jobs.EraseOld(t.Context(), f.newStore(), 30*24*time.Hour, quiet); !errors.Is(err, events.ErrNotFound) {
		t.Errorf("by wrong rows: %v, want a job that does not exist", err)
	}
	if now, err := f.store.Job(t.Context(), old[0].ID); err != nil || now.Erased {
		t.Errorf("a new job with a wrong row: %+v, %v", now, err)
	}
	f.db.Damage(t, `delete from history where finished_at < now() - interval '31 days 12 hours'`)
	f.db.Damage(t, `update history set finished_at = now() + interval '1 day' where job = $1`, fresh.ID)
	f.db.Damage(t, `update owner_keys set wrapped = '\x00' where owner = $1`, unreadable)
	var wg sync.WaitGroup
	for range 2 {
		store := f.newStore()
		wg.Go(func() {
			err := jobs.EraseOld(t.Context(), store, time.Millisecond, quiet)
			if _, ok := errors.AsType[*events.Damage](err); !ok {
				t.Errorf("erase old texts: %v, want a job that cannot be read", err)
			}
		})
	}
	wg.Wait()
	f.db.Damage(t, `delete from history where job = $1`, locked.ID)
	f.db.Damage(t, `delete from events where stream = $1`, events.JobStream(locked.ID))
	if _, err := f.store.RebuildHistory(t.Context(), events.Observer{}); err != nil { // mends the row of the new job
		t.Fatal(err)
	}
	for _, j := range old {
		f.mustBeErasedAlone(j.ID, events.Completed, "retention")
	}
	if now, err := f.store.Job(t.Context(), fresh.ID); err != nil || now.Text != fresh.Text || now.Text == "" {
		t.Errorf("a new job: %+v, %v", now, err)
	}
}

// TestUnkeptJobsAreErased lets a queue look for jobs that are not to be kept. Only the one that
// has ended long enough ago may be erased.
func TestUnkeptJobsAreErased(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	unkept := request
	unkept.EraseAtEnd = true
	queued := f.submit(unkept)
	f.work(e)
	ended, kept := f.until(f.submit(unkept), final), f.until(f.submit(request), final)
	f.until(queued, final)
	f.awaitIdle(e)
	if err := jobs.EraseUnkept(f.queue, t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if now, err := f.store.Job(t.Context(), ended.ID); err != nil || now.Erased {
		t.Errorf("%+v, %v, want a job with its text", now, err)
	}
	for range 2 {
		if err := jobs.EraseUnkept(f.queue, t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	f.mustBeErasedAlone(ended.ID, events.Completed, "owner")
	f.mustBeErasedAlone(queued.ID, events.Completed, "owner")
	if now, err := f.store.Job(t.Context(), kept.ID); err != nil || now.Erased || now.Text == "" {
		t.Errorf("%+v, %v, want a job with its text", now, err)
	}
}
