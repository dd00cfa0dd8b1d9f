package events_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"colophon/events"
	"colophon/internal/pg/pgtest"
)

// budgets returns, for each day, the number of tokens taken from an owner's budget.
func (f *fixture) budgets(t *testing.T, owner uuid.UUID) map[string]int {
	t.Helper()
	rows, _ := f.db.Owner.Query(t.Context(), `select day::text, tokens from budgets where owner = $1 and tokens > 0`, owner)
	spent := map[string]int{}
	var day string
	var tokens int
	if _, err := pgx.ForEachRow(rows, []any{&day, &tokens}, func() error { spent[day] = tokens; return nil }); err != nil {
		t.Fatal(err)
	}
	return spent
}

// TestBudgetIsTheSumOfSpentTokens appends random legal facts to jobs with reservations
// on two days. The budget of each day must equal the sum of the tokens that its jobs
// spent, and so must the budgets of the API keys that submitted jobs.
func TestBudgetIsTheSumOfSpentTokens(t *testing.T) {
	t.Parallel()
	pgtest.OneDay(t)
	f := newFixture(t)
	want := map[uuid.UUID]map[string]int{f.owner: {}, {}: {}, {1}: {}, {2}: {}}
	rapid.Check(t, func(rt *rapid.T) {
		id := uuid.Must(uuid.NewV7())
		_, facts := drawFacts(rt, id, f.owner)
		j, err := f.put(t.Context(), events.Job{ID: id, Owner: f.owner}, facts...)
		if err != nil {
			rt.Fatal(err)
		}
		if spent := j.Spent(); spent < 0 || spent > j.Reserved.Tokens {
			rt.Fatalf("%d tokens spent of %d reserved", spent, j.Reserved.Tokens)
		} else if spent > 0 {
			want[f.owner][j.Reserved.Day] += spent
			want[j.APIKey][j.Reserved.Day] += spent
		}
	})
	clear(want[uuid.UUID{}]) // of the jobs without an API key
	compare := func(when string) {
		t.Helper()
		for payer, want := range want {
			if got := f.budgets(t, payer); !cmp.Equal(got, want) {
				t.Fatalf("budgets of %s %s: %s", payer, when, cmp.Diff(want, got))
			}
		}
	}
	compare("before a rebuild")
	if _, err := f.RebuildHistory(t.Context(), events.Observer{}); err != nil {
		t.Fatal(err)
	}
	compare("after a rebuild")
}

func TestEveryEndSettlesTheReservation(t *testing.T) {
	t.Parallel()
	pgtest.OneDay(t)
	f := newFixture(t)
	started := events.JobStarted{Attempt: 1, Worker: "w", Weights: "x", Kernel: "k"}
	advanced := events.JobAdvanced{Tokens: []int{1, 2, 3}, Text: "abc"}
	for name, c := range map[string]struct {
		facts []events.Fact
		spent int
	}{
		"queued":                     {nil, 54},
		"running":                    {[]events.Fact{started, advanced}, 54},
		"resumed after a crash":      {[]events.Fact{started, started}, 54},
		"failed attempt":             {[]events.Fact{started, events.JobFailed{Attempt: 1}}, 54},
		"completed":                  {[]events.Fact{started, advanced, events.JobCompleted{FinishReason: "stop"}}, 7},
		"completed after a crash":    {[]events.Fact{started, started, advanced, events.JobCompleted{FinishReason: "stop"}}, 7},
		"failed":                     {[]events.Fact{started, advanced, events.JobFailed{Attempt: 1, Final: true}}, 7},
		"cancelled before the start": {[]events.Fact{events.JobCancelled{By: "owner"}}, 0},
		"cancelled after the start":  {[]events.Fact{started, events.JobCancelled{By: "owner"}}, 4},
		"failed before the start":    {[]events.Fact{events.JobFailed{Final: true}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			owner := uuid.Must(uuid.NewV7())
			f.register(t, owner)
			accepted := completedFacts()[0].(events.JobAccepted)
			accepted.Reserved = events.Reservation{Day: "2026-11-22", Tokens: 54}
			j, err := f.put(t.Context(), events.Job{ID: uuid.Must(uuid.NewV7()), Owner: owner}, append([]events.Fact{accepted}, c.facts...)...)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]int{}
			if c.spent > 0 {
				want["2026-11-22"] = c.spent
			}
			if got := f.budgets(t, owner); !cmp.Equal(got, want) {
				t.Error(cmp.Diff(want, got))
			}
			// A writer that has not seen the last fact tries to end the job again. The
			// second end must be refused and must not change the budget.
			stale := j
			stale.State, stale.Version = events.Running, j.Version-1
			if _, err := f.put(t.Context(), stale, events.JobCancelled{By: "owner"}); !errors.Is(err, events.ErrConflict) {
				t.Fatalf("second end: %v, want ErrConflict", err)
			}
			if got := f.budgets(t, owner); !cmp.Equal(got, want) {
				t.Errorf("budgets after a second end: %s", cmp.Diff(want, got))
			}
		})
	}
}

const budgetDays = 7 // number of days for which a budget is kept after its own day

func TestBudgetsAreForgottenAfterAWeek(t *testing.T) {
	t.Parallel()
	pgtest.OneDay(t)
	f := newFixture(t)
	if _, err := f.db.Owner.Exec(t.Context(), `
		insert into budgets (owner, day, tokens) select $1, (now() at time zone 'UTC')::date - n, n + 1 from generate_series(0, 3000) n`, f.owner); err != nil {
		t.Fatal(err)
	}
	tx, err := f.db.Owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `select from budgets where tokens = 100 for update`); err != nil { // locks the row, as a job of that day does when it ends
		t.Fatal(err)
	}
	for _, want := range []int{budgetDays + 2, budgetDays + 1} { // number of budgets left, including today's, and in the first round also the locked one
		if err := f.ForgetBudgets(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := len(f.budgets(t, f.owner)); got != want {
			t.Errorf("%d days kept, want %d", got, want)
		}
		if err := tx.Rollback(t.Context()); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
			t.Fatal(err)
		}
	}
	// It must be possible to end a job after its budget was removed.
	accepted := completedFacts()[0].(events.JobAccepted)
	accepted.Reserved = events.Reservation{Day: "2020-01-01", Tokens: 54}
	j, err := f.put(t.Context(), f.newJob(), accepted)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.ForgetBudgets(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.put(t.Context(), j, events.JobCancelled{By: "owner"}); err != nil {
		t.Error(err)
	}
	if got := len(f.budgets(t, f.owner)); got != budgetDays+1 {
		t.Errorf("%d days, want %d", got, budgetDays+1)
	}
}

func TestLoadCountsOneOwner(t *testing.T) {
	t.Parallel()
	pgtest.OneDay(t)
	f := newFixture(t)
	other := uuid.Must(uuid.NewV7())
	f.register(t, other)
	today := time.Now().UTC().Format(time.DateOnly)
	accepted := completedFacts()[0].(events.JobAccepted)
	for i, facts := range [][]events.Fact{nil, nil, completedFacts()[1:2], completedFacts()[1:]} {
		accepted.Priority, accepted.Reserved = i+1, events.Reservation{Day: today, Tokens: 20}
		if i == 3 {
			accepted.APIKey = uuid.UUID{1}
		}
		if _, err := f.put(t.Context(), f.newJob(), append([]events.Fact{accepted}, facts...)...); err != nil {
			t.Fatal(err)
		}
	}
	key := uuid.UUID{1}
	load := func(owner uuid.UUID, limit int) events.Load {
		t.Helper()
		var l events.Load
		err := f.Write(t.Context(), func(tx *events.Tx) (err error) {
			l, err = tx.Load(t.Context(), owner, key, limit)
			if locked, err := tx.LockLoad(t.Context(), owner, key, limit); err != nil || locked != l {
				t.Errorf("LockLoad: %+v, %v, want Load's %+v", locked, err, l)
			}
			return err
		})
		if err != nil || l.At.Location() != time.UTC || time.Since(l.At).Abs() > time.Hour {
			t.Fatalf("load: %+v, %v", l, err)
		}
		l.At = time.Time{}
		return l
	}
	if got, want := load(f.owner, 100), (events.Load{Outstanding: 3, Priority: 2, Spent: 67, KeySpent: 7}); got != want {
		t.Errorf("load: %+v, want %+v", got, want)
	}
	if got, want := load(f.owner, 2), (events.Load{Outstanding: 2, Priority: 2, Spent: 67, KeySpent: 7}); got != want {
		t.Errorf("load: %+v, want %+v", got, want)
	}
	key = uuid.UUID{}
	if got := load(other, 100); got != (events.Load{}) {
		t.Errorf("load of an owner without jobs: %+v", got)
	}
}

func TestQueuePositionFollowsPriorityThenAge(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	accepted := completedFacts()[0].(events.JobAccepted)
	var jobs []events.Job
	for _, priority := range []int{4, 1, 3, 1, 0, 4} {
		accepted.Priority = priority
		j, err := f.put(t.Context(), f.newJob(), accepted)
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, j)
	}
	check := func(want ...int) {
		t.Helper()
		for i, j := range jobs {
			if got, err := f.QueuePosition(t.Context(), j.ID, ""); err != nil || want[i] != 0 && got != want[i] {
				t.Errorf("job %d is at position %d, want %d, %v", i, got, want[i], err)
			}
		}
		if n, err := f.Queued(t.Context(), "", 100); err != nil || n != max(want[0], want[5]) {
			t.Errorf("%d jobs queued, %v", n, err)
		}
	}
	check(5, 1, 4, 2, 3, 6)
	if _, err := f.put(t.Context(), jobs[3], completedFacts()[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := f.put(t.Context(), jobs[2], events.JobCancelled{By: "owner"}); err != nil {
		t.Fatal(err)
	}
	check(3, 1, 0, 0, 2, 4)
	if n, err := f.Queued(t.Context(), "", 3); err != nil || n != 3 {
		t.Errorf("%d jobs queued, want the limit 3, %v", n, err)
	}
}
