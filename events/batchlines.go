package events

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/internal/vault"
)

// MaxRunningLines is the maximum number of lines of an owner, in all batches, that have jobs and
// no result.
const MaxRunningLines = 32

var (
	// ErrLineTaken occurs when a line of a batch has jobs or a result already, or when the batch
	// takes no more jobs.
	ErrLineTaken = errors.New("the line was taken before")

	// ErrLinesRunning occurs when MaxRunningLines lines of the owner have jobs.
	ErrLinesRunning = errors.New("the owner has no room for another line")
)

// metadataNumber is the number of the row that holds the metadata of a batch. It is no line.
const metadataNumber = 0

// Line is a line of a batch that has jobs or a result.
type Line struct {
	Number int         // number of the line in the input, from 1
	Rank   int         // place in the order of the custom ids, from 1
	Jobs   []uuid.UUID // jobs of the line, or none if it has failed without a job
	Record []byte      // what the output of the line needs beside the jobs; its form is the caller's
}

// lineAAD is the associated data of a line's record, so that no record opens in place of another.
func lineAAD(batch uuid.UUID, number int) string { return fmt.Sprintf("batch %s %d", batch, number) }

// addLines stores successive lines with their sealed records, in one round trip. All of them have
// the same state and jobs.
func (tx *Tx) addLines(ctx context.Context, b Batch, first int, state string, jobs []uuid.UUID, records ...[]byte) error {
	var batch pgx.Batch
	queueOpenCheck(&batch, b.Owner)
	for i, record := range records {
		number := first + i
		sealed, key, err := tx.store.box(ctx, tx, b.Owner, record, lineAAD(b.ID, number))
		if err != nil {
			return err
		}
		batch.Queue(`
			insert into batch_lines (batch, number, owner, rank, state, jobs, sealed)
			select $1, $2, $3, coalesce(ranks[$2], 0), $4, $5::uuid[], sealed_by($3, $7::integer, $6) from batches where id = $1`,
			b.ID, number, b.Owner, state, texts(jobs), sealed, key)
	}
	return tx.store.refused(tx.SendBatch(ctx, &batch).Close(), b.Owner)
}

// TakeLine records that jobs are made for the next line of a batch, in the transaction that
// makes them. It returns ErrLineTaken if the line is not the next one any more, or if the batch
// is not in progress or past its deadline. So each line gets its jobs once. It returns
// ErrLinesRunning if the owner has no room for another line. Transactions of one owner wait for each
// other, so no number of processes exceeds MaxRunningLines. It must be the first write of its
// transaction.
func (tx *Tx) TakeLine(ctx context.Context, b Batch, number int, jobs []uuid.UUID, record []byte) error {
	if err := tx.lockOwner(ctx, "lines", b.Owner); err != nil {
		return err
	}
	running, err := runningOf(ctx, tx, b.Owner)
	if err == nil && running >= MaxRunningLines {
		err = ErrLinesRunning
	}
	if err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, `
		update batches set next_line = next_line + 1
		where id = $1 and next_line = $2 and state = 'in_progress' and expires_at > clock_timestamp()`, b.ID, number)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrLineTaken
	}
	if err != nil {
		return err
	}
	return tx.addLines(ctx, b, number, "running", jobs, record)
}

// FailedLine is the result of a line without jobs.
type FailedLine struct {
	Record []byte
	Bytes  int // size of its output
}

// FailLines records that lines of a batch have failed without jobs. The first one must be the
// next line of the batch, or the error is ErrLineTaken. It also appends a fact to the owner's
// account, unless the fact is nil.
func (s *Store) FailLines(ctx context.Context, b Batch, first int, lines []FailedLine, fact Fact) error {
	size := 0
	var records [][]byte
	for _, line := range lines {
		size += line.Bytes
		records = append(records, line.Record)
	}
	err := s.writeSealed(ctx, func(tx *Tx) error {
		tag, err := tx.Exec(ctx, `
			update batches set next_line = next_line + $3::integer, failed = failed + $3::integer, error_bytes = error_bytes + $4
			where id = $1 and next_line = $2 and ended_at is null`, b.ID, first, len(lines), size)
		if err == nil && tag.RowsAffected() == 0 {
			err = ErrLineTaken
		}
		if err == nil {
			err = tx.addLines(ctx, b, first, "failed", nil, records...)
		}
		if err == nil && fact != nil {
			err = tx.AppendAccount(ctx, b.Owner, fact)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("fail line %d of batch %s: %w", first, b.ID, err)
	}
	return nil
}

// EndLine records the result of a running line. If the line has a result, EndLine changes nothing.
func (s *Store) EndLine(ctx context.Context, b Batch, number int, failed bool, size int) error {
	err := s.Write(ctx, func(tx *Tx) error {
		if _, err := tx.Exec(ctx, `select from batches where id = $1 for no key update`, b.ID); err != nil {
			return err
		}
		state, count, bytes := "completed", "completed", "output_bytes"
		if failed {
			state, count, bytes = "failed", "failed", "error_bytes"
		}
		tag, err := tx.Exec(ctx, `update batch_lines set state = $3 where batch = $1 and number = $2 and state = 'running'`, b.ID, number, state)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		_, err = tx.Exec(ctx, `update batches set `+count+` = `+count+` + 1, `+bytes+` = `+bytes+` + $2 where id = $1`, b.ID, size)
		return err
	})
	if err != nil {
		return fmt.Errorf("end line %d of batch %s: %w", number, b.ID, err)
	}
	return nil
}

// RunningLines returns up to limit lines of a batch whose jobs run or whose result is not on
// record yet, in the order of their numbers. If ended is set, it returns only lines whose jobs
// have all ended.
func (s *Store) RunningLines(ctx context.Context, b Batch, ended bool, limit int) ([]Line, error) {
	return s.lines(ctx, b, `state = 'running' and (not $2 or not exists (
		select from history where job = any(batch_lines.jobs) and history.state in ('queued', 'running'))) order by number limit $3`, ended, limit)
}

// EndedLines returns up to limit lines of a batch that have ended, in the order of their custom
// ids, after a rank. If failed is set, it returns those that have failed.
func (s *Store) EndedLines(ctx context.Context, b Batch, failed bool, after, limit int) ([]Line, error) {
	state := "completed"
	if failed {
		state = "failed"
	}
	return s.lines(ctx, b, `number > 0 and state = $2 and rank > $3 order by rank limit $4`, state, after, limit)
}

func (s *Store) lines(ctx context.Context, b Batch, where string, args ...any) ([]Line, error) {
	found, err := rereading(func() ([]Line, error) {
		rows, _ := s.pool.Query(ctx, `select number, rank, jobs, sealed from batch_lines where batch = $1 and `+where, append([]any{b.ID}, args...)...)
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Line])
		for i := 0; err == nil && i < len(found); i++ {
			found[i].Record, err = s.unbox(ctx, b.Owner, found[i].Record, lineAAD(b.ID, found[i].Number))
		}
		return found, err
	})
	if err != nil {
		return nil, fmt.Errorf("read lines of batch %s: %w", b.ID, err)
	}
	return found, nil
}

// RunningOf returns the number of lines of all batches of an owner whose jobs run or whose result
// is not on record yet.
func (s *Store) RunningOf(ctx context.Context, owner uuid.UUID) (n int, err error) {
	return runningOf(ctx, s.pool, owner)
}

func runningOf(ctx context.Context, db vault.DB, owner uuid.UUID) (n int, err error) {
	if err = db.QueryRow(ctx, `select count(*) from batch_lines where owner = $1 and state = 'running'`, owner).Scan(&n); err != nil {
		err = fmt.Errorf("count the running lines of %s: %w", owner, err)
	}
	return n, err
}
