package jobs_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/pg/pgtest"
	"colophon/internal/policy"
	"colophon/internal/vault"
	"colophon/jobs"
	"colophon/migrations"
	"colophon/model"
)

// fixture is a queue with one owner. It has no worker until work is called.
type fixture struct {
	t     testing.TB
	db    *pgtest.DB
	store *events.Store
	queue *jobs.Queue
	owner uuid.UUID
}

func newFixture(t testing.TB) *fixture { return newLimitedFixture(t, jobs.Limits{}) }

func newLimitedFixture(t testing.TB, limits jobs.Limits) *fixture {
	t.Helper()
	f := &fixture{t: t, db: pgtest.New(t, migrations.Up)}
	f.store = f.newStore()
	f.queue = f.newQueue(limits)
	f.owner = f.register()
	return f
}

// newStore returns another store on the same database, like the store of another
// process.
func (f *fixture) newStore() *events.Store {
	f.t.Helper()
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize))
	if err != nil {
		f.t.Fatal(err)
	}
	store := events.NewStore(f.db.App, v, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { store.Run(ctx, nil) })
	f.t.Cleanup(func() { cancel(); wg.Wait() })
	return store
}

// register adds an account, whose id is the owner of its jobs.
func (f *fixture) register() uuid.UUID {
	f.t.Helper()
	owner := uuid.Must(uuid.NewV7())
	err := f.store.Write(f.t.Context(), func(tx *events.Tx) error {
		return tx.AppendAccount(f.t.Context(), owner, events.AccountRegistered{Username: "test-user"})
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return owner
}

// newQueue returns another queue on the same database, like the queue of another
// process.
func (f *fixture) newQueue(limits jobs.Limits) *jobs.Queue {
	f.t.Helper()
	return f.newQueueFor("", limits)
}

// newQueueFor returns another queue, whose jobs need the weights with the given digest.
func (f *fixture) newQueueFor(weights string, limits jobs.Limits) *jobs.Queue {
	f.t.Helper()
	m := jobs.Model{Name: "fake", Weights: weights, Context: 1000, Vocab: 26, Encode: newEngine().Encode, Decode: newEngine().Decode}
	q, err := jobs.NewQueue(f.db.App, f.store, m, policy.Default, limits, slog.New(slog.DiscardHandler))
	if err != nil {
		f.t.Fatal(err)
	}
	if err := jobs.Refresh(q, f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	return q
}

// work starts a worker, which stops at the end of the test or when stop is called.
func (f *fixture) work(e *engine) (stop func()) {
	f.t.Helper()
	return f.workSlots(e, 8)
}

// workSlots starts a worker that runs up to slots jobs at a time.
func (f *fixture) workSlots(e *engine, slots int, options ...func(*jobs.Worker)) (stop func()) {
	f.t.Helper()
	w, err := jobs.NewWorker(f.db.App, f.store, e, policy.Default, slots, slog.New(slog.DiscardHandler))
	if err != nil {
		f.t.Fatal(err)
	}
	w.ShortenTiming()
	for _, option := range options {
		option(w)
	}
	if err := w.Start(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.Stop(ctx); err != nil {
			f.t.Errorf("stop the worker: %v", err)
		}
	})
	f.t.Cleanup(stop)
	return stop
}

func (f *fixture) submit(r jobs.Request) events.Job {
	f.t.Helper()
	j, err := f.queue.Submit(f.t.Context(), f.owner, r)
	if err != nil {
		f.t.Fatal(err)
	}
	return j
}

// until follows the job until wanted returns true, and returns the job.
func (f *fixture) until(j events.Job, wanted func(events.Job) bool) events.Job {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	for batch, err := range f.store.Follow(ctx, events.JobStream(j.ID), j.Version, time.Second) {
		if err != nil {
			f.t.Fatalf("job %+v: %v", j, err)
		}
		for _, e := range batch {
			if j, err = j.Apply(e); err != nil {
				f.t.Fatal(err)
			}
		}
		if wanted(j) {
			break
		}
	}
	return j
}

func final(j events.Job) bool { return j.State.Final() }

func tokens(n int) func(events.Job) bool {
	return func(j events.Job) bool { return len(j.Tokens) >= n }
}

func (f *fixture) facts(j events.Job) []events.Fact {
	f.t.Helper()
	all, err := f.store.Read(f.t.Context(), events.JobStream(j.ID), 0)
	if err != nil {
		f.t.Fatal(err)
	}
	facts := make([]events.Fact, len(all))
	for i, e := range all {
		facts[i] = e.Fact
	}
	return facts
}

var request = jobs.Request{Prompt: "prompt", MaxNewTokens: 40, Temperature: 1, TopP: 1, Seed: new(uint64(11))}

func TestJobRunsFromAcceptedToCompleted(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	j := f.submit(request)
	if j.State != events.Queued || j.Version != 1 || j.Params.Seed != 11 || j.PromptTokens != 6 {
		t.Fatalf("submitted job: %+v", j)
	}
	f.work(e)
	j = f.until(j, final)
	if want := e.text("prompt", j.Params); j.State != events.Completed || j.Text != want || j.FinishReason != "length" {
		t.Fatalf("job %+v, want the text %q", j, want)
	}
	if j.Usage != (events.Usage{PromptTokens: 6, CompletionTokens: 40, TotalTokens: 46}) {
		t.Errorf("usage %+v", j.Usage)
	}
	// The queue entry is completed in the transaction that completes the job.
	var state, args string
	err := f.db.Owner.QueryRow(t.Context(), `select state, args::text from `+migrations.RiverJobs).Scan(&state, &args)
	if err != nil || state != "completed" {
		t.Errorf("queue entry is %s, %v, want completed", state, err)
	}
	if want := `{"job": "` + j.ID.String() + `"}`; args != want {
		t.Errorf("queue entry contains %s, want %s", args, want)
	}
}

// TestStoppedJobsEndWithTheSameText stops a worker while its jobs are at different
// tokens. Another worker continues the jobs. Each job must end with the text of an
// uninterrupted job.
func TestStoppedJobsEndWithTheSameText(t *testing.T) {
	t.Parallel()
	f, first := newFixture(t), newEngine()
	gate := make(chan struct{}) // never closed, so the jobs stop here
	var at []int
	var running []events.Job
	for i, k := range []int{0, 1, 7, 8, 9, 39} {
		r := []jobs.Request{sampled, request}[i%2]
		r.Prompt = strings.Repeat("p", 80*(i+1)) // the prompt's length tells the model which job it runs
		first.pause[len(r.Prompt)+k] = gate
		at, running = append(at, k), append(running, f.submit(r))
	}
	stop := f.work(first)
	for i, j := range running {
		if at[i] == 0 {
			f.until(j, func(j events.Job) bool { return j.State == events.Running })
		} else {
			f.until(j, tokens(min(at[i], 1)))
		}
	}
	stop()
	for i, j := range running {
		now, err := f.store.Job(t.Context(), j.ID)
		if err != nil || now.State.Final() || len(now.Tokens) > at[i] {
			t.Fatalf("job stopped at token %d: %+v, %v", at[i], now, err)
		}
	}
	f.work(newEngine())
	for i, j := range running {
		j = f.until(j, final)
		if want := first.text(j.Prompt, j.Params); j.State != events.Completed || j.Text != want || len(j.Tokens) != 40 {
			t.Errorf("job stopped at token %d: %s %q, want %q", at[i], j.State, j.Text, want)
		}
		if probs := first.logprobs(j.Prompt, j.Params); !slices.EqualFunc(j.Logprobs, probs, model.EqualLogprobs) || (len(probs) > 0) != (i%2 == 0) {
			t.Errorf("job stopped at token %d: %d log probabilities, want the same %d as of an uninterrupted job", at[i], len(j.Logprobs), len(probs))
		}
		if j.Attempts != 2 {
			t.Errorf("job stopped at token %d: %d starts, want 2", at[i], j.Attempts)
		}
	}
	var attempts int
	if err := f.db.Owner.QueryRow(t.Context(), `select max(attempt) from `+migrations.RiverJobs).Scan(&attempts); err != nil || attempts != 1 {
		t.Errorf("%d attempts counted, %v, want 1", attempts, err)
	}
}

func TestFailedAttemptIsContinued(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	e.fail[6+20] = errBroken
	f.work(e)
	j := f.until(f.submit(request), final)
	if want := e.text("prompt", j.Params); j.State != events.Completed || j.Text != want {
		t.Fatalf("%s %q, want %q", j.State, j.Text, want)
	}
	var failed, started int
	for _, fact := range f.facts(j) {
		switch fact := fact.(type) {
		case events.JobFailed:
			failed++
			if fact.Final || strings.Contains(fact.Reason, errBroken.Error()) {
				t.Errorf("recorded failure: %+v", fact)
			}
		case events.JobStarted:
			if started++; started == 2 && fact.FromToken != 20 {
				t.Errorf("second attempt starts at token %d, want 20", fact.FromToken)
			}
		}
	}
	if failed != 1 || started != 2 {
		t.Errorf("%d failures and %d starts, want 1 and 2", failed, started)
	}
}

func TestLastFailedAttemptFailsTheJob(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	e.fail[6+5] = errBroken
	j := f.submit(request)
	last, err := f.db.Owner.Exec(t.Context(), `update `+migrations.RiverJobs+` set max_attempts = 1 where max_attempts = 3`)
	if err != nil || last.RowsAffected() != 1 {
		t.Fatalf("%d jobs have three attempts, %v", last.RowsAffected(), err)
	}
	f.work(e)
	if j = f.until(j, final); j.State != events.Failed || j.Reason == "" || len(j.Tokens) != 5 {
		t.Fatalf("%+v", j)
	}
}

func TestUnservableRequestFailsAtItsFirstAttempt(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	e.context = 20 // smaller than the context that the queue assumes
	f.work(e)
	if j := f.until(f.submit(request), final); j.State != events.Failed || j.Attempts != 1 {
		t.Fatalf("%+v", j)
	}
}

func TestCancelStopsTheModel(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	e.pause[6+3] = make(chan struct{}) // never closed, so the job stops here
	f.work(e)
	j := f.until(f.submit(request), tokens(3)) // all generated tokens are on record, so the worker has nothing left to append
	cancelled, err := f.queue.Cancel(t.Context(), j, events.JobCancelled{By: "owner"})
	if err != nil || cancelled.State != events.Cancelled {
		t.Fatalf("%+v, %v", cancelled, err)
	}
	again, err := f.queue.Cancel(t.Context(), j, events.JobCancelled{By: "owner"})
	if err != nil || !cmp.Equal(again, cancelled) {
		t.Fatalf("second cancel: %v\n%s", err, cmp.Diff(cancelled, again))
	}
	// The cancel must also free the worker for another job.
	f.awaitIdle(e)
	e.mu.Lock()
	clear(e.pause)
	e.mu.Unlock()
	if j := f.until(f.submit(request), final); j.State != events.Completed {
		t.Fatalf("next job: %+v", j)
	}
	if now, err := f.store.Job(t.Context(), j.ID); err != nil || now.Version != cancelled.Version {
		t.Errorf("job has events after the cancel: %+v, %v", now, err)
	}
}

// awaitIdle waits until the model has no open sequence.
func (f *fixture) awaitIdle(e *engine) {
	f.t.Helper()
	giveUp := time.After(time.Minute)
	for poll := time.NewTicker(5 * time.Millisecond); e.open.Load() > 0; {
		select {
		case <-poll.C:
		case <-giveUp:
			f.t.Fatal("the model still has open sequences")
		}
	}
}

func TestCancelledJobIsNeverStarted(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	j := f.submit(request)
	if _, err := f.queue.Cancel(t.Context(), j, events.JobCancelled{By: "owner"}); err != nil {
		t.Fatal(err)
	}
	f.work(e)
	f.until(f.submit(request), final) // this job was queued later, so the worker has already passed the cancelled job
	if got := f.facts(j); len(got) != 2 {
		t.Errorf("facts of the cancelled job: %+v", got)
	}
}

// TestZombieAttemptIsFenced starts a second attempt at a job while the first attempt
// still runs. The first attempt must append nothing more.
func TestZombieAttemptIsFenced(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	gate := make(chan struct{})
	e.pause[6+12] = gate
	stop := f.work(e)
	j := f.until(f.submit(request), tokens(8))
	taken := events.JobStarted{Attempt: 2, Worker: "another", FromToken: len(j.Tokens), Weights: "w/f32"}
	for {
		err := f.store.Write(t.Context(), func(tx *events.Tx) error {
			_, err := tx.AppendJob(t.Context(), j, taken)
			return err
		})
		if err == nil {
			break
		}
		if !errors.Is(err, events.ErrConflict) {
			t.Fatal(err)
		}
		if j, err = f.store.Job(t.Context(), j.ID); err != nil { // the first worker has recorded another batch meanwhile
			t.Fatal(err)
		}
		taken.FromToken = len(j.Tokens)
	}
	close(gate)
	f.until(f.submit(request), final)
	stop()
	facts := f.facts(j)
	i := slices.IndexFunc(facts, func(fact events.Fact) bool { return cmp.Equal(fact, events.Fact(taken)) })
	// On a slow machine, the worker may have started another attempt at the job.
	if next := facts[i+1:]; len(next) > 0 && next[0].Type() != (events.JobStarted{}).Type() {
		t.Errorf("the zombie appended %+v", next[0])
	}
	// No worker runs the second attempt. The zombie must have kept the job's only queue
	// entry, so that another worker can continue the job.
	f.work(newEngine())
	j = f.until(j, final)
	if want := e.text("prompt", j.Params); j.State != events.Completed || j.Text != want {
		t.Fatalf("%s %q, want %q", j.State, j.Text, want)
	}
}

func TestJobIsNotContinuedWithOtherWeights(t *testing.T) {
	t.Parallel()
	for name, weights := range map[string]string{"another digest": "x/f32", "another format": "w/f16"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, first := newFixture(t), newEngine()
			first.pause[6+9] = make(chan struct{}) // never closed, so the job stops here
			stop := f.work(first)
			j := f.until(f.submit(request), tokens(8))
			stop()
			before := f.facts(j)
			other := newEngine()
			other.weights = weights
			f.work(other)
			f.awaitPutBack(j)
			if after := f.facts(j); !cmp.Equal(after, before) {
				t.Errorf("events after the put-back:\n%s", cmp.Diff(before, after))
			}
		})
	}
}

// awaitPutBack waits until a worker has put the job back into the queue for later. The
// test fails if this counts as an attempt. awaitPutBack polls, because River does not
// announce the change.
func (f *fixture) awaitPutBack(j events.Job) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	for poll := time.NewTicker(10 * time.Millisecond); ; {
		var attempt, snoozes int
		err := f.db.Owner.QueryRow(ctx, `select attempt, coalesce((metadata->>'snoozes')::int, 0) from `+migrations.RiverJobs+` where args->>'job' = $1 and state <> 'completed'`, j.ID.String()).Scan(&attempt, &snoozes)
		if err != nil || attempt > 1 {
			f.t.Fatalf("queue entry at attempt %d, %v, want 0 or 1", attempt, err)
		}
		if snoozes > 0 {
			return
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			f.t.Fatalf("job put back %d times", snoozes)
		}
	}
}
