package jobs_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/internal/vault"
	"colophon/jobs"
	"colophon/migrations"
)

func keyed(r jobs.Request, payload string) jobs.Request {
	r.Key = &events.IdempotencyKey{Scope: "test-user", Key: "k", Payload: []byte(payload)}
	return r
}

// queueEntries returns the number of entries in River's queue.
func (f *fixture) queueEntries() (n int) {
	f.t.Helper()
	if err := f.db.Owner.QueryRow(f.t.Context(), `select count(*) from `+migrations.RiverJobs).Scan(&n); err != nil {
		f.t.Fatal(err)
	}
	return n
}

func TestRequestsUnderOneKeyMakeOneJob(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var wg sync.WaitGroup
	ids := make([]uuid.UUID, 20)
	for i := range ids {
		wg.Go(func() {
			j, err := f.queue.Submit(t.Context(), f.owner, keyed(request, "a"))
			if err != nil {
				t.Errorf("concurrent submit: %v", err)
			}
			ids[i] = j.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("two jobs, %s and %s", ids[0], id)
		}
	}
	if n := f.queueEntries(); n != 1 {
		t.Errorf("%d queue entries, want 1", n)
	}
	if _, err := f.queue.Submit(t.Context(), f.owner, keyed(request, "b")); !errors.Is(err, events.ErrKeyReused) {
		t.Errorf("another payload: %v, want ErrKeyReused", err)
	}
	// A repetition after the job's end must return the completed job.
	f.work(newEngine())
	done := f.until(events.Job{ID: ids[0]}, final)
	if j := f.submit(keyed(request, "a")); j.ID != ids[0] || j.State != events.Completed || j.Text != done.Text {
		t.Errorf("submit after the job's end: %+v", j)
	}
	if n := f.queueEntries(); n != 1 {
		t.Errorf("%d queue entries, want 1", n)
	}
}

// TestRepetitionIgnoresLimits repeats a request after a limit is reached. The
// repetition must return the first job.
func TestRepetitionIgnoresLimits(t *testing.T) {
	t.Parallel()
	f := newLimitedFixture(t, jobs.Limits{Outstanding: 1})
	first := f.submit(keyed(request, "a"))
	_, err := f.queue.Submit(t.Context(), f.owner, request)
	if _, ok := errors.AsType[*jobs.OutstandingError](err); !ok {
		t.Fatalf("second job: %v, want an OutstandingError", err)
	}
	if again := f.submit(keyed(request, "a")); again.ID != first.ID {
		t.Errorf("repetition returned job %s, want %s", again.ID, first.ID)
	}
}

func TestRefusalLeavesTheKeyUnused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	refused := keyed(request, "a")
	refused.Prompt = "such violence"
	_, err := f.queue.Submit(t.Context(), f.owner, refused)
	if _, ok := errors.AsType[policy.Refusal](err); !ok {
		t.Fatalf("refused prompt: %v, want a policy.Refusal", err)
	}
	if j := f.submit(keyed(request, "b")); j.State != events.Queued {
		t.Errorf("%+v", j)
	}
}

func TestOutlookFollowsTheServiceRate(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	outlook := func(j events.Job) jobs.Outlook {
		t.Helper()
		if err := jobs.Refresh(f.queue, t.Context()); err != nil {
			t.Fatal(err)
		}
		o, err := f.queue.Outlook(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	first, second := f.submit(request), f.submit(request)
	for i, j := range []events.Job{first, second} {
		if o := outlook(j); o.Position != i+1 || !o.Start.IsZero() || o.PollAfter != time.Second {
			t.Errorf("outlook before any run: %+v", o)
		}
	}
	stop := f.work(e)
	first = f.until(first, final)
	f.until(second, final)
	stop()
	if o := outlook(first); o.Position != 0 || !o.Start.IsZero() {
		t.Errorf("outlook of a final job: %+v", o)
	}
	third, fourth := f.submit(request), f.submit(request)
	if o := outlook(third); o.Position != 1 || !o.Start.IsZero() {
		t.Errorf("outlook without a worker: %+v", o)
	}
	// These statements make each completed job look as if it had taken 20 seconds. They
	// also make two jobs look as if they were running.
	for _, sql := range []string{
		`update history set started_at = finished_at - interval '20 seconds' where finished_at is not null`,
		`insert into leases (job, holder, expires_at, tokens) select gen_random_uuid(), gen_random_uuid(), now() + interval '1 hour', 0 from generate_series(1, 2)`,
	} {
		if _, err := f.db.Owner.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		job       events.Job
		position  int
		wait      time.Duration
		pollAfter time.Duration
	}{{third, 1, 10 * time.Second, 10 * time.Second}, {fourth, 2, 20 * time.Second, 20 * time.Second}} {
		o := outlook(c.job)
		if wait := o.Start.Sub(jobs.Measured(f.queue)); o.Position != c.position || wait <= c.wait || wait > c.wait+time.Second {
			t.Errorf("position %d, start in %v, want %d and up to a second more than %v", o.Position, wait, c.position, c.wait)
		}
		if off := o.PollAfter - c.pollAfter; off.Abs() > 5*time.Second {
			t.Errorf("poll after %v, want %v", o.PollAfter, c.pollAfter)
		}
	}
	running := third
	running.State, running.StartedAt = events.Running, time.Now().Add(-12*time.Second)
	if o := outlook(running); o.Position != 0 || o.PollAfter > 8*time.Second || o.PollAfter < time.Second {
		t.Errorf("outlook of a running job: %+v", o)
	}
}

// TestErasureKeepsTheAPIKeySealed erases a job that an API key has submitted. Its payloads must
// not have the key's id, and its owner and a rebuild of the budgets must.
func TestErasureKeepsTheAPIKeySealed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.work(newEngine())
	key := uuid.New()
	r := request
	r.APIKey, r.APIKeyTokens = key, 1000
	j, err := f.queue.EraseJob(t.Context(), f.until(f.submit(r), final))
	if err != nil {
		t.Fatal(err)
	}
	var shown int
	if err := f.db.Owner.QueryRow(t.Context(), `select count(*) from events where position($1::text::bytea in payload) > 0`, key).Scan(&shown); err != nil || shown != 0 {
		t.Errorf("%d payloads have the id of the key, %v", shown, err)
	}
	spent, err := f.queue.KeyBudget(t.Context(), f.owner, key, 1000)
	if err != nil || spent.Spent == 0 {
		t.Fatal(spent, err)
	}
	f.db.Damage(t, `delete from budgets`)
	f.db.Damage(t, `update history set api_key = null`)
	if _, err := f.store.RebuildHistory(t.Context(), events.Observer{}); err != nil {
		t.Fatal(err)
	}
	if again, err := f.queue.KeyBudget(t.Context(), f.owner, key, 1000); err != nil || again.Spent != spent.Spent {
		t.Errorf("%+v, %v, want %+v", again, err, spent)
	}
	all, err := f.store.Read(t.Context(), events.JobStream(j.ID), 0)
	if err != nil {
		t.Fatal(err)
	}
	if last := all[len(all)-1]; last.Erased || last.Fact.(events.JobErased).APIKey != key || !all[0].Erased {
		t.Errorf("%+v", last)
	}
	err = f.store.Write(t.Context(), func(tx *events.Tx) error { return tx.CloseOwner(t.Context(), f.owner) })
	if err == nil {
		err = f.queue.Erase(t.Context(), f.owner)
	}
	if err != nil {
		t.Fatal(err)
	}
	if gone, err := f.newStore().Job(t.Context(), j.ID); err != nil && !errors.Is(err, vault.ErrErased) || gone.APIKey == key {
		t.Errorf("after the erasure of the account: %+v, %v", gone, err)
	}
	if c, err := f.store.CheckHistory(t.Context(), events.Observer{}); err != nil || c.Wrong > 0 || len(c.Damaged) > 0 {
		t.Errorf("%+v, %v", c, err)
	}
}
