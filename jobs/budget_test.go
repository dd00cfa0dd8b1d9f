package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"colophon/events"
	"colophon/internal/pg/pgtest"
	"colophon/jobs"
)

// spent returns the number of tokens that the owner's jobs have reserved or used.
func (f *fixture) spent() int {
	f.t.Helper()
	return f.spentBy(f.owner)
}

// spentBy returns the number of tokens that the jobs of an owner or an API key have reserved
// or used.
func (f *fixture) spentBy(payer uuid.UUID) (tokens int) {
	f.t.Helper()
	err := f.db.Owner.QueryRow(f.t.Context(), `select coalesce(sum(tokens), 0) from budgets where owner = $1`, payer).Scan(&tokens)
	if err != nil {
		f.t.Fatal(err)
	}
	return tokens
}

// TestBudgetIsReservedAndSettled submits jobs against a daily limit of 100 tokens. A job
// must reserve the most that it can use, and give back the rest when it ends.
//
// security: ASVS 2.3.2
func TestBudgetIsReservedAndSettled(t *testing.T) {
	t.Parallel()
	pgtest.OneDay(t)
	f := newLimitedFixture(t, jobs.Limits{Tokens: 100})
	first := f.submit(request) // reserves 46 tokens, which are 6 for the prompt and 40 for the completion
	if today := time.Now().UTC().Format(time.DateOnly); first.Reserved.Tokens != 46 || first.Reserved.Day > today {
		t.Fatalf("reservation: %+v", first.Reserved)
	}
	second := f.submit(request)
	_, err := f.queue.Submit(t.Context(), f.owner, request)
	refused, ok := errors.AsType[*jobs.BudgetError](err)
	if !ok || refused.Limit != 100 || refused.Left != 8 || refused.Needed != 46 || refused.Reset <= 0 || refused.Reset > 24*time.Hour {
		t.Fatalf("third job: %+v, %v, want a BudgetError with 8 of 100 tokens left", refused, err)
	}
	if _, err := f.queue.Submit(t.Context(), f.register(), request); err != nil {
		t.Fatalf("job of another owner: %v", err)
	}
	for range 2 { // the second cancel must change nothing
		if _, err := f.queue.Cancel(t.Context(), second, events.JobCancelled{By: "owner"}); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.spent(); got != 46 {
		t.Errorf("%d tokens spent after a cancel, want 46", got)
	}
	stopping := request
	undisturbed := newEngine().text("prompt", first.Params)
	stopping.Stop = []string{undisturbed[5:9]}
	third := f.submit(stopping)
	f.work(newEngine())
	f.until(first, final)
	third = f.until(third, final)
	if used := third.Usage.TotalTokens; used >= 46 || f.spent() != 46+used {
		t.Errorf("%d tokens used by the job, %d spent in total", used, f.spent())
	}
}

// TestKeyHasABudgetOfItsOwn submits jobs with API keys that have budgets, and without a key.
// Each budget must count only the jobs of its key, also if the service has no budgets.
//
// security: API4:2023, LLM10:2025
func TestKeyHasABudgetOfItsOwn(t *testing.T) {
	t.Parallel()
	pgtest.OneDay(t)
	for name, limits := range map[string]jobs.Limits{"alone": {}, "beside the owner's": {Tokens: 200}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newLimitedFixture(t, limits)
			first, second, third := uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7())
			with := func(key uuid.UUID, tokens int) jobs.Request {
				r := request // needs 46 tokens
				r.APIKey, r.APIKeyTokens = key, tokens
				return r
			}
			j := f.submit(with(first, 50))
			if j.APIKey != first || j.Reserved.Tokens != 46 || f.spentBy(first) != 46 {
				t.Fatalf("%+v, %d spent", j, f.spentBy(first))
			}
			_, err := f.queue.Submit(t.Context(), f.owner, with(first, 50))
			if e, ok := errors.AsType[*jobs.BudgetError](err); !ok || !e.Key || e.Limit != 50 || e.Left != 4 || e.Needed != 46 ||
				e.Code() != "token_budget_spent" || !strings.Contains(err.Error(), "of the API key") {
				t.Errorf("second job of the key: %+v, %v", e, err)
			}
			_, err = f.queue.Submit(t.Context(), f.owner, with(second, 45))
			if e, ok := errors.AsType[*jobs.BudgetError](err); !ok || e.Code() != "over_token_budget" {
				t.Errorf("a job over the whole budget: %+v, %v", e, err)
			}
			f.submit(with(second, 50))
			f.submit(request)
			if _, err := f.queue.Cancel(t.Context(), j, events.JobCancelled{By: "owner"}); err != nil {
				t.Fatal(err)
			}
			if f.spentBy(first) != 0 || f.spentBy(second) != 46 {
				t.Errorf("%d and %d tokens spent after the first job was cancelled", f.spentBy(first), f.spentBy(second))
			}
			// A key without a budget is counted if the owner has one.
			f.submit(with(third, 0))
			if got, want := f.spentBy(third), min(limits.Tokens, 46); got != want {
				t.Errorf("%d tokens of a key without a budget, want %d", got, want)
			}
			b, err := f.queue.KeyBudget(t.Context(), f.owner, second, 50)
			if err != nil || b.Limit != 50 || b.Spent != 46 || b.Reset.IsZero() {
				t.Errorf("%+v, %v", b, err)
			}
		})
	}
}

// TestCrashedWorkerDoesNotChangeTheBudget continues the job of a dead worker. The
// number of spent tokens must stay the same.
func TestCrashedWorkerDoesNotChangeTheBudget(t *testing.T) {
	t.Parallel()
	f := newLimitedFixture(t, jobs.Limits{Tokens: 100})
	j := f.orphan(12, 0, "-1 second")
	if got := f.spent(); got != 46 {
		t.Fatalf("%d tokens spent, want 46", got)
	}
	f.work(newEngine())
	if j = f.until(j, final); j.State != events.Completed || f.spent() != 46 {
		t.Errorf("job %s, %d tokens spent, want 46", j.State, f.spent())
	}
}

func TestNoBudgetReservesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if j := f.submit(request); j.Reserved != (events.Reservation{}) || f.spent() != 0 {
		t.Errorf("reservation %+v, %d tokens spent, want none", j.Reserved, f.spent())
	}
}

// These types are the operations on a budget. porcupine compares their concurrent
// results with a sequential model.
type (
	reserve  struct{ tokens int }
	giveBack struct{ tokens int }
	read     struct{}
)

// result is the result of one operation on a budget.
type result struct {
	refused bool
	tokens  int // tokens left after a refused reserve, or tokens spent as seen by a read
}

func budgetModel(limit int) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return 0 },
		Step: func(state, input, output any) (bool, any) {
			spent, out := state.(int), output.(result)
			switch in := input.(type) {
			case reserve:
				if spent+in.tokens > limit {
					return out == result{true, limit - spent}, spent
				}
				return !out.refused, spent + in.tokens
			case giveBack:
				return in.tokens <= spent, spent - in.tokens
			}
			return out.tokens == spent, spent
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%#v: %+v", input, output) },
	}
}

// budgetClients runs concurrent operations on the budget of one owner or of one API key, and
// records their history.
type budgetClients struct {
	*fixture
	start   time.Time
	request jobs.Request
	payer   uuid.UUID // whose budget it is

	mu      sync.Mutex
	history []porcupine.Operation
	crashes int
}

// do runs an operation and adds it to the history. A crashed operation has no effect and
// is not added. do reports whether the operation succeeded.
func (c *budgetClients) do(client int, input any, fn func() (result, error)) bool {
	call := time.Since(c.start).Nanoseconds()
	out, err := fn()
	done := time.Since(c.start).Nanoseconds()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.history = append(c.history, porcupine.Operation{ClientId: client, Input: input, Call: call, Output: out, Return: done})
		return true
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "57P01" && !strings.Contains(pg.Message, "crashed on purpose") {
		c.t.Errorf("client %d, %#v: %v", client, input, err)
	}
	c.crashes++
	return false
}

func (c *budgetClients) run(ctx context.Context, client int, queue *jobs.Queue, rnd *rand.Rand) {
	var mine []events.Job
	for range 100 {
		switch n := rnd.IntN(10); {
		case n < 4:
			r := c.request
			r.MaxNewTokens = 1 + rnd.IntN(200)
			c.do(client, reserve{6 + r.MaxNewTokens}, func() (result, error) {
				j, err := queue.Submit(ctx, c.owner, r)
				if refused, ok := errors.AsType[*jobs.BudgetError](err); ok {
					return result{true, refused.Left}, nil
				}
				if err == nil {
					mine = append(mine, j)
				}
				return result{}, err
			})
		case n < 5:
			c.do(client, read{}, func() (result, error) {
				var out result
				err := c.db.App.QueryRow(ctx, `select coalesce(sum(tokens), 0) from budgets where owner = $1`, c.payer).Scan(&out.tokens)
				return out, err
			})
		case len(mine) > 0:
			j := mine[0]
			if c.end(ctx, client, queue, j, rnd) {
				mine = mine[1:]
			} else if now, err := c.store.Job(ctx, j.ID); err != nil {
				c.t.Error(err)
			} else {
				mine[0] = now
			}
		}
	}
}

// end completes, fails or cancels a job, at random, and reports whether that succeeded.
func (c *budgetClients) end(ctx context.Context, client int, queue *jobs.Queue, j events.Job, rnd *rand.Rand) bool {
	cancelled := events.JobCancelled{By: "owner"}
	ways := []events.Fact{
		events.JobCompleted{FinishReason: "stop"},
		events.JobFailed{Attempt: j.Attempts, Final: true},
		cancelled,
	}
	way := rnd.IntN(len(ways) + 1)
	if way == len(ways) { // two concurrent cancels; only one of them has an effect
		used := 0
		if j.Attempts > 0 {
			used = 6 + len(j.Tokens)
		}
		return c.do(client, giveBack{j.Reserved.Tokens - used}, func() (result, error) {
			errs := make([]error, 2)
			var wg sync.WaitGroup
			for i := range errs {
				wg.Go(func() { _, errs[i] = queue.Cancel(ctx, j, cancelled) })
			}
			wg.Wait()
			if errs[0] == nil || errs[1] == nil {
				return result{}, nil // one success is enough, because the other cancel may have crashed
			}
			return result{}, errs[0]
		})
	}
	if j.Attempts == 0 {
		var err error
		tokens := make([]int, rnd.IntN(min(j.Params.MaxTokens, 8))+1)
		started := events.JobStarted{Attempt: 1, Weights: "w"}
		if j, err = c.store.AppendJob(ctx, j, started, events.JobAdvanced{Tokens: tokens}); err != nil {
			c.t.Error(err)
			return false
		}
	}
	return c.do(client, giveBack{j.Reserved.Tokens - 6 - len(j.Tokens)}, func() (result, error) {
		_, err := c.store.AppendJob(ctx, j, ways[way])
		return result{}, err
	})
}

// TestBudgetIsLinearizable runs concurrent clients of two queues, which stand for two
// processes. The clients reserve, settle, cancel and read. One transaction in ten
// crashes after it has changed the budget. The history of the operations must be
// linearizable.
//
// security: ASVS 2.3.4, ASVS 15.4.2, LLM10:2025
func TestBudgetIsLinearizable(t *testing.T) {
	t.Parallel()
	pgtest.OneDay(t)
	t.Run("owner", func(t *testing.T) {
		t.Parallel()
		testLinearizable(t, jobs.Limits{Tokens: tokensPerDay}, request)
	})
	t.Run("API key", func(t *testing.T) {
		t.Parallel()
		r := request
		r.APIKey, r.APIKeyTokens = uuid.Must(uuid.NewV7()), tokensPerDay
		testLinearizable(t, jobs.Limits{}, r)
	})
}

// tokensPerDay is the budget that the clients of testLinearizable share.
const tokensPerDay = 2000

func testLinearizable(t *testing.T, limits jobs.Limits, r jobs.Request) {
	f := newLimitedFixture(t, limits)
	for _, sql := range []string{
		fmt.Sprintf(`create function overspent() returns trigger language plpgsql as $$
		begin
			if exists (select from budgets where tokens > %d) then raise exception 'overspent'; end if;
			return null;
		end $$`, tokensPerDay),
		`create constraint trigger overspent after insert or update on budgets deferrable initially deferred
			for each row execute function overspent()`, // the trigger checks at the commit
		`create function crash() returns trigger language plpgsql security definer as $$
		begin
			if random() < 0.05 then raise exception 'crashed on purpose'; end if;
			if random() < 0.05 then perform pg_terminate_backend(pg_backend_pid()); end if;
			return null;
		end $$`,
		`create trigger crash after insert or update on budgets for each row execute function crash()`,
	} {
		if _, err := f.db.Owner.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	c := &budgetClients{fixture: f, start: time.Now(), request: r, payer: f.owner}
	if r.APIKey != (uuid.UUID{}) {
		c.payer = r.APIKey
	}
	queues := []*jobs.Queue{f.queue, f.newQueue(limits)}
	var wg sync.WaitGroup
	for client := range 8 {
		wg.Go(func() {
			c.run(t.Context(), client, queues[client%2], rand.New(rand.NewPCG(1, uint64(client))))
		})
	}
	wg.Wait()
	var accepted, refused int
	for _, op := range c.history {
		if _, ok := op.Input.(reserve); ok && op.Output.(result).refused {
			refused++
		} else if ok {
			accepted++
		}
	}
	t.Logf("%d operations, %d jobs accepted, %d refused, %d transactions crashed", len(c.history), accepted, refused, c.crashes)
	if accepted < 20 || refused < 20 || c.crashes < 5 {
		t.Error("too few operations of a kind for a meaningful check")
	}
	if check := porcupine.CheckOperationsTimeout(budgetModel(tokensPerDay), c.history, time.Minute); check != porcupine.Ok {
		t.Errorf("the history is not linearizable: %s", check)
	}
	// The budget must equal the sum of the tokens spent according to the events.
	sum := 0
	rows, _ := f.db.Owner.Query(t.Context(), `select job from history where owner = $1`, f.owner)
	defer rows.Close()
	for rows.Next() {
		var id uuid.UUID
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		j, err := f.store.Job(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		sum += j.Spent()
	}
	if got := f.spentBy(c.payer); rows.Err() != nil || got != sum {
		t.Errorf("%d tokens spent, %d by the jobs' events, %v", got, sum, rows.Err())
	}
}
