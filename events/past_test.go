package events_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"colophon/events"
)

func TestJobBeforeStopsAtTheFirstLateEvent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	job := f.newJob()
	jobs := []events.Job{{}} // the job after each version
	for _, fact := range completedFacts() {
		var err error
		if job, err = f.AppendJob(t.Context(), job, fact); err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, job)
	}
	for version, want := range jobs {
		latest, past, err := f.JobBefore(t.Context(), job.ID, func(e events.Event) bool { return e.Version == version+1 })
		if err != nil || !cmp.Equal(latest, job) || !cmp.Equal(past, want) {
			t.Errorf("version %d: %v\n%s%s", version, err, cmp.Diff(job, latest), cmp.Diff(want, past))
		}
	}
}

// TestHistoryOfATimeGrowsUntilItsTransactionsEnd reads the history of a time at which a
// transaction was under way. The job of the transaction must be in the history after the
// commit only, although its time had come before.
func TestHistoryOfATimeGrowsUntilItsTransactionsEnd(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	facts := completedFacts()
	job, err := f.put(t.Context(), f.newJob(), facts[:len(facts)-1]...)
	if err != nil {
		t.Fatal(err)
	}
	asOf := func(at time.Time) int {
		t.Helper()
		records, err := f.HistoryAsOf(t.Context(), f.owner, uuid.UUID{}, 10, at)
		if err != nil {
			t.Fatal(err)
		}
		return len(records)
	}
	err = f.Write(t.Context(), func(tx *events.Tx) (err error) {
		if job, err = tx.AppendJob(t.Context(), job, facts[len(facts)-1]); err == nil && asOf(job.FinishedAt) != 0 {
			t.Error("the history has a job before its commit")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := asOf(job.FinishedAt); n != 1 {
		t.Errorf("%d jobs at the time of the completion, want 1", n)
	}
	if n := asOf(job.FinishedAt.Add(-time.Microsecond)); n != 0 {
		t.Errorf("%d jobs before the time of the completion, want 0", n)
	}
}
