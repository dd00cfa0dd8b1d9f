package jobs_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"colophon/events"
	"colophon/jobs"
	"colophon/migrations"
	"colophon/test/apitest"
)

// unreadable makes a job unreadable for the processes that start later, and returns a
// function that makes it readable again.
func (f *fixture) unreadable(j events.Job) (mend func()) {
	f.t.Helper()
	var wrapped []byte
	if err := f.db.Owner.QueryRow(f.t.Context(), `select wrapped from owner_keys where owner = $1`, j.Owner).Scan(&wrapped); err != nil {
		f.t.Fatal(err)
	}
	set := func(wrapped []byte) {
		if _, err := f.db.Owner.Exec(f.t.Context(), `update owner_keys set wrapped = $2 where owner = $1`, j.Owner, wrapped); err != nil {
			f.t.Fatal(err)
		}
	}
	set(bytes.Repeat([]byte{1}, len(wrapped)))
	f.store = f.newStore() // the new store has no cached key
	return func() { set(wrapped); f.store = f.newStore() }
}

// TestDeadlineEndsAnUnreadableJob submits jobs that no worker can read, because their
// owner's key does not open or because a later version wrote them. Their deadlines must end
// them: they must leave the queue. A rebuild with the right key must find such a job again,
// and end it as cancelled.
func TestDeadlineEndsAnUnreadableJob(t *testing.T) {
	t.Parallel()
	for _, cause := range []string{"key", "later version"} {
		f := newFixture(t)
		j, mend := f.submit(within(time.Millisecond)), func() {}
		if cause == "key" {
			mend = f.unreadable(j)
		} else {
			f.db.Damage(t, `update events set payload = convert_to(replace(convert_from(payload, 'UTF8'), '"schema":2', '"schema":9'), 'UTF8') where stream = $1`,
				events.JobStream(j.ID))
		}
		f.work(newEngine())
		f.eventually(cause+": the queue entry ends", func() bool { return f.entry(j) == "cancelled" })
		if n, err := f.store.Queued(t.Context(), "", 10); err != nil || n != 0 {
			t.Errorf("%s: %d jobs queued, %v, want none", cause, n, err)
		}
		if late, err := f.store.Overdue(t.Context(), 0, 10); err != nil || len(late) != 0 {
			t.Errorf("%s: overdue: %v, %v, want none", cause, late, err)
		}
		if cause == "later version" {
			continue
		}
		mend()
		if _, err := f.store.RebuildHistory(t.Context(), events.Observer{}); err != nil {
			t.Fatal(err)
		}
		f.queue = f.newQueue(jobs.Limits{})
		f.runQueue()
		f.mustEndAtDeadline(f.until(events.Job{ID: j.ID}, final))
	}
}

// TestUnreadableJobIsPutBackLessOften gives a job that cannot be read to a worker. Each time
// the worker must put it back for longer. It must log the job once, and not each time.
func TestUnreadableJobIsPutBackLessOften(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j := f.submit(request)
	f.unreadable(j)
	var log apitest.Log
	f.workSlots(newEngine(), 1, func(w *jobs.Worker) { w.LogTo(slog.NewTextHandler(&log, nil)) })
	// A worker that has just started shortens all delays now and then, because the clock may
	// have been set back before.
	f.eventually("the sixth delay, or a later one, is long", func() bool {
		var delay time.Duration
		err := f.db.Owner.QueryRow(t.Context(), `select coalesce(scheduled_at - attempted_at, '0') from `+migrations.RiverJobs).Scan(&delay)
		if err != nil {
			t.Fatal(err)
		}
		return f.putBack(j) >= 6 && delay >= 32*20*time.Millisecond
	})
	if n := strings.Count(log.String(), j.ID.String()); n != 1 {
		t.Errorf("%d records of the job, want 1:\n%s", n, &log)
	}
}
