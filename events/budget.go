package events

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/internal/pg"
)

// Reservation is what is set aside for a job of its owner's token budget for a day.
type Reservation struct {
	Day    string `json:"day"`    // in UTC, as time.DateOnly has it
	Tokens int    `json:"tokens"` // of the prompt, and the most that may follow
}

// Spent returns how many tokens of its owner's budget the job takes: what was
// reserved as long as it is outstanding, and then what was used, which is
// nothing if it never started.
func (j Job) Spent() int {
	switch {
	case !j.State.Final():
		return j.Reserved.Tokens
	case j.Attempts == 0:
		return 0
	}
	return min(j.Reserved.Tokens, j.PromptTokens+len(j.Tokens))
}

// queueSpending brings the owner's budget from before to after. The version
// fence of the stream lets only one final fact through, so that each
// reservation is settled once.
func queueSpending(batch *pgx.Batch, before, after Job) {
	switch more := after.Spent() - before.Spent(); {
	case more > 0:
		queueSpent(batch, after.Owner, after.Reserved.Day, more)
	case more < 0:
		batch.Queue(`update budgets set tokens = tokens + $3 where owner = $1 and day = $2`, after.Owner, after.Reserved.Day, more)
	}
}

func queueSpent(batch *pgx.Batch, owner uuid.UUID, day string, tokens int) {
	batch.Queue(`
		insert into budgets as b (owner, day, tokens) values ($1, $2, $3)
		on conflict (owner, day) do update set tokens = b.tokens + excluded.tokens`, owner, day, tokens)
}

// Load is what an owner has on the service.
type Load struct {
	Outstanding int       // jobs queued or running, counted up to a limit
	Priority    int       // of the owner's latest queued job; 0 if there is none
	Spent       int       // tokens of the day's budget that are reserved or used
	At          time.Time // by the database's clock, in UTC: which day that is
}

// load is the query of a Load.
const load = `
	select
		(select count(*) from (select from history where owner = $1 and state in ('queued', 'running') limit $2) as outstanding),
		coalesce((select priority from history where owner = $1 and state = 'queued' order by job desc limit 1), 0),
		coalesce((select tokens from budgets where owner = $1 and day = (now() at time zone 'UTC')::date), 0),
		now()`

// Load returns what an owner has on the service, counting up to limit jobs.
func (tx *Tx) Load(ctx context.Context, owner uuid.UUID, limit int) (Load, error) {
	return scanLoad(owner, tx.QueryRow(ctx, load, owner, limit))
}

// LoadAlone returns the same with what this transaction has added, and until it
// ends no other one gets the owner's load alone: who has seen that there is
// room has it. Jobs may end meanwhile. It is the last to be called before the
// commit, since others wait.
func (tx *Tx) LoadAlone(ctx context.Context, owner uuid.UUID, limit int) (l Load, err error) {
	var batch pgx.Batch
	// A statement of its own: the next one must see what came before the lock.
	batch.Queue(`select pg_advisory_xact_lock(hashtextextended('load/' || $1::uuid::text, 0))`, owner)
	batch.Queue(load, owner, limit).QueryRow(func(row pgx.Row) error {
		l, err = scanLoad(owner, row)
		return err
	})
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return l, fmt.Errorf("look at the load of %s alone: %w", owner, err)
	}
	return l, nil
}

func scanLoad(owner uuid.UUID, row pgx.Row) (l Load, err error) {
	if err := row.Scan(&l.Outstanding, &l.Priority, &l.Spent, &l.At); err != nil {
		return l, fmt.Errorf("look at the load of %s: %w", owner, err)
	}
	l.At = l.At.UTC()
	return l, nil
}

// budgetsFor is for how many days after theirs budgets are kept, for people who
// look at them: only that of the day counts.
const budgetsFor = 7

// ForgetBudgets removes the budgets of days that are long over. A rebuild brings
// them back, until the next time.
func (s *Store) ForgetBudgets(ctx context.Context) error {
	_, err := pg.DeleteBatches(ctx, s.pool, forgetBatch, forgetTimeout, `
		delete from budgets where (owner, day) in (
			select owner, day from budgets where day < (now() at time zone 'UTC')::date - $1::integer
			order by day limit $2 for update skip locked)`,
		budgetsFor)
	if err != nil {
		return fmt.Errorf("remove old budgets: %w", err)
	}
	return nil
}
