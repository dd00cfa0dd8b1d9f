package events_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/events"
	"colophon/internal/pg/pgtest"
)

// today returns a reservation of today's budget.
func (f *fixture) today(t *testing.T, tokens int) events.Reservation {
	t.Helper()
	r := events.Reservation{Tokens: tokens}
	if err := f.db.Owner.QueryRow(t.Context(), `select (now() at time zone 'UTC')::date::text`).Scan(&r.Day); err != nil {
		t.Fatal(err)
	}
	return r
}

// rebuiltKey is the API key of every second job of write.
var rebuiltKey = uuid.UUID{1}

// write starts writers. Each writer appends one job after the other until the function
// stop is called. The events of a writer's first job are complete. Its next three jobs
// lack one, two and three events, and so on.
func (f *fixture) write(t *testing.T, writers int, reserved events.Reservation) (written *atomic.Int64, stop func()) {
	t.Helper()
	written = &atomic.Int64{}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for n := 0; ; n++ {
				facts := completedFacts()
				accepted := facts[0].(events.JobAccepted)
				accepted.Reserved = reserved
				if n%2 == 1 {
					accepted.APIKey = rebuiltKey
				}
				facts[0] = accepted
				job := f.newJob()
				for _, fact := range facts[:len(facts)-n%4] {
					select {
					case <-done:
						return
					default:
					}
					var err error
					if job, err = f.AppendJob(context.Background(), job, fact); err != nil {
						t.Errorf("append during a rebuild: %v", err)
						return
					}
					written.Add(1)
				}
			}
		})
	}
	stop = sync.OnceFunc(func() { close(done); wg.Wait() })
	t.Cleanup(stop)
	return written, stop
}

// spoil deletes, changes and adds rows of the view, and makes the budgets too high.
func (f *fixture) spoil(t testing.TB) {
	t.Helper()
	for _, sql := range []string{
		`delete from history where get_byte(uuid_send(job), 15) % 5 = 0`,
		`update history set state = 'cancelled', model = 'wrong', sealed = null, api_key = gen_random_uuid() where get_byte(uuid_send(job), 15) % 5 = 1`,
		`insert into history (job, owner, state, model, prompt_tokens, completion_tokens, finish_reason, created_at)
			select gen_random_uuid(), owner, 'queued', model, 1, 1, '', now() from history limit 10`,
		`update budgets set tokens = tokens + 1000`,
	} {
		if _, err := f.db.Owner.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
}

// mustAgree fails the test unless the view and the budgets agree with the events.
func (f *fixture) mustAgree(t *testing.T) {
	t.Helper()
	r, err := f.CheckHistory(t.Context(), events.Observer{})
	if err != nil || r.Wrong > 0 || len(r.Damaged) > 0 || r.Jobs == 0 {
		t.Errorf("%d of %d rows wrong, %d damaged, %v", r.Wrong, r.Jobs, len(r.Damaged), err)
	}
	rows, _ := f.db.Owner.Query(t.Context(), `select stream from events where stream like 'job/%' and version = 1`)
	streams, err := pgx.CollectRows(rows, pgx.RowTo[events.Stream])
	if err != nil {
		t.Fatal(err)
	}
	want := map[uuid.UUID]map[string]int{f.owner: {}, rebuiltKey: {}, {}: {}}
	for _, stream := range streams {
		j, err := f.Job(t.Context(), stream.ID())
		if err != nil {
			t.Fatal(err)
		}
		want[f.owner][j.Reserved.Day] += j.Spent()
		want[j.APIKey][j.Reserved.Day] += j.Spent()
	}
	for _, payer := range []uuid.UUID{f.owner, rebuiltKey} {
		if got := f.budgets(t, payer); !cmp.Equal(got, want[payer]) {
			t.Errorf("budgets of %s: %s", payer, cmp.Diff(want[payer], got))
		}
	}
}

// TestRebuildAgreesWhileWritersAppend spoils the view and rebuilds it while jobs are
// written. The rebuild is killed after its first batch, after its second, and so on, and run
// again.
// In the end, the view must agree with the fold of every stream.
func TestRebuildAgreesWhileWritersAppend(t *testing.T) {
	t.Parallel()
	pgtest.OneDay(t)
	f := newFixture(t)
	f.SetRebuildBatch(40)
	reserved := f.today(t, 54)
	written, stop := f.write(t, 4, reserved)
	for written.Load() < 600 { // enough events for several batches
		if _, err := f.db.Owner.Exec(t.Context(), `select pg_sleep(0.01)`); err != nil {
			t.Fatal(err)
		}
	}
	f.spoil(t)
	kill := func() {
		_, err := f.db.Owner.Exec(t.Context(), `
			select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name like '% rebuild' and datname = current_database()`)
		if err != nil {
			t.Error(err)
		}
	}
	before := written.Load()
	batches := 1
	for last := 1; last <= batches && last < 8; last++ {
		n := 0
		_, err := f.RebuildHistory(t.Context(), events.Observer{Progress: func(int, int) {
			if n++; n == last {
				kill()
			}
		}})
		if batches = max(batches, n+1); err == nil {
			t.Errorf("a rebuild that was killed after batch %d reports success", last)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := f.RebuildHistory(ctx, events.Observer{Progress: func(int, int) { cancel() }}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled rebuild: %v", err)
	}
	if _, err := f.RebuildHistory(t.Context(), events.Observer{}); err != nil {
		t.Fatal(err)
	}
	if during := written.Load() - before; during == 0 {
		t.Error("nothing was written during the rebuilds")
	}
	stop()
	f.mustAgree(t)
}

// TestRebuildEndsWhileJobsAreAccepted accepts a job for each job that the rebuild
// compares. The rebuild must leave out the new jobs and end.
func TestRebuildEndsWhileJobsAreAccepted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.SetRebuildBatch(1)
	const before = 3
	accept := func() {
		if _, err := f.put(t.Context(), f.newJob(), completedFacts()...); err != nil {
			t.Error(err)
		}
	}
	for range before {
		accept()
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := f.RebuildHistory(ctx, events.Observer{Progress: func(jobs, _ int) {
		if accept(); jobs > before {
			cancel()
		}
	}})
	if err != nil || r.Jobs != before {
		t.Errorf("%d jobs compared, %v, want %d", r.Jobs, err, before)
	}
	if r, err := f.CheckHistory(t.Context(), events.Observer{}); err != nil || r.Wrong > 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestRebuildNeverOutrunsAWriter rebuilds a row while a transaction that writes the row
// is open. The rebuild must not replace the row that this transaction writes.
func TestRebuildNeverOutrunsAWriter(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, spoiled := range []string{`delete from history`, `update history set model = 'wrong'`} {
		job, err := f.put(t.Context(), f.newJob(), completedFacts()[:3]...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.db.Owner.Exec(t.Context(), spoiled); err != nil {
			t.Fatal(err)
		}
		rebuilt := make(chan error, 1)
		err = f.Write(t.Context(), func(tx *events.Tx) error {
			if _, err := tx.AppendJob(t.Context(), job, events.JobCancelled{By: "owner"}); err != nil {
				return err
			}
			go func() {
				_, err := f.RebuildHistory(t.Context(), events.Observer{})
				rebuilt <- err
			}()
			// A rebuild that waits for the lock on the row has already read the old
			// events.
			waiting := false
			for giveUp := time.Now().Add(5 * time.Second); !waiting; {
				if time.Now().After(giveUp) {
					return errors.New("the rebuild does not wait for the row")
				}
				if _, err := tx.Exec(t.Context(), `select 1`); err != nil { // the server ends a transaction that is idle for 3 s
					return err
				}
				err := f.db.Owner.QueryRow(t.Context(), `
					select exists (select from pg_stat_activity
						where application_name like '% rebuild' and datname = current_database() and wait_event_type = 'Lock')`).Scan(&waiting)
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err := errors.Join(err, <-rebuilt); err != nil {
			t.Fatal(err)
		}
		if state := f.row(t, job.ID); state != "cancelled" {
			t.Errorf("%s: the job is %s after the rebuild, want cancelled", spoiled, state)
		}
		if r, err := f.CheckHistory(t.Context(), events.Observer{}); err != nil || r.Wrong > 0 {
			t.Errorf("%s: %+v, %v", spoiled, r, err)
		}
	}
}

// TestRebuildWaitsForAnother rebuilds while another rebuild takes longer than the server
// runs a statement of the service.
func TestRebuildWaitsForAnother(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	name := f.db.Owner.Config().ConnConfig.Database
	if _, err := f.db.Owner.Exec(t.Context(), `alter database `+name+` set statement_timeout = '500ms'`); err != nil { // applies to new connections
		t.Fatal(err)
	}
	other, err := f.db.Owner.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Release()
	const lock = `(hashtextextended('rebuild', 0))`
	if _, err := other.Exec(t.Context(), `select pg_advisory_lock`+lock); err != nil {
		t.Fatal(err)
	}
	rebuilt := make(chan error, 1)
	go func() {
		_, err := f.RebuildHistory(t.Context(), events.Observer{})
		rebuilt <- err
	}()
	for waited := false; !waited; {
		select {
		case err := <-rebuilt:
			t.Fatalf("the rebuild does not wait: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		err := other.QueryRow(t.Context(), `
			select exists (select from pg_stat_activity
				where application_name like '% rebuild' and datname = current_database() and wait_event = 'advisory'
					and query_start < clock_timestamp() - interval '700 milliseconds')`).Scan(&waited)
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := other.Exec(t.Context(), `select pg_advisory_unlock`+lock); err != nil {
		t.Fatal(err)
	}
	if err := <-rebuilt; err != nil {
		t.Error(err)
	}
}

// A budget that is too low must not keep a job from ending.
func TestJobEndsUnderATooLowBudget(t *testing.T) {
	t.Parallel()
	pgtest.OneDay(t)
	f := newFixture(t)
	facts := completedFacts()
	accepted := facts[0].(events.JobAccepted)
	accepted.Reserved = f.today(t, 54)
	facts[0] = accepted
	job, err := f.put(t.Context(), f.newJob(), facts[:4]...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.db.Owner.Exec(t.Context(), `update budgets set tokens = 1`); err != nil {
		t.Fatal(err)
	}
	if _, err := f.put(t.Context(), job, facts[4]); err != nil {
		t.Fatal(err)
	}
	if _, err := f.RebuildHistory(t.Context(), events.Observer{}); err != nil {
		t.Fatal(err)
	}
	if got := f.budgets(t, f.owner); len(got) != 1 || got[accepted.Reserved.Day] != 7 {
		t.Errorf("budgets after a rebuild: %v, want 7", got)
	}
}
