package jobs_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/jobs"
	"colophon/migrations"
)

var small = jobs.Request{Prompt: "prompt", MaxNewTokens: 10, Temperature: 1, TopP: 1, Seed: new(uint64(11))}

func (f *fixture) submitFor(owner uuid.UUID, r jobs.Request) events.Job {
	f.t.Helper()
	j, err := f.queue.Submit(f.t.Context(), owner, r)
	if err != nil {
		f.t.Fatal(err)
	}
	return j
}

// TestFloodDoesNotDelayOtherOwners submits 500 jobs of one owner. The worker runs one
// job at a time. Meanwhile another owner submits one job after the other. Each job of
// the other owner must wait only for the running job and at most one more job, which
// the worker may already have fetched.
func TestFloodDoesNotDelayOtherOwners(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	e.stepTime = 4 * time.Millisecond
	other := f.register()
	f.workSlots(e, 1)
	const flood = 500
	for _, err := range f.flood(flood-1, []*jobs.Queue{f.queue}, f.owner) {
		if err != nil {
			t.Fatal(err)
		}
	}
	// The first jobs of the flood have priority 1, because the owner had few outstanding
	// jobs. They may run before the jobs of the other owner.
	rows, _ := f.db.Owner.Query(t.Context(), `select job from history where owner = $1 and priority = 1`, f.owner)
	first, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil || len(first) == 0 || len(first) > flood/10 {
		t.Fatalf("%d jobs of the flood have priority 1, %v", len(first), err)
	}
	for _, id := range first {
		f.until(events.Job{ID: id}, final)
	}
	last := f.submit(small)
	if n, err := f.store.QueuePosition(t.Context(), last.ID, ""); err != nil || n < flood/2 {
		t.Fatalf("last job of the flood at position %d, %v", n, err)
	}
	// startedBefore counts the jobs of the flood that were started before the job j, or all
	// that were started if j was not. It goes by the order of the events and not by their
	// times, because a process may correct its copy of the database's clock between two starts.
	startedBefore := func(j events.Job) (n int) {
		t.Helper()
		err := f.db.Owner.QueryRow(t.Context(), `
			select count(*) from events where owner = $1 and type = 'job.started' and position < coalesce(
				(select position from events where stream = $2 and type = 'job.started'), 9223372036854775807)`, f.owner, events.JobStream(j.ID)).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var waits, services []time.Duration
	for range 20 {
		j := f.submitFor(other, small)
		before := startedBefore(j)
		position, err := f.store.QueuePosition(t.Context(), j.ID, "")
		if err != nil || position > 1 {
			t.Errorf("job of the other owner at position %d, %v, want at most 1", position, err)
		}
		j = f.until(j, final)
		if n := startedBefore(j) - before; n > 1 {
			t.Errorf("%d jobs of the flood were started before the other owner's, want at most 1", n)
		}
		waits = append(waits, j.StartedAt.Sub(j.AcceptedAt))
		services = append(services, j.FinishedAt.Sub(j.StartedAt))
	}
	if n, err := f.store.Queued(t.Context(), "", flood); err != nil || n < flood/2 {
		t.Fatalf("no flood: %d jobs left, %v", n, err)
	}
	slices.Sort(waits)
	slices.Sort(services)
	t.Logf("median wait %v, median service time %v", waits[10], services[10])
}

// TestJobsOfOneOwnerAreTakenInOrder submits a job when the owner has fewer outstanding
// jobs than at earlier submits. The jobs must start in the order in which they were
// submitted.
func TestJobsOfOneOwnerAreTakenInOrder(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	var all []events.Job
	for range 12 {
		all = append(all, f.submit(small))
	}
	for _, j := range all[1:7] { // leaves six jobs; if only their number counted, the next job would have priority 2
		if _, err := f.queue.Cancel(t.Context(), j, events.JobCancelled{By: "owner"}); err != nil {
			t.Fatal(err)
		}
	}
	all = append(slices.Delete(all, 1, 7), f.submit(small))
	f.workSlots(e, 1)
	var want []events.Stream
	for _, j := range all {
		f.until(j, final)
		want = append(want, events.JobStream(j.ID))
	}
	// As above, the order of the events counts, and not their times.
	rows, _ := f.db.Owner.Query(t.Context(), `select stream from events where type = 'job.started' order by position`)
	if got, err := pgx.CollectRows(rows, pgx.RowTo[events.Stream]); err != nil || !slices.Equal(got, want) {
		t.Errorf("started in the order %v, %v, want %v", got, err, want)
	}
	// Now that the queue is empty, the owner's next job must have priority 1 again.
	if j := f.submit(small); j.Priority != 1 {
		t.Errorf("priority %d after all jobs have ended, want 1", j.Priority)
	}
}

// order returns the owners of the queued jobs in the order in which River takes them.
func (f *fixture) order() []uuid.UUID {
	f.t.Helper()
	rows, _ := f.db.Owner.Query(f.t.Context(), `
		select h.owner from `+migrations.RiverJobs+` r join history h on h.job = (r.args->>'job')::uuid
		where r.state = 'available' and h.state = 'queued' order by r.priority, r.scheduled_at, r.id`)
	owners, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		f.t.Fatal(err)
	}
	return owners
}

// TestAgeingMovesWaitingOwnersForward ages the jobs of an owner who waits behind other
// owners. Each ageing must move only the owner's oldest job forward. It must move no
// job while a job of the owner is running.
func TestAgeingMovesWaitingOwnersForward(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a, b, c := f.owner, f.register(), f.register()
	w, err := jobs.NewWorker(f.db.App, f.store, newEngine(), policy.Default, 1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	expect := func(why string, want ...uuid.UUID) {
		t.Helper()
		if err := jobs.Age(w, t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := f.order(); !cmp.Equal(got, want) {
			t.Errorf("%s: %v", why, cmp.Diff(want, got))
		}
	}
	var all []events.Job
	for range 4 {
		all = append(all, f.submit(small))
	}
	// The first job runs. The other jobs wait with priority 2.
	running, err := f.store.AppendJob(t.Context(), all[0], events.JobStarted{Attempt: 1, Weights: "w/f32"})
	if err != nil {
		t.Fatal(err)
	}
	f.submitFor(b, small)
	f.submitFor(c, small)
	makeOld := func() {
		t.Helper()
		if _, err := f.db.Owner.Exec(t.Context(), `update `+migrations.RiverJobs+` set scheduled_at = scheduled_at - interval '1 minute'`); err != nil {
			t.Fatal(err)
		}
	}
	makeOld()
	expect("a job of a is running", b, c, a, a, a)
	if _, err := f.queue.Cancel(t.Context(), running, events.JobCancelled{By: "owner"}); err != nil {
		t.Fatal(err)
	}
	d := f.register()
	f.submitFor(d, small)
	expect("a has waited", b, c, d, a, a, a)
	e := f.register()
	f.submitFor(e, small)
	expect("one job of a was aged", b, c, d, a, e, a, a)
	var first string
	if err := f.db.Owner.QueryRow(t.Context(), `select args->>'job' from `+migrations.RiverJobs+` where priority = 1 order by scheduled_at desc offset 1`).Scan(&first); err != nil || first != all[1].ID.String() {
		t.Errorf("aged job %s, %v, want a's oldest job %s", first, err, all[1].ID)
	}
}

func TestStartedJobGoesFirst(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	for range 70 {
		f.submit(small)
	}
	j := f.submit(request)
	if j.Priority != 4 {
		t.Fatalf("priority %d, want 4", j.Priority)
	}
	// All other jobs are postponed, so that the worker starts j first. The test then
	// stops the worker, which puts j back into the queue.
	if _, err := f.db.Owner.Exec(t.Context(), `update `+migrations.RiverJobs+` set scheduled_at = now() + interval '1 hour', state = 'scheduled' where args->>'job' <> $1`, j.ID.String()); err != nil {
		t.Fatal(err)
	}
	e.pause[6+9] = make(chan struct{}) // never closed, so the job stops here
	stop := f.work(e)
	f.until(j, tokens(8))
	stop()
	var priority int
	if err := f.db.Owner.QueryRow(t.Context(), `select priority from `+migrations.RiverJobs+` where state = 'available' and args->>'job' = $1`, j.ID.String()).Scan(&priority); err != nil || priority != 1 {
		t.Errorf("priority %d after the handover, %v, want 1", priority, err)
	}
}

// flood submits n jobs of each owner concurrently and returns the errors. Each queue
// stands for one process.
func (f *fixture) flood(n int, queues []*jobs.Queue, owners ...uuid.UUID) []error {
	var wg sync.WaitGroup
	errs := make([]error, n*len(owners))
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = queues[i%len(queues)].Submit(f.t.Context(), owners[i/n], small)
		})
	}
	wg.Wait()
	return errs
}

// TestOutstandingLimitHoldsUnderConcurrentSubmits submits many jobs at once for two users
// through two queues. Exactly the permitted number of unfinished jobs must be accepted
// for each user.
//
// security: ASVS 2.3.4, ASVS 15.4.2, LLM10:2025, ASVS 2.3.2
func TestOutstandingLimitHoldsUnderConcurrentSubmits(t *testing.T) {
	t.Parallel()
	limits := jobs.Limits{Outstanding: 20}
	f := newLimitedFixture(t, limits)
	queues := []*jobs.Queue{f.queue, f.newQueue(limits)}
	other := f.register()
	accepted := 0
	for i, err := range f.flood(60, queues, f.owner, other) {
		switch refused, ok := errors.AsType[*jobs.OutstandingError](err); {
		case err == nil:
			accepted++
		case !ok || refused.Limit != 20:
			t.Errorf("job %d: %v", i, err)
		}
	}
	if accepted != 2*20 {
		t.Fatalf("%d jobs accepted, want 20 of each owner", accepted)
	}
	var counted int
	err := f.db.Owner.QueryRow(t.Context(), `select max(n) from (select count(*) as n from history group by owner) as counts`).Scan(&counted)
	if err != nil || counted != 20 {
		t.Fatalf("%d jobs of one owner, %v, want 20", counted, err)
	}
	// Jobs that end must make room for new jobs.
	rows, _ := f.db.Owner.Query(t.Context(), `select job from history where owner = $1 limit 3`, f.owner)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		j, err := f.store.Job(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.queue.Cancel(t.Context(), j, events.JobCancelled{By: "owner"}); err != nil {
			t.Fatal(err)
		}
	}
	accepted = 0
	for _, err := range f.flood(10, queues, f.owner) {
		if err == nil {
			accepted++
		}
	}
	if accepted != len(ids) {
		t.Errorf("%d jobs accepted after %d have ended", accepted, len(ids))
	}
}

func TestQueueLimitHolds(t *testing.T) {
	t.Parallel()
	limits := jobs.Limits{Queued: 10}
	f := newLimitedFixture(t, limits)
	owners := []uuid.UUID{f.owner, f.register(), f.register(), f.register()}
	var accepted int
	for _, err := range f.flood(10, []*jobs.Queue{f.queue}, owners...) {
		if err == nil {
			accepted++
		} else if !errors.Is(err, jobs.ErrQueueFull) {
			t.Error(err)
		}
	}
	if accepted != 10 {
		t.Fatalf("%d jobs accepted, want 10", accepted)
	}
	if _, err := f.newQueue(limits).Submit(t.Context(), f.owner, small); !errors.Is(err, jobs.ErrQueueFull) {
		t.Fatalf("submit through another process: %v, want ErrQueueFull", err)
	}
	f.work(newEngine())
	for deadline := time.Now().Add(time.Minute); ; {
		_, err := f.queue.Submit(t.Context(), f.owner, small)
		if err == nil {
			break
		}
		if !errors.Is(err, jobs.ErrQueueFull) || time.Now().After(deadline) {
			t.Fatalf("submit to the emptied queue: %v", err)
		}
		if err := jobs.Refresh(f.queue, t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFloodLeavesConnectionsForOthers blocks submits of one owner. There are more
// blocked submits than connections in the pool. Submits of another owner must still
// succeed.
func TestFloodLeavesConnectionsForOthers(t *testing.T) {
	t.Parallel()
	f := newLimitedFixture(t, jobs.Limits{Outstanding: 1000})
	other := f.register()
	ctx, cancel := context.WithCancel(t.Context())
	held, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	defer func() { cancel(); close(release); wg.Wait() }()
	wg.Go(func() {
		err := f.store.Write(context.Background(), func(tx *events.Tx) error {
			_, err := tx.LockLoad(context.Background(), f.owner, uuid.UUID{}, 1)
			close(held)
			for err == nil { // sends a statement each second, so that Postgres does not end an idle transaction
				select {
				case <-release:
					return nil
				case <-time.After(time.Second):
					_, err = tx.Exec(context.Background(), `select 1`)
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-held
	var stuck atomic.Int32
	for range 2 * f.db.App.Config().MaxConns {
		stuck.Add(1)
		wg.Go(func() {
			defer stuck.Add(-1)
			_, _ = f.queue.Submit(ctx, f.owner, small)
		})
	}
	soon, end := context.WithTimeout(ctx, 20*time.Second)
	defer end()
	for range 5 {
		if _, err := f.queue.Submit(soon, other, small); err != nil {
			t.Fatalf("submit of another owner: %v", err)
		}
	}
	if n := stuck.Load(); n != 2*f.db.App.Config().MaxConns {
		t.Errorf("%d submits blocked, want all", n)
	}
}
