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
	"colophon/jobs"
)

// spent returns what the owner's jobs have reserved and used today.
func (f *fixture) spent() (tokens int) {
	f.t.Helper()
	err := f.db.Owner.QueryRow(f.t.Context(), `select coalesce(sum(tokens), 0) from budgets where owner = $1`, f.owner).Scan(&tokens)
	if err != nil {
		f.t.Fatal(err)
	}
	return tokens
}

// security: ASVS 2.3.2
func TestTheBudgetIsReservedAndSettled(t *testing.T) {
	f := newLimitedFixture(t, jobs.Limits{Tokens: 100})
	first := f.submit(request) // 6 tokens, and up to 40
	if today := time.Now().UTC().Format(time.DateOnly); first.Reserved.Tokens != 46 || first.Reserved.Day > today {
		t.Fatalf("reserved: %+v", first.Reserved)
	}
	second := f.submit(request)
	_, err := f.queue.Submit(t.Context(), f.owner, request)
	refused, ok := errors.AsType[*jobs.BudgetError](err)
	if !ok || refused.Limit != 100 || refused.Left != 8 || refused.Needed != 46 || refused.Reset <= 0 || refused.Reset > 24*time.Hour {
		t.Fatalf("%+v, %v", refused, err)
	}
	if _, err := f.queue.Submit(t.Context(), f.register(), request); err != nil {
		t.Fatalf("somebody else: %v", err)
	}
	for range 2 { // the second time changes nothing
		if _, err := f.queue.Cancel(t.Context(), second, events.JobCancelled{By: "owner"}); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.spent(); got != 46 {
		t.Errorf("after a cancel %d are spent, want 46", got)
	}
	stopping := request
	undisturbed := newEngine().text("prompt", first.Params)
	stopping.Stop = []string{undisturbed[5:9]}
	third := f.submit(stopping)
	f.work(newEngine())
	f.until(first, final)
	third = f.until(third, final)
	if used := third.Usage.TotalTokens; used >= 46 || f.spent() != 46+used {
		t.Errorf("%d tokens were used, and %d are spent", used, f.spent())
	}
}

// TestTheBudgetSurvivesAWorker kills a worker in the middle of a job.
func TestTheBudgetSurvivesAWorker(t *testing.T) {
	f := newLimitedFixture(t, jobs.Limits{Tokens: 100})
	j := f.orphan(12, 0, "-1 second")
	if got := f.spent(); got != 46 {
		t.Fatalf("%d are spent, want 46", got)
	}
	f.work(newEngine())
	if j = f.until(j, final); j.State != events.Completed || f.spent() != 46 {
		t.Errorf("%s, and %d are spent", j.State, f.spent())
	}
}

func TestWithoutABudgetNothingIsReserved(t *testing.T) {
	f := newFixture(t)
	if j := f.submit(request); j.Reserved != (events.Reservation{}) || f.spent() != 0 {
		t.Errorf("%+v, %d", j.Reserved, f.spent())
	}
}

// The operations on a budget, as one that comes after the other does them.
type (
	reserve struct{ tokens int }
	back    struct{ tokens int }
	look    struct{}
)

// answer is what came of one: for reserve what was left if it was refused, for
// look what was spent.
type answer struct {
	refused bool
	tokens  int
}

func budgetModel(limit int) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return 0 },
		Step: func(state, input, output any) (bool, any) {
			spent, out := state.(int), output.(answer)
			switch in := input.(type) {
			case reserve:
				if spent+in.tokens > limit {
					return out == answer{true, limit - spent}, spent
				}
				return !out.refused, spent + in.tokens
			case back:
				return in.tokens <= spent, spent - in.tokens
			}
			return out.tokens == spent, spent
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%#v: %+v", input, output) },
	}
}

// budgetClients uses one budget from many places.
type budgetClients struct {
	*fixture
	start time.Time

	mu      sync.Mutex
	history []porcupine.Operation
	crashes int
}

// do records an operation. One that was crashed in the middle has no effect,
// and is not in the history.
func (c *budgetClients) do(client int, input any, fn func() (answer, error)) bool {
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
			r := request
			r.MaxNewTokens = 1 + rnd.IntN(200)
			c.do(client, reserve{6 + r.MaxNewTokens}, func() (answer, error) {
				j, err := queue.Submit(ctx, c.owner, r)
				if refused, ok := errors.AsType[*jobs.BudgetError](err); ok {
					return answer{true, refused.Left}, nil
				}
				if err == nil {
					mine = append(mine, j)
				}
				return answer{}, err
			})
		case n < 5:
			c.do(client, look{}, func() (answer, error) {
				var out answer
				err := c.db.App.QueryRow(ctx, `select coalesce(sum(tokens), 0) from budgets where owner = $1`, c.owner).Scan(&out.tokens)
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

// end ends a job in one of the ways in which jobs end, or in two at once.
func (c *budgetClients) end(ctx context.Context, client int, queue *jobs.Queue, j events.Job, rnd *rand.Rand) bool {
	cancelled := events.JobCancelled{By: "owner"}
	ways := []events.Fact{
		events.JobCompleted{FinishReason: "stop"},
		events.JobFailed{Attempt: j.Attempts, Final: true},
		cancelled,
	}
	way := rnd.IntN(len(ways) + 1)
	if way == len(ways) { // two cancels, of which one has an effect
		used := 0
		if j.Attempts > 0 {
			used = 6 + len(j.Tokens)
		}
		return c.do(client, back{j.Reserved.Tokens - used}, func() (answer, error) {
			errs := make([]error, 2)
			var wg sync.WaitGroup
			for i := range errs {
				wg.Go(func() { _, errs[i] = queue.Cancel(ctx, j, cancelled) })
			}
			wg.Wait()
			if errs[0] == nil || errs[1] == nil {
				return answer{}, nil // one that was crashed left it to the other
			}
			return answer{}, errs[0]
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
	return c.do(client, back{j.Reserved.Tokens - 6 - len(j.Tokens)}, func() (answer, error) {
		_, err := c.store.AppendJob(ctx, j, ways[way])
		return answer{}, err
	})
}

// TestTheBudgetIsLinearizable lets clients of two processes reserve, settle,
// cancel and look at once, while one transaction in ten dies after it has
// changed the budget.
//
// security: ASVS 2.3.4, ASVS 15.4.2, LLM10:2025
func TestTheBudgetIsLinearizable(t *testing.T) {
	const limit = 2000
	limits := jobs.Limits{Tokens: limit}
	f := newLimitedFixture(t, limits)
	for _, sql := range []string{
		fmt.Sprintf(`create function overspent() returns trigger language plpgsql as $$
		begin
			if exists (select from budgets where tokens > %d) then raise exception 'overspent'; end if;
			return null;
		end $$`, limit),
		`create constraint trigger overspent after insert or update on budgets deferrable initially deferred
			for each row execute function overspent()`, // looks when a transaction commits
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
	c := &budgetClients{fixture: f, start: time.Now()}
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
		if _, ok := op.Input.(reserve); ok && op.Output.(answer).refused {
			refused++
		} else if ok {
			accepted++
		}
	}
	t.Logf("%d operations, %d jobs accepted, %d refused, %d transactions crashed", len(c.history), accepted, refused, c.crashes)
	if accepted < 20 || refused < 20 || c.crashes < 5 {
		t.Error("too little happened")
	}
	if result := porcupine.CheckOperationsTimeout(budgetModel(limit), c.history, time.Minute); result != porcupine.Ok {
		t.Errorf("the history is not linearizable: %s", result)
	}
	// And the budget is what the events say.
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
	if got := f.spent(); rows.Err() != nil || got != sum {
		t.Errorf("%d are spent, the jobs say %d, %v", got, sum, rows.Err())
	}
}
