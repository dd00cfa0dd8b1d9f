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

func (f *fixture) mustClose(t *testing.T) {
	t.Helper()
	if err := f.Write(t.Context(), func(tx *events.Tx) error { return tx.Close(t.Context(), f.owner) }); err != nil {
		t.Fatal(err)
	}
}

// What a closed owner has begun can be ended, and nothing else begun.
func TestAClosedOwnerBeginsNothing(t *testing.T) {
	f := newFixture(t)
	open, err := f.put(t.Context(), f.newJob(), course()[:3]...)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		f.mustClose(t)
		if _, err := f.put(t.Context(), f.newJob(), course()[0]); !errors.Is(err, vault.ErrErased) {
			t.Errorf("a new job: %v, want ErrErased", err)
		}
	}
	outstanding, err := f.Outstanding(t.Context(), f.owner, 10)
	if err != nil || !slices.Equal(outstanding, []uuid.UUID{open.ID}) {
		t.Errorf("outstanding: %v, %v", outstanding, err)
	}
	if owners, err := f.Closed(t.Context(), 10); err != nil || !slices.Equal(owners, []uuid.UUID{f.owner}) {
		t.Errorf("closed: %v, %v", owners, err)
	}
	if _, err := f.put(t.Context(), open, events.JobCancelled{By: "owner"}); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := f.Erase(t.Context(), f.owner); err != nil {
			t.Fatal(err)
		}
	}
	if owners, err := f.Closed(t.Context(), 10); err != nil || len(owners) != 0 {
		t.Errorf("closed and not erased: %v, %v", owners, err)
	}
}

// Once an owner is closed, all jobs that get on record are among the outstanding.
func TestCloseWhileJobsAreBegun(t *testing.T) {
	f := newFixture(t)
	var mu sync.Mutex
	var begun []uuid.UUID // as many as there is time for
	started := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for range cap(started) {
		wg.Go(func() {
			for n := 0; ; n++ {
				j, err := f.put(t.Context(), f.newJob(), course()[0])
				if errors.Is(err, vault.ErrErased) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				begun = append(begun, j.ID)
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
	f.mustClose(t)
	outstanding, err := f.Outstanding(t.Context(), f.owner, 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	for _, id := range begun {
		if !slices.Contains(outstanding, id) {
			t.Errorf("job %s was begun after the end", id)
		}
	}
	if len(begun) != len(outstanding) {
		t.Errorf("%d jobs begun, %d outstanding", len(begun), len(outstanding))
	}
}

// What is left of an erased owner's jobs, in whatever state they ended, agrees
// with the events and can be made from them again.
func TestTheHistoryOfAnErasedOwnerIsChecked(t *testing.T) {
	f := newFixture(t)
	for n := range len(course()) {
		for _, last := range []events.Fact{events.JobCancelled{By: "owner"}, events.JobFailed{Attempt: 1, Reason: "r", Final: true}} {
			if _, err := f.put(t.Context(), f.newJob(), append(course()[:max(1, n)], last)...); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := f.put(t.Context(), f.newJob(), course()...); err != nil {
		t.Fatal(err)
	}
	if err := f.Erase(t.Context(), f.owner); err != nil {
		t.Fatal(err)
	}
	for _, after := range []string{"the erasure", "a rebuild"} {
		if jobs, wrong, err := f.CheckHistory(t.Context()); err != nil || len(wrong) > 0 || jobs != 11 {
			t.Errorf("after %s: %d of %d rows are wrong, %v", after, len(wrong), jobs, err)
		}
		if records, err := f.History(t.Context(), f.owner, uuid.UUID{}, 10); err != nil || len(records) != 0 {
			t.Errorf("after %s: %+v, %v", after, records, err)
		}
		if _, err := f.RebuildHistory(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	// A row that is wrong is found all the same.
	if _, err := f.db.Owner.Exec(t.Context(), `update history set state = 'failed' where state = 'cancelled'`); err != nil {
		t.Fatal(err)
	}
	if _, wrong, err := f.CheckHistory(t.Context()); err != nil || len(wrong) != 5 {
		t.Errorf("%d rows are wrong, want 5, %v", len(wrong), err)
	}
}

func TestPagesOfAStream(t *testing.T) {
	f := newFixture(t)
	j, err := f.put(t.Context(), f.newJob(), course()...)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1; size <= j.Version+1; size++ {
		last := 0
		for {
			page, err := f.Page(t.Context(), events.JobStream(j.ID), last, size)
			if err != nil || len(page) > size {
				t.Fatalf("%d events, %v", len(page), err)
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
			t.Errorf("pages of %d end at %d of %d", size, last, j.Version)
		}
	}
}
