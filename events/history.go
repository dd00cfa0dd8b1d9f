package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"colophon/internal/vault"
)

// StateDamaged is the state of a Record whose events are damaged. The row of a job has it if
// the job had not ended when its stream was set aside. No Job has this state.
const StateDamaged State = "damaged"

// Record is a row of the history view: a job without its events.
type Record struct {
	Job              uuid.UUID
	Owner            uuid.UUID
	State            State
	Priority         int // priority in the queue, from 1 (first) to 4 (last)
	Model            string
	AcceptedFor      string // digest of the weights that the job was accepted for or reassigned to; empty if any weights may run it
	Prompt           string
	Text             string // generated text, or empty until the job is final
	PromptTokens     int
	CompletionTokens int // number of generated tokens, or 0 until the job is final
	FinishReason     string
	CreatedAt        time.Time
	Deadline         time.Time // zero if the job has no deadline
	StartedAt        time.Time // zero until the first start
	FinishedAt       time.Time // zero until the job is final
	Erased           bool      // the ciphertext or the owner's key is gone, so Prompt and Text are empty
	ErasedAt         time.Time // as in Job
	APIKey           uuid.UUID // as in Job
	EraseAtEnd       bool      // as in JobAccepted
	TextAt           time.Time // as in JobAccepted
	Batch            uuid.UUID // batch whose line asked for the job, or zero
}

// record returns the history row of a job.
func record(j Job) Record {
	r := Record{
		Job:          j.ID,
		Owner:        j.Owner,
		State:        j.State,
		Priority:     j.Priority,
		Model:        j.Model,
		AcceptedFor:  j.AcceptedFor,
		Prompt:       j.Prompt,
		PromptTokens: j.PromptTokens,
		FinishReason: j.FinishReason,
		CreatedAt:    j.AcceptedAt,
		Deadline:     j.Deadline,
		StartedAt:    j.StartedAt,
		FinishedAt:   j.FinishedAt,
		Erased:       j.Erased,
		ErasedAt:     j.ErasedAt,
		APIKey:       j.APIKey,
		EraseAtEnd:   j.EraseAtEnd,
		TextAt:       j.TextAt,
		Batch:        j.Batch.ID,
	}
	if j.State.Final() {
		r.Text, r.CompletionTokens = j.Text, j.Generated()
		if j.State == Completed {
			r.CompletionTokens = j.Usage.CompletionTokens
		}
	}
	return r
}

// secrets are the members of a row that are stored as ciphertext.
type secrets struct {
	Prompt string `json:"prompt"`
	Text   string `json:"text"`
}

// rowAAD returns the associated data that binds a row's ciphertext to its job.
func rowAAD(job uuid.UUID) string { return "history " + job.String() }

// queueProjection updates the job's row in the history view if the append changes the
// row. Most appends add only generated tokens, which do not change the row.
func queueProjection(batch *pgx.Batch, before, after Job, key *vault.Key) error {
	if r := record(after); before.Version == 0 || r != record(before) {
		_, err := queueUpsert(batch, r, key, "")
		return err
	}
	return nil
}

// upsert writes a row of the history view.
const upsert = `
insert into history (job, owner, state, priority, model, prompt_tokens, completion_tokens, finish_reason, created_at, deadline, started_at, finished_at, sealed, weights, erased_at, api_key, erase_at_end, text_at, batch)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, sealed_by($2, $16::integer, $13), $14, $15, $17, $18, $19, $20)
on conflict (job) do update set
	owner = excluded.owner, state = excluded.state, priority = excluded.priority, model = excluded.model,
	prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens, finish_reason = excluded.finish_reason,
	created_at = excluded.created_at, deadline = excluded.deadline,
	started_at = excluded.started_at, finished_at = excluded.finished_at, sealed = excluded.sealed, weights = excluded.weights,
	erased_at = excluded.erased_at, api_key = excluded.api_key, erase_at_end = excluded.erase_at_end, text_at = excluded.text_at, batch = excluded.batch `

// queueUpsert writes a row. If key is nil, it stores no prompt and no text. An existing
// row is replaced only if it meets the condition, whose parameters begin with $21. An empty
// condition is always met.
func queueUpsert(batch *pgx.Batch, r Record, key *vault.Key, condition string, args ...any) (*pgx.QueuedQuery, error) {
	var sealed []byte
	if key != nil && !r.Erased {
		plain, err := json.Marshal(secrets{r.Prompt, r.Text})
		if err != nil {
			return nil, err
		}
		sealed = key.Seal(plain, rowAAD(r.Job))
	}
	return batch.Queue(upsert+condition,
		append([]any{r.Job, r.Owner, r.State, r.Priority, r.Model, r.PromptTokens, r.CompletionTokens, r.FinishReason,
			r.CreatedAt, nullTime(r.Deadline), nullTime(r.StartedAt), nullTime(r.FinishedAt), sealed, r.AcceptedFor, nullTime(r.ErasedAt), key.Number(), nullID(r.APIKey), r.EraseAtEnd, nullTime(r.TextAt), nullID(r.Batch)}, args...)...), nil
}

func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func nullID(id uuid.UUID) *uuid.UUID {
	if id == (uuid.UUID{}) {
		return nil
	}
	return &id
}

// columns are the columns that scanRow expects.
const columns = `job, owner, state, priority, model, prompt_tokens, completion_tokens, finish_reason, created_at, deadline, started_at, finished_at, sealed, weights, erased_at, api_key, erase_at_end, text_at, batch, xmin::text`

// row is a row of the table history. Its sealed bytes hold the encrypted prompt and
// text.
type row struct {
	Record
	sealed []byte
	xmin   string // id of the transaction that wrote the row
}

func scanRow(rows pgx.CollectableRow) (row, error) {
	var r row
	var deadline, started, finished, erased, text *time.Time
	var key, batch *uuid.UUID
	err := rows.Scan(&r.Job, &r.Owner, &r.State, &r.Priority, &r.Model, &r.PromptTokens, &r.CompletionTokens, &r.FinishReason,
		&r.CreatedAt, &deadline, &started, &finished, &r.sealed, &r.AcceptedFor, &erased, &key, &r.EraseAtEnd, &text, &batch, &r.xmin)
	r.CreatedAt = r.CreatedAt.UTC()
	r.Deadline, r.StartedAt, r.FinishedAt, r.ErasedAt, r.TextAt = utc(deadline), utc(started), utc(finished), utc(erased), utc(text)
	if key != nil {
		r.APIKey = *key
	}
	if batch != nil {
		r.Batch = *batch
	}
	return r, err
}

// errRow occurs when the ciphertext of a row cannot be opened with the owner's key.
var errRow = errors.New("the row of the history view is damaged")

// open returns the record with its prompt and text, or marks it as erased if the
// owner's key is gone.
func (s *Store) open(ctx context.Context, db vault.DB, r row) (Record, error) {
	record, err := s.openWith(ctx, db, r, s.vault.Key)
	if errors.Is(err, errRow) { // the key in memory may be older than the row
		s.vault.Forget(r.Owner)
		record, err = s.openWith(ctx, db, r, s.vault.Reload)
	}
	if errors.Is(err, errRow) { // the row may be older than the key
		if err := s.pool.QueryRow(ctx, `select sealed from history where job = $1`, r.Job).Scan(&r.sealed); err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return record, fmt.Errorf("read the row of job %s again: %w", r.Job, err)
		}
		record, err = s.openWith(ctx, s.pool, r, s.vault.Reload)
	}
	return record, err
}

// openWith is open with a key that it gets by calling keyOf.
func (s *Store) openWith(ctx context.Context, db vault.DB, r row, keyOf keyFunc) (Record, error) {
	key, err := keyOf(ctx, db, r.Owner)
	if errors.Is(err, vault.ErrErased) {
		r.Erased, r.APIKey = true, uuid.UUID{} // the owner's key was needed to read the id in the events
		return r.Record, nil
	}
	if r.sealed == nil {
		r.Erased = true
		return r.Record, nil
	}
	if err != nil {
		return r.Record, err
	}
	plain, err := key.Open(r.sealed, rowAAD(r.Job))
	if err != nil {
		return r.Record, fmt.Errorf("%w: %w", errRow, err)
	}
	var secret secrets
	if err := json.Unmarshal(plain, &secret); err != nil {
		return r.Record, fmt.Errorf("%w: %w", errRow, err)
	}
	r.Prompt, r.Text = secret.Prompt, secret.Text
	return r.Record, nil
}

// History returns up to limit completed jobs of an owner, newest first. The parameter
// last is the last job of the previous page, or the zero UUID for the first page. The record
// of an erased job has no prompt and no text. Neither has that of a job whose row and events
// are damaged. Its state is StateDamaged. An erased owner has no history.
func (s *Store) History(ctx context.Context, owner, last uuid.UUID, limit int) ([]Record, error) {
	return s.history(ctx, owner, last, limit, pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true})
}

// HistoryAsOf is like History, but returns only jobs that had completed at the time asOf.
// The time of a completion is that of its event, which is taken before the commit. So a job
// that completes just now can be added to the history of a time that has passed, for as
// long as its transaction takes.
func (s *Store) HistoryAsOf(ctx context.Context, owner, last uuid.UUID, limit int, asOf time.Time) ([]Record, error) {
	return s.history(ctx, owner, last, limit, pgtype.Timestamptz{Time: asOf, Valid: true})
}

func (s *Store) history(ctx context.Context, owner, last uuid.UUID, limit int, asOf pgtype.Timestamptz) ([]Record, error) {
	if last == (uuid.UUID{}) {
		last = uuid.Max
	}
	rows, _ := s.pool.Query(ctx, `
		select `+columns+` from history
		where owner = $1 and state = 'completed' and job < $2 and finished_at <= $4
			and not exists (select from owner_keys where owner = $1 and erased_at is not null)
		order by job desc limit $3`, owner, last, limit, asOf)
	found, err := pgx.CollectRows(rows, scanRow)
	if err != nil {
		return nil, fmt.Errorf("read the history of %s: %w", owner, err)
	}
	records, err := s.openAll(ctx, found)
	if err != nil {
		return nil, fmt.Errorf("read the history of %s: %w", owner, err)
	}
	return records, nil
}

// openAll returns the records of rows of one owner. It returns none if the owner is erased
// meanwhile. The record of a damaged job has neither prompt nor text.
func (s *Store) openAll(ctx context.Context, found []row) ([]Record, error) {
	records := make([]Record, len(found))
	for i, r := range found {
		if r.State == StateDamaged {
			records[i] = r.Record
			continue
		}
		var err error
		records[i], err = s.open(ctx, s.pool, r)
		if errors.Is(err, errRow) {
			// The events contain the text too, so the text is read from the events.
			var job Job
			job, err = s.Job(ctx, r.Job)
			if records[i] = record(job); errors.Is(err, ErrDamaged) {
				records[i], err = r.Record, nil // the text of this job is lost, but the other jobs must still be returned
				records[i].State = StateDamaged
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(records, func(r Record) bool { return r.Erased && r.ErasedAt.IsZero() && r.State != StateDamaged }), nil
}

// MaxQueuePosition is the maximum position that QueuePosition returns.
const MaxQueuePosition = 10_000

// QueuePosition returns the position of a queued job. The position is 1 plus the number
// of queued jobs ahead of this job. A job is ahead if its priority is higher, or if its
// priority is the same and it was accepted earlier. New jobs of a higher priority
// increase the position. A job that was aged or handed back may run earlier than its
// position says. Counting stops at MaxQueuePosition. Only jobs that the given weights (a
// digest) may run are ahead. If weights is empty, any job may be ahead.
func (s *Store) QueuePosition(ctx context.Context, job uuid.UUID, weights string) (int, error) {
	var n int
	err := s.pool.QueryRow(ctx, `
		select count(*) from (
			select from history
			where state = 'queued' and (priority, job) < ((select priority from history where job = $1), $1)
				and ($3 = '' or weights in ('', $3))
			limit $2) as ahead`,
		job, MaxQueuePosition-1, weights).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count the queue before %s: %w", job, err)
	}
	return n + 1, nil
}

// Queued returns the number of queued jobs that the given weights (a digest) may run, counted
// up to limit. If weights is empty, it counts all queued jobs.
func (s *Store) Queued(ctx context.Context, weights string, limit int) (int, error) {
	var n int
	err := s.pool.QueryRow(ctx, `
		select count(*) from (select from history where state = 'queued' and ($1 = '' or weights in ('', $1)) limit $2) as queued`, weights, limit).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count the queue: %w", err)
	}
	return n, nil
}

// Ended reports whether a job has ended or was set aside, according to the history view. It
// reads no event, so it also works for a job that this process cannot read.
func (s *Store) Ended(ctx context.Context, job uuid.UUID) (ended bool, err error) {
	err = s.pool.QueryRow(ctx, `
		select exists (select from history where job = $1 and state not in ('queued', 'running'))`, job).Scan(&ended)
	if err != nil {
		err = fmt.Errorf("read the state of job %s: %w", job, err)
	}
	return ended, err
}

// Overdue returns up to limit outstanding jobs that are past their deadlines, in a random
// order. So jobs that cannot be ended do not hide the other jobs. A running job must be past its deadline by at least the duration
// grace, because its worker ends the job within that time. Jobs of erased owners are
// omitted, because no event can be appended to these jobs.
func (s *Store) Overdue(ctx context.Context, grace time.Duration, limit int) ([]uuid.UUID, error) {
	rows, _ := s.pool.Query(ctx, `
		select job from history
		where state in ('queued', 'running') and deadline < clock_timestamp() - case state when 'running' then $1::interval else '0' end
			and not exists (select from owner_keys where owner = history.owner and erased_at is not null)
		order by random() limit $2`, grace, limit)
	jobs, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("find jobs past their deadlines: %w", err)
	}
	return jobs, nil
}
