package events

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/internal/pg"
)

// Reservation is a job's share of the token budgets of one day. The owner has one, and so has
// the API key that submitted the job.
type Reservation struct {
	Day    string `json:"day"`    // the day in UTC, in the format time.DateOnly
	Tokens int    `json:"tokens"` // number of tokens of the prompt plus the maximum number of new tokens
}

// Spent returns the number of tokens that the job takes from each of its budgets. An
// outstanding job takes its whole reservation. A final job takes the tokens it used, but
// not more than its reservation. A final job that never started takes no tokens.
func (j Job) Spent() int {
	switch {
	case !j.State.Final():
		return j.Reserved.Tokens
	case j.Attempts == 0:
		return 0
	}
	return min(j.Reserved.Tokens, j.PromptTokens+j.Generated())
}

// payers returns the ids under which the table budgets has the budgets of the job: that of
// the owner, and that of the API key if there is one.
func (j Job) payers() []uuid.UUID {
	if j.APIKey == (uuid.UUID{}) {
		return []uuid.UUID{j.Owner}
	}
	return []uuid.UUID{j.Owner, j.APIKey}
}

// queueSpending updates the budgets of a job for its change from before to after. A
// job's stream accepts only one final fact, so each reservation is settled only once.
func queueSpending(batch *pgx.Batch, before, after Job) {
	more := after.Spent() - before.Spent()
	if more == 0 {
		return
	}
	for _, payer := range after.payers() {
		if more > 0 {
			batch.Queue(`
				insert into budgets as b (owner, day, tokens) values ($1, $2, $3)
				on conflict (owner, day) do update set tokens = b.tokens + excluded.tokens`, payer, after.Reserved.Day, more)
		} else {
			// The table refuses a negative budget. Without greatest, a budget that is too low
			// would keep the job from ending.
			batch.Queue(`update budgets set tokens = greatest(0, tokens + $3) where owner = $1 and day = $2`, payer, after.Reserved.Day, more)
		}
	}
}

// Load is an owner's current use of the service. Jobs of batches count only for the budgets.
type Load struct {
	Outstanding int       // number of queued or running jobs, counted up to a limit
	Priority    int       // priority of the owner's latest queued job, or 0 if the owner has no queued job
	Spent       int       // number of tokens of today's budget that are reserved or used
	KeySpent    int       // the same for the budget of the API key
	At          time.Time // the start of the transaction, by the database's clock, in UTC
}

const loadQuery = `
	select
		(select count(*) from (select from history where owner = $1 and state in ('queued', 'running') and batch is null limit $2) as outstanding),
		coalesce((select priority from history where owner = $1 and state = 'queued' and batch is null order by job desc limit 1), 0),
		coalesce((select tokens from budgets where owner = $1 and day = (now() at time zone 'UTC')::date), 0),
		coalesce((select tokens from budgets where owner = $3 and day = (now() at time zone 'UTC')::date), 0),
		now()`

// Load returns an owner's load, including the changes of this transaction. The number of
// outstanding jobs is counted up to limit. The parameter key is one of the owner's API keys,
// or zero.
func (tx *Tx) Load(ctx context.Context, owner, key uuid.UUID, limit int) (Load, error) {
	return scanLoad(owner, tx.QueryRow(ctx, loadQuery, owner, limit, key))
}

// Load returns an owner's load. The parameters are those of [Tx.Load].
func (s *Store) Load(ctx context.Context, owner, key uuid.UUID, limit int) (Load, error) {
	return scanLoad(owner, s.pool.QueryRow(ctx, loadQuery, owner, limit, key))
}

// LockLoad is like Load, but also locks the owner's load until the transaction ends.
// Concurrent calls for the same owner wait for the lock. If every transaction that adds
// to a load calls LockLoad, no other transaction can add to the load between this call
// and the commit. Jobs of the owner may still end in this time. To keep the wait short,
// make LockLoad the last call before the commit.
func (tx *Tx) LockLoad(ctx context.Context, owner, key uuid.UUID, limit int) (l Load, err error) {
	var batch pgx.Batch
	// The lock is a separate statement, because only a later statement sees the changes
	// that are committed during the wait.
	batch.Queue(`select pg_advisory_xact_lock(hashtextextended('load/' || $1::uuid::text, 0))`, owner)
	batch.Queue(loadQuery, owner, limit, key).QueryRow(func(row pgx.Row) error {
		l, err = scanLoad(owner, row)
		return err
	})
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return l, fmt.Errorf("lock the load of %s: %w", owner, err)
	}
	return l, nil
}

func scanLoad(owner uuid.UUID, row pgx.Row) (l Load, err error) {
	if err := row.Scan(&l.Outstanding, &l.Priority, &l.Spent, &l.KeySpent, &l.At); err != nil {
		return l, fmt.Errorf("read the load of %s: %w", owner, err)
	}
	l.At = l.At.UTC()
	return l, nil
}

// budgetDays is the number of days for which a budget is kept after its own day. The
// budget of a past day no longer limits the owner. It is kept so that people can read
// it.
const budgetDays = 7

// ForgetBudgets removes the budgets of days that ended more than a week ago.
func (s *Store) ForgetBudgets(ctx context.Context) error {
	_, err := pg.DeleteBatches(ctx, s.pool, forgetBatch, forgetTimeout, `
		delete from budgets where (owner, day) in (
			select owner, day from budgets where day < (now() at time zone 'UTC')::date - $1::integer
			order by day limit $2 for update skip locked)`,
		budgetDays)
	if err != nil {
		return fmt.Errorf("remove old budgets: %w", err)
	}
	return nil
}

// payerDay identifies a budget.
type payerDay struct {
	payer uuid.UUID // an owner or an API key
	day   string
}

// rebuildBudgets corrects the budgets of the days that ForgetBudgets keeps. It compares
// the budgets with the events in one snapshot. It then adds the differences to the
// budgets. It does not overwrite the budgets, because writers may have changed them since
// the snapshot.
func (s *Store) rebuildBudgets(ctx context.Context, conn *pgx.Conn) error {
	wrong := map[payerDay]int{} // number of tokens that each budget lacks; negative if the budget is too high
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, conn, snapshot, func(tx pgx.Tx) error {
		// This transaction may be idle for long, because it holds no lock that a writer
		// waits for.
		if _, err := tx.Exec(ctx, `set local idle_in_transaction_session_timeout = 0`); err != nil {
			return err
		}
		var first time.Time
		if err := tx.QueryRow(ctx, `select (now() at time zone 'UTC')::date - $1::integer`, budgetDays).Scan(&first); err != nil {
			return err
		}
		erased := map[uuid.UUID]bool{}
		err := s.eachJob(ctx, conn, acceptedSince(first), func(streams []Stream) error {
			stored, err := readStreams(ctx, conn, streams)
			if err != nil {
				return err
			}
			jobs, _, err := s.foldStreams(ctx, conn, stored)
			for _, j := range jobs {
				erased[j.Owner] = erased[j.Owner] || j.Erased && j.ErasedAt.IsZero()
				if j.Reserved.Day >= first.Format(time.DateOnly) {
					for _, payer := range j.payers() {
						wrong[payerDay{payer, j.Reserved.Day}] += j.Spent()
					}
				}
			}
			return err
		})
		if err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, `select owner, day::text, tokens from budgets where day >= $1::text::date`, first.Format(time.DateOnly))
		var b payerDay
		var tokens int
		if _, err := pgx.ForEachRow(rows, []any{&b.payer, &b.day, &tokens}, func() error { wrong[b] -= tokens; return nil }); err != nil {
			return err
		}
		// An erased owner needs no budget, and the tokens of their jobs cannot be counted.
		maps.DeleteFunc(wrong, func(b payerDay, missing int) bool { return missing == 0 || erased[b.payer] })
		return nil
	})
	if err != nil {
		return err
	}
	for b, missing := range wrong {
		_, err := conn.Exec(ctx, `
			insert into budgets as b (owner, day, tokens) values ($1, $2::text::date, greatest(0, $3::bigint))
			on conflict (owner, day) do update set tokens = greatest(0, b.tokens + $3::bigint)`, b.payer, b.day, missing)
		if err != nil {
			return err
		}
	}
	return nil
}

// acceptedSince returns a stream name that sorts before the streams of all jobs accepted
// on the given day or later. Job ids begin with the time in milliseconds. The result is
// one day earlier than necessary, in case a clock was wrong by a day.
func acceptedSince(day time.Time) Stream {
	var id uuid.UUID
	ms := day.AddDate(0, 0, -1).UnixMilli()
	binary.BigEndian.PutUint64(id[:8], uint64(ms)<<16)
	return JobStream(id)
}
