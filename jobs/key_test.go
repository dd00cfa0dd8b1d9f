package jobs_test

import (
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/jobs"
	"colophon/migrations"
)

func keyed(r jobs.Request, payload string) jobs.Request {
	r.Key = &events.IdempotencyKey{Scope: "somebody", Key: "k", Payload: []byte(payload)}
	return r
}

func (f *fixture) inQueue() (n int) {
	f.t.Helper()
	if err := f.db.Owner.QueryRow(f.t.Context(), `select count(*) from `+migrations.RiverJobs).Scan(&n); err != nil {
		f.t.Fatal(err)
	}
	return n
}

func TestARequestUnderAKeyMakesOneJob(t *testing.T) {
	f := newFixture(t)
	var wg sync.WaitGroup
	ids := make([]uuid.UUID, 20)
	for i := range ids {
		wg.Go(func() {
			j, err := f.queue.Submit(t.Context(), f.owner, keyed(request, "a"))
			if err != nil {
				t.Errorf("at once: %v", err)
			}
			ids[i] = j.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("jobs %s and %s", ids[0], id)
		}
	}
	if n := f.inQueue(); n != 1 {
		t.Errorf("%d places in the queue", n)
	}
	if _, err := f.queue.Submit(t.Context(), f.owner, keyed(request, "b")); !errors.Is(err, events.ErrKeyReused) {
		t.Errorf("another payload: %v", err)
	}
	// Sent again later, it is the job as it then is.
	f.work(newEngine())
	done := f.until(events.Job{ID: ids[0]}, final)
	if j := f.submit(keyed(request, "a")); j.ID != ids[0] || j.State != events.Completed || j.Text != done.Text {
		t.Errorf("after its end: %+v", j)
	}
	if n := f.inQueue(); n != 1 {
		t.Errorf("%d places in the queue", n)
	}
}

// TestAKeyIsGoodWhenNothingElseIs asks again for what there would be no room for now.
func TestAKeyIsGoodWhenNothingElseIs(t *testing.T) {
	f := newLimitedFixture(t, jobs.Limits{Outstanding: 1})
	first := f.submit(keyed(request, "a"))
	_, err := f.queue.Submit(t.Context(), f.owner, request)
	if _, ok := errors.AsType[*jobs.OutstandingError](err); !ok {
		t.Fatalf("a second job: %v", err)
	}
	if again := f.submit(keyed(request, "a")); again.ID != first.ID {
		t.Errorf("made %s beside %s", again.ID, first.ID)
	}
}

func TestARefusalIsNotRemembered(t *testing.T) {
	f := newFixture(t)
	refused := keyed(request, "a")
	refused.Prompt = "such violence"
	_, err := f.queue.Submit(t.Context(), f.owner, refused)
	if _, ok := errors.AsType[policy.Refusal](err); !ok {
		t.Fatalf("%v", err)
	}
	if j := f.submit(keyed(request, "b")); j.State != events.Queued {
		t.Errorf("%+v", j)
	}
}

func TestTheOutlookOfJobs(t *testing.T) {
	f, e := newFixture(t), newEngine()
	outlook := func(j events.Job) jobs.Outlook {
		t.Helper()
		// The pace is remembered: another queue looks anew.
		q, err := jobs.NewQueue(f.db.App, f.store, jobs.Model{}, policy.Default, jobs.Limits{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		o, err := q.Outlook(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	first, second := f.submit(request), f.submit(request)
	for place, j := range []events.Job{first, second} {
		if o := outlook(j); o.Place != place+1 || !o.Start.IsZero() || o.Look != time.Second {
			t.Errorf("nothing is known, but %+v", o)
		}
	}
	stop := f.work(e)
	first = f.until(first, final)
	f.until(second, final)
	stop()
	if o := outlook(first); o.Place != 0 || !o.Start.IsZero() {
		t.Errorf("of a job that has ended: %+v", o)
	}
	third, fourth := f.submit(request), f.submit(request)
	if o := outlook(third); o.Place != 1 || !o.Start.IsZero() {
		t.Errorf("nobody works, but %+v", o)
	}
	// As if jobs took 20 seconds and two were running.
	for _, sql := range []string{
		`update history set started_at = finished_at - interval '20 seconds' where finished_at is not null`,
		`insert into leases (job, holder, expires_at, tokens) select gen_random_uuid(), gen_random_uuid(), now() + interval '1 hour', 0 from generate_series(1, 2)`,
	} {
		if _, err := f.db.Owner.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		job   events.Job
		place int
		wait  time.Duration
		look  time.Duration
	}{{third, 1, 10 * time.Second, 10 * time.Second}, {fourth, 2, 20 * time.Second, 20 * time.Second}} {
		before := time.Now()
		o := outlook(c.job)
		if o.Place != c.place || o.Start.Before(before.Add(c.wait).Truncate(time.Second)) || o.Start.After(time.Now().Add(c.wait+time.Second)) {
			t.Errorf("place %d, start in %v, want %d and %v", o.Place, o.Start.Sub(before), c.place, c.wait)
		}
		if off := o.Look - c.look; off.Abs() > 5*time.Second {
			t.Errorf("look again in %v, want %v", o.Look, c.look)
		}
	}
	running := third
	running.State, running.StartedAt = events.Running, time.Now().Add(-12*time.Second)
	if o := outlook(running); o.Place != 0 || o.Look > 8*time.Second || o.Look < time.Second {
		t.Errorf("of a running job: %+v", o)
	}
}
