package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/internal/errcode"
)

const (
	// MaxOpenBatches is the maximum number of batches of an owner that have not ended.
	MaxOpenBatches = 8

	// MaxBatchLines is the number of lines of an owner's batches that lets the owner begin no other
	// batch. The lines of an ended batch count until its files are deleted.
	MaxBatchLines = 500_000

	// MaxBatchesWithoutFiles is the maximum number of an owner's ended batches without files.
	// Beyond it, the oldest ones are removed.
	MaxBatchesWithoutFiles = 1000

	// BatchTime is the time from a batch's creation to its deadline.
	BatchTime = 24 * time.Hour
)

// ErrTooManyBatches occurs when MaxOpenBatches batches of an owner have not ended.
var ErrTooManyBatches = errcode.New("too_many_batches", fmt.Sprintf("an account has at most %d batches that have not ended", MaxOpenBatches))

// ErrTooManyLines occurs when the batches of an owner have MaxBatchLines lines.
var ErrTooManyLines = errcode.New("too_many_batch_lines", fmt.Sprintf("the batches of an account have at most %d lines on record", MaxBatchLines))

// BatchState is the state of a batch.
type BatchState string

// The states of a batch.
const (
	BatchValidating BatchState = "validating"
	BatchFailed     BatchState = "failed"
	BatchInProgress BatchState = "in_progress"
	BatchFinalizing BatchState = "finalizing" // the deadline has passed, and lines that have not ended are cancelled
	BatchCompleted  BatchState = "completed"
	BatchExpired    BatchState = "expired"
	BatchCancelling BatchState = "cancelling"
	BatchCancelled  BatchState = "cancelled"
)

// BatchFault says why the input of a batch cannot be processed. It repeats nothing of the input.
type BatchFault struct {
	Code    string `json:"code"`
	Line    int    `json:"line"` // number of the line, from 1, or 0 for the whole input
	Message string `json:"message"`
	Param   string `json:"param"` // name of the member, or empty
}

// Batch is a batch of requests. Its lines are those of its input.
type Batch struct {
	ID           uuid.UUID
	Owner        uuid.UUID
	Input        uuid.UUID // uploaded file with the lines
	Endpoint     string
	APIKey       uuid.UUID // API key that created the batch, or zero
	APIKeyTokens int       // as in jobs.Request
	State        BatchState
	Overdue      bool // the deadline has passed
	Faults       []BatchFault
	Metadata     map[string]string
	Total        int // number of lines, or 0 before the validation
	Next         int // number of the first line without a result and without jobs
	Completed    int // lines that have an answer
	Failed       int // lines that have none
	Output       uuid.UUID
	Errors       uuid.UUID // file with the lines that failed, or zero if there is none

	CreatedAt, ExpiresAt                     time.Time
	InProgressAt, FinalizingAt, CancellingAt time.Time // zero unless the batch was in this state
	EndedAt                                  time.Time // zero if the batch has not ended
}

// NewBatch is what CreateBatch needs to know.
type NewBatch struct {
	Owner, Input uuid.UUID
	Endpoint     string
	Metadata     map[string]string
	APIKey       uuid.UUID
	APIKeyTokens int
	Key          *IdempotencyKey // if nil, a repeated request makes another batch
}

// batchStream names a batch in the row of an idempotency key. It has no events.
func batchStream(id uuid.UUID) Stream { return Stream("batch/" + id.String()) }

// CreateBatch creates a batch of the lines of an uploaded file. It returns ErrNotFound if the
// owner has no such file, ErrTooManyBatches, and ErrTooManyLines. If an earlier request had the
// same idempotency key, CreateBatch returns that request's batch in its current state, or
// ErrNotFound if it was removed. With a key, it can also return ErrKeyReused or ErrInFlight.
func (s *Store) CreateBatch(ctx context.Context, n NewBatch) (Batch, error) {
	id := s.NewID()
	err := s.writeSealed(ctx, func(tx *Tx) error {
		if err := tx.lockOwner(ctx, "batches", n.Owner); err != nil {
			return err
		}
		if n.Key != nil {
			if err := tx.Claim(ctx, *n.Key, n.Owner, batchStream(id)); err != nil {
				return err
			}
		}
		err := tx.QueryRow(ctx, `select id from files where id = $1 and owner = $2 and batch is null and stored_at is not null for key share`, n.Input, n.Owner).Scan(&n.Input)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNotFound
		}
		var open int
		if err == nil {
			err = tx.QueryRow(ctx, `select count(*) from batches where owner = $1 and ended_at is null`, n.Owner).Scan(&open)
		}
		if err == nil && open >= MaxOpenBatches {
			err = ErrTooManyBatches
		}
		if err == nil {
			err = tx.makeRoom(ctx, n.Owner)
		}
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			insert into batches (id, owner, input, endpoint, api_key, api_key_tokens, expires_at) values ($1, $2, $3, $4, $5, $6, clock_timestamp() + $7::interval)`,
			id, n.Owner, n.Input, n.Endpoint, nullID(n.APIKey), n.APIKeyTokens, BatchTime)
		if err != nil {
			return err
		}
		metadata, err := json.Marshal(n.Metadata)
		if err != nil {
			return err
		}
		return tx.addLines(ctx, Batch{ID: id, Owner: n.Owner}, metadataNumber, "completed", nil, metadata)
	})
	if errors.Is(err, ErrClaimed) {
		var first Stream
		first, err = s.Opened(ctx, *n.Key)
		id = first.ID()
	}
	if err != nil {
		return Batch{}, fmt.Errorf("create a batch: %w", err)
	}
	return s.Batch(ctx, n.Owner, id)
}

// makeRoom removes an owner's oldest batches without files beyond MaxBatchesWithoutFiles. It
// returns ErrTooManyLines if the others have too many lines. An input has at most 50,000 lines,
// which count when it has been read, so MaxOpenBatches batches may exceed the limit.
func (tx *Tx) makeRoom(ctx context.Context, owner uuid.UUID) error {
	_, err := tx.Exec(ctx, `
		delete from batches where id in (
			select id from batches b where owner = $1 and ended_at is not null and not exists (select from files where batch = b.id)
			order by id desc offset $2)`, owner, MaxBatchesWithoutFiles)
	if err != nil {
		return err
	}
	var lines int
	err = tx.QueryRow(ctx, `
		select coalesce(sum(case when ended_at is null then cardinality(ranks) else next_line - 1 end), 0) from batches b
		where owner = $1 and (ended_at is null or exists (select from files where batch = b.id))`, owner).Scan(&lines)
	if err == nil && lines >= MaxBatchLines {
		err = ErrTooManyLines
	}
	return err
}

const batchColumns = `b.id, b.owner, b.input, b.endpoint, b.api_key, b.api_key_tokens, b.state, b.expires_at <= clock_timestamp(), b.faults, cardinality(b.ranks), b.next_line,
	b.completed, b.failed, b.created_at, b.expires_at, b.in_progress_at, b.finalizing_at, b.cancelling_at, b.ended_at,
	(select id from files where batch = b.id and not failed), (select id from files where batch = b.id and failed), l.sealed`

func (s *Store) batches(ctx context.Context, where string, args ...any) ([]Batch, error) {
	return rereading(func() ([]Batch, error) {
		rows, _ := s.pool.Query(ctx, `select `+batchColumns+` from batches b join batch_lines l on l.batch = b.id and l.number = 0 where `+where, args...)
		var sealed [][]byte
		all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Batch, error) {
			var b Batch
			var key, output, errors *uuid.UUID
			var started, finalizing, cancelling, ended *time.Time
			var box []byte
			err := row.Scan(&b.ID, &b.Owner, &b.Input, &b.Endpoint, &key, &b.APIKeyTokens, &b.State, &b.Overdue, &b.Faults, &b.Total, &b.Next,
				&b.Completed, &b.Failed, &b.CreatedAt, &b.ExpiresAt, &started, &finalizing, &cancelling, &ended, &output, &errors, &box)
			for of, id := range map[*uuid.UUID]*uuid.UUID{&b.APIKey: key, &b.Output: output, &b.Errors: errors} {
				if id != nil {
					*of = *id
				}
			}
			b.CreatedAt, b.ExpiresAt = b.CreatedAt.UTC(), b.ExpiresAt.UTC()
			b.InProgressAt, b.FinalizingAt, b.CancellingAt, b.EndedAt = utc(started), utc(finalizing), utc(cancelling), utc(ended)
			sealed = append(sealed, box)
			return b, err
		})
		for i := 0; err == nil && i < len(all); i++ {
			var plain []byte
			if plain, err = s.unbox(ctx, all[i].Owner, sealed[i], lineAAD(all[i].ID, metadataNumber)); err == nil {
				err = json.Unmarshal(plain, &all[i].Metadata)
			}
		}
		return all, err
	})
}

// Batch returns a batch of an owner, or ErrNotFound.
func (s *Store) Batch(ctx context.Context, owner, id uuid.UUID) (Batch, error) {
	found, err := s.batches(ctx, `b.owner = $1 and b.id = $2`, owner, id)
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Batch{}, fmt.Errorf("read batch %s: %w", id, err)
	}
	return found[0], nil
}

// Batches returns up to limit batches of an owner, the newest first. The parameter before is the
// last batch of the previous page, or the zero UUID.
func (s *Store) Batches(ctx context.Context, owner, before uuid.UUID, limit int) ([]Batch, error) {
	if before == (uuid.UUID{}) {
		before = uuid.Max
	}
	found, err := s.batches(ctx, `b.owner = $1 and b.id < $2 order by b.id desc limit $3`, owner, before, limit)
	if err != nil {
		return nil, fmt.Errorf("list batches: %w", err)
	}
	return found, nil
}

// OpenBatch names a batch that has not ended.
type OpenBatch struct{ ID, Owner uuid.UUID }

// OpenBatches returns up to limit batches that have not ended. The order is random, so that none
// waits for long if there are more. Batches of closed owners are left out.
func (s *Store) OpenBatches(ctx context.Context, limit int) ([]OpenBatch, error) {
	rows, _ := s.pool.Query(ctx, `
		select id, owner from batches b
		where ended_at is null and not exists (select from owner_keys k where k.owner = b.owner and k.closed_at is not null)
		order by random() limit $1`, limit)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[OpenBatch])
	if err != nil {
		return nil, fmt.Errorf("find open batches: %w", err)
	}
	return found, nil
}

// BeginBatch records that the input of a batch is valid. Line i has the place ranks[i-1] in the
// order of the custom ids, from 1. A batch that is not validating stays as it is.
func (s *Store) BeginBatch(ctx context.Context, id uuid.UUID, ranks []int32) error {
	return s.changeBatch(ctx, "begin", id, `state = 'in_progress', in_progress_at = clock_timestamp(), ranks = $2`, `state = 'validating'`, ranks)
}

// FailBatch records that the input of a batch is not valid. A batch that is not validating stays
// as it is.
func (s *Store) FailBatch(ctx context.Context, id uuid.UUID, faults []BatchFault) error {
	text, err := json.Marshal(faults)
	if err != nil {
		return fmt.Errorf("fail batch %s: %w", id, err)
	}
	return s.changeBatch(ctx, "fail", id, `state = 'failed', ended_at = clock_timestamp(), faults = $2::jsonb`, `state = 'validating'`, string(text))
}

// FinalizeBatch records that the deadline of a batch has passed, so that no more lines get jobs.
func (s *Store) FinalizeBatch(ctx context.Context, id uuid.UUID) error {
	return s.changeBatch(ctx, "finalize", id, `state = 'finalizing', finalizing_at = clock_timestamp()`, `state = 'in_progress' and expires_at <= clock_timestamp()`)
}

// CancelBatch records that the owner wants no more of a batch. A batch that is not validating
// and not in progress stays as it is.
func (s *Store) CancelBatch(ctx context.Context, id uuid.UUID) error {
	return s.changeBatch(ctx, "cancel", id, `state = 'cancelling', cancelling_at = clock_timestamp()`, `state in ('validating', 'in_progress')`)
}

func (s *Store) changeBatch(ctx context.Context, what string, id uuid.UUID, set, where string, args ...any) error {
	if _, err := s.pool.Exec(ctx, `update batches set `+set+` where id = $1 and `+where, append([]any{id}, args...)...); err != nil {
		return fmt.Errorf("%s batch %s: %w", what, id, err)
	}
	return nil
}

// EndBatch ends a batch whose lines all have results, and makes its files. Any other batch stays
// as it is.
func (s *Store) EndBatch(ctx context.Context, id, owner uuid.UUID) error {
	err := s.Write(ctx, func(tx *Tx) error {
		if _, err := tx.Exec(ctx, `select admit($1)`, owner); err != nil { // a closed owner gets no more files
			return sealRefused(err)
		}
		var output, failed int64
		err := tx.QueryRow(ctx, `
			update batches set ended_at = clock_timestamp(), finalizing_at = coalesce(finalizing_at, clock_timestamp()),
				state = case when state = 'cancelling' then 'cancelled' when state = 'finalizing' or expires_at <= clock_timestamp() then 'expired' else 'completed' end
			where id = $1 and state in ('in_progress', 'finalizing', 'cancelling') and next_line > cardinality(ranks)
				and not exists (select from batch_lines where batch = $1 and state = 'running')
			returning output_bytes, error_bytes`, id).Scan(&output, &failed)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		for _, f := range []struct {
			failed bool
			bytes  int64
		}{{false, output}, {true, failed}} {
			if err == nil && f.bytes > 0 {
				_, err = tx.Exec(ctx, `insert into files (id, owner, batch, failed, bytes, stored_at) values ($1, $2, $3, $4, $5, clock_timestamp())`, s.NewID(), owner, id, f.failed, f.bytes)
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("end batch %s: %w", id, err)
	}
	return nil
}
