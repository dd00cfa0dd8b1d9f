package events

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// JobFilter selects jobs of one owner. Zero fields select all.
type JobFilter struct {
	States       []State
	Model        string
	Since, Until time.Time // jobs accepted at Since and later, and before Until
}

// states returns the states of the filter, or those of all rows.
func (f JobFilter) states() []string {
	chosen := f.States
	if len(chosen) == 0 {
		chosen = []State{Queued, Running, Completed, Failed, Cancelled, StateDamaged}
	}
	names := make([]string, len(chosen)) // pgx sends a list of this type in every query mode
	for i, state := range chosen {
		names[i] = string(state)
	}
	slices.Sort(names)
	return slices.Compact(names) // with a state twice, the query would find its jobs twice
}

// ofOwner begins a query of the jobs of the owner $1 with the states $2 and the model $3, or
// with any model if $3 is empty. The index history_of_owner has the models of an owner in
// order, so the recursion reads one entry for each. A query then looks into the index once
// for each model and state, in a lateral join. Such a look reads no job of another state.
// Postgres expects a hundred models of a recursion, and ten of an array.
const ofOwner = `
	with recursive known (model) as (
		(select model from history where owner = $1 order by model limit 1)
		union all
		select (select model from history where owner = $1 and model > known.model order by model limit 1)
		from known where known.model is not null
	), kind as (
		select model, state from unnest(array(select model from known where model is not null)) as model, unnest($2::text[]) as state
		where $3 = '' or model = $3
	)`

// listQuery selects the newest rows of an owner. Only the rows of the page are read from the
// table. A page begins after the time of the job $4, which is about $5 if the owner has no
// such job, or before the time $7. These two are one bound, because Postgres would begin a
// scan at any one of two, and skip the jobs up to the other.
const listQuery = ofOwner + `, begin as (
		select least(at, until) as at, case when at < until then $4::uuid else '00000000-0000-0000-0000-000000000000' end as job
		from (select coalesce((select created_at from history where job = $4 and owner = $1), $5::timestamptz) as at, coalesce($7::timestamptz, 'infinity') as until) as bounds
	), page as (
		select newest.job from begin cross join kind cross join lateral (
			select created_at, job from history
			where owner = $1 and model = kind.model and state = kind.state
				and (created_at, job) < (begin.at, begin.job) and created_at >= coalesce($6::timestamptz, '-infinity')
			order by created_at desc, job desc limit $8
		) as newest
		order by created_at desc, job desc limit $8
	)
	select ` + columns + ` from history
	where job in (select job from page) and not exists (select from owner_keys where owner = $1 and erased_at is not null)
	order by created_at desc, job desc`

// Jobs returns up to limit jobs of an owner that a filter selects, newest first. The
// parameter last is the last job of the previous page, or the zero UUID for the first page.
// A record has the generated text only if the job has ended. The record of an erased job has
// no prompt and no text. Neither has that of a damaged job, whose state is StateDamaged. An
// erased owner has no jobs.
func (s *Store) Jobs(ctx context.Context, owner uuid.UUID, filter JobFilter, last uuid.UUID, limit int) ([]Record, error) {
	rows, _ := s.pool.Query(ctx, listQuery, listArgs(owner, filter, last, limit)...)
	found, err := pgx.CollectRows(rows, scanRow)
	var records []Record
	if err == nil {
		records, err = s.openAll(ctx, found)
	}
	if err != nil {
		return nil, fmt.Errorf("list the jobs of %s: %w", owner, err)
	}
	return records, nil
}

func listArgs(owner uuid.UUID, filter JobFilter, last uuid.UUID, limit int) []any {
	if last == (uuid.UUID{}) {
		last = uuid.Max
	}
	return []any{owner, filter.states(), filter.Model, last, timeOf(last), present(filter.Since), present(filter.Until), limit}
}

// timeOf returns the time in an id of version 7, up to the year 9999.
func timeOf(id uuid.UUID) time.Time {
	end := time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC).UnixMilli()
	return time.UnixMilli(min(end, int64(binary.BigEndian.Uint64(id[:8])>>16)))
}

// DayUsage is what the jobs that an owner had accepted on one day have used.
type DayUsage struct {
	Day              time.Time // the beginning of the day, in UTC
	Jobs             int
	PromptTokens     int64
	CompletionTokens int64 // generated tokens of the jobs that have ended
}

// usageQuery counts jobs by day. Without offset, Postgres could replace the lateral join by
// one that reads all entries of the owner.
const usageQuery = ofOwner + `
	select (created_at at time zone 'UTC')::date, count(*), sum(prompt_tokens), sum(completion_tokens)
	from kind cross join lateral (
		select created_at, prompt_tokens, completion_tokens from history
		where owner = $1 and model = kind.model and state = kind.state and created_at >= $4 and created_at < $5
		offset 0
	) as counted
	group by 1 order by 1`

// keyUsageQuery counts the jobs of an API key by day. The condition on the owner keeps the
// keys of other accounts apart.
const keyUsageQuery = `
	select (created_at at time zone 'UTC')::date, count(*), sum(prompt_tokens), sum(completion_tokens)
	from history where api_key = $2 and owner = $1 and created_at >= $3 and created_at < $4
	group by 1 order by 1`

// UsageByDay returns the usage of an owner on each day from one day to another, in order. If
// key is not zero, only the jobs that this API key submitted count. Days without jobs are
// left out. UsageByDay reads an index entry for each job of these days, and no prompt and no
// text.
func (s *Store) UsageByDay(ctx context.Context, owner, key uuid.UUID, from, to time.Time) ([]DayUsage, error) {
	var rows pgx.Rows
	if key == (uuid.UUID{}) {
		rows, _ = s.pool.Query(ctx, usageQuery, usageArgs(owner, from, to)...)
	} else {
		rows, _ = s.pool.Query(ctx, keyUsageQuery, owner, key, from, to.AddDate(0, 0, 1))
	}
	days, err := pgx.CollectRows(rows, pgx.RowToStructByPos[DayUsage])
	if err != nil {
		return nil, fmt.Errorf("count the usage of %s: %w", owner, err)
	}
	return days, nil
}

func usageArgs(owner uuid.UUID, from, to time.Time) []any {
	var all JobFilter
	return []any{owner, all.states(), all.Model, present(from), present(to.AddDate(0, 0, 1))}
}
