package events_test

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/vault"
)

func (f *fixture) closeOwner(t *testing.T) {
	t.Helper()
	if err := f.Write(t.Context(), func(tx *events.Tx) error { return tx.CloseOwner(t.Context(), f.owner) }); err != nil {
		t.Fatal(err)
	}
}

// TestClosedOwnerGetsNoNewJobs closes an owner who has an outstanding job. New jobs
// must be refused. It must be possible to end the outstanding job.
func TestClosedOwnerGetsNoNewJobs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	open, err := f.put(t.Context(), f.newJob(), completedFacts()[:3]...)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		f.closeOwner(t)
		if _, err := f.put(t.Context(), f.newJob(), completedFacts()[0]); !errors.Is(err, vault.ErrErased) {
			t.Errorf("new job: %v, want ErrErased", err)
		}
	}
	outstanding, err := f.Outstanding(t.Context(), f.owner, 10)
	if err != nil || !slices.Equal(outstanding, []uuid.UUID{open.ID}) {
		t.Errorf("outstanding jobs: %v, %v, want %v", outstanding, err, open.ID)
	}
	if owners, err := f.ClosedOwners(t.Context(), 10); err != nil || !slices.Equal(owners, []uuid.UUID{f.owner}) {
		t.Errorf("closed owners: %v, %v, want %v", owners, err, f.owner)
	}
	if _, err := f.put(t.Context(), open, events.JobCancelled{By: "owner"}); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := f.Erase(t.Context(), f.owner); err != nil {
			t.Fatal(err)
		}
	}
	if owners, err := f.ClosedOwners(t.Context(), 10); err != nil || len(owners) != 0 {
		t.Errorf("closed owners after the erasure: %v, %v, want none", owners, err)
	}
}

// TestCloseOwnerMissesNoConcurrentJob closes an owner while jobs of the owner are being
// accepted. After CloseOwner, Outstanding must return every accepted job.
func TestCloseOwnerMissesNoConcurrentJob(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var mu sync.Mutex
	var accepted []uuid.UUID // ids of the jobs that are accepted until the owner is closed
	started := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for range cap(started) {
		wg.Go(func() {
			for n := 0; ; n++ {
				j, err := f.put(t.Context(), f.newJob(), completedFacts()[0])
				if errors.Is(err, vault.ErrErased) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				accepted = append(accepted, j.ID)
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
	f.closeOwner(t)
	outstanding, err := f.Outstanding(t.Context(), f.owner, 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	for _, id := range accepted {
		if !slices.Contains(outstanding, id) {
			t.Errorf("job %s was accepted but is not outstanding", id)
		}
	}
	if len(accepted) != len(outstanding) {
		t.Errorf("%d jobs accepted, %d outstanding", len(accepted), len(outstanding))
	}
}

// TestHistoryOfAnErasedOwnerIsCheckedAndRebuilt erases an owner whose jobs ended in
// different ways. The rows of these jobs must agree with the events, before and after a
// rebuild.
func TestHistoryOfAnErasedOwnerIsCheckedAndRebuilt(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for n := range len(completedFacts()) {
		for _, last := range []events.Fact{events.JobCancelled{By: "owner"}, events.JobFailed{Attempt: 1, Reason: "r", Final: true}} {
			if _, err := f.put(t.Context(), f.newJob(), append(completedFacts()[:max(1, n)], last)...); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := f.put(t.Context(), f.newJob(), completedFacts()...); err != nil {
		t.Fatal(err)
	}
	if err := f.Erase(t.Context(), f.owner); err != nil {
		t.Fatal(err)
	}
	for _, after := range []string{"the erasure", "a rebuild"} {
		if r, err := f.CheckHistory(t.Context(), events.Observer{}); err != nil || r.Wrong > 0 || r.Jobs != 11 {
			t.Errorf("after %s: %d of %d rows wrong, %v, want none of 11", after, r.Wrong, r.Jobs, err)
		}
		if records, err := f.History(t.Context(), f.owner, uuid.UUID{}, 10); err != nil || len(records) != 0 {
			t.Errorf("after %s: history %+v, %v, want none", after, records, err)
		}
		if _, err := f.RebuildHistory(t.Context(), events.Observer{}); err != nil {
			t.Fatal(err)
		}
	}
	// CheckHistory must find wrong rows even if the owner is erased.
	if _, err := f.db.Owner.Exec(t.Context(), `update history set state = 'failed' where state = 'cancelled'`); err != nil {
		t.Fatal(err)
	}
	if r, err := f.CheckHistory(t.Context(), events.Observer{}); err != nil || r.Wrong != 5 {
		t.Errorf("%d rows wrong, want 5, %v", r.Wrong, err)
	}
}

func TestPagesCoverTheStream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j, err := f.put(t.Context(), f.newJob(), completedFacts()...)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1; size <= j.Version+1; size++ {
		last := 0
		for {
			page, err := f.Page(t.Context(), events.JobStream(j.ID), last, size)
			if err != nil || len(page) > size {
				t.Fatalf("page of %d events, %v, want at most %d", len(page), err, size)
			}
			for _, e := range page {
				if last++; e.Version != last {
					t.Errorf("version %d after %d", e.Version, last-1)
				}
			}
			if len(page) < size {
				break
			}
		}
		if last != j.Version {
			t.Errorf("pages of %d events end at version %d of %d", size, last, j.Version)
		}
	}
}
