package jobs_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/vault"
	"colophon/jobs"
)

// close closes an owner, which is the first step of an erasure.
func (f *fixture) close(owner uuid.UUID) {
	f.t.Helper()
	if err := f.store.Write(f.t.Context(), func(tx *events.Tx) error { return tx.CloseOwner(f.t.Context(), owner) }); err != nil {
		f.t.Fatal(err)
	}
}

// mustBeErased fails the test unless the given jobs are cancelled and unreadable.
func (f *fixture) mustBeErased(all []events.Job) {
	f.t.Helper()
	for _, j := range all {
		now, err := f.store.Job(f.t.Context(), j.ID)
		if err != nil || now.State != events.Cancelled || !now.Erased || now.Prompt != "" || now.Text != "" || now.Reason != "the account was erased" {
			f.t.Errorf("job of an erased owner: %+v, %v", now, err)
		}
	}
	if r, err := f.store.CheckHistory(f.t.Context(), events.Observer{}); err != nil || r.Wrong > 0 {
		f.t.Errorf("%d of %d rows of the history wrong, %v", r.Wrong, r.Jobs, err)
	}
}

// TestEraseCancelsJobsAndHidesTexts erases an owner who has running and queued jobs.
// The job of another owner must complete.
func TestEraseCancelsJobsAndHidesTexts(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	gate := make(chan struct{}) // each job waits at its fifth new token until gate is closed
	e.pause[len(request.Prompt)+5] = gate
	f.workSlots(e, 2)
	var all []events.Job
	for range 5 {
		all = append(all, f.submit(request))
	}
	f.until(all[0], tokens(1))
	other := f.register()
	kept, err := f.queue.Submit(t.Context(), other, request)
	if err != nil {
		t.Fatal(err)
	}
	f.close(f.owner)
	if _, err := f.queue.Submit(t.Context(), f.owner, request); !errors.Is(err, vault.ErrErased) {
		t.Errorf("submit of a closed owner: %v, want ErrErased", err)
	}
	for range 2 {
		if err := f.queue.Erase(t.Context(), f.owner); err != nil {
			t.Fatal(err)
		}
	}
	f.mustBeErased(all)
	close(gate)
	if now := f.until(kept, final); now.State != events.Completed {
		t.Errorf("job of another owner: %+v", now)
	}
	f.awaitIdle(e)
	f.mustBeErased(all)
}

// TestInterruptedEraseIsFinished stops an erasure after its first step, like a dying
// process. The search for closed owners must finish the erasure.
func TestInterruptedEraseIsFinished(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	all := []events.Job{f.submit(request), f.submit(request)}
	f.close(f.owner)
	jobs.EraseClosed(f.newQueue(jobs.Limits{}), t.Context())
	f.mustBeErased(all)
	if owners, err := f.store.ClosedOwners(t.Context(), 10); err != nil || len(owners) != 0 {
		t.Errorf("closed owners left: %v, %v", owners, err)
	}
}

// TestEraseEndsConcurrentSubmits erases an owner who keeps submitting jobs. After the
// erasure, every job of the owner must be final and unreadable.
func TestEraseEndsConcurrentSubmits(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	f.work(e)
	var mu sync.Mutex
	var all []events.Job
	started := make(chan struct{}, 4)
	var wg sync.WaitGroup
	for range cap(started) {
		wg.Go(func() {
			for n := 0; ; n++ {
				j, err := f.queue.Submit(context.Background(), f.owner, request)
				if errors.Is(err, vault.ErrErased) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				all = append(all, j)
				mu.Unlock()
				if n == 0 {
					started <- struct{}{}
				}
			}
		})
	}
	for range cap(started) {
		<-started
	}
	f.close(f.owner)
	if err := f.queue.Erase(t.Context(), f.owner); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	for _, j := range all {
		now, err := f.store.Job(t.Context(), j.ID)
		if err != nil || !now.State.Final() || !now.Erased || now.Prompt != "" {
			t.Errorf("job of an erased owner: %+v, %v", now, err)
		}
	}
	if r, err := f.store.CheckHistory(t.Context(), events.Observer{}); err != nil || r.Wrong > 0 || r.Jobs != len(all) {
		t.Errorf("%d of %d rows of the history wrong, %v", r.Wrong, r.Jobs, err)
	}
}
