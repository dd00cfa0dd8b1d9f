package events

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// The erasure of an owner has three steps, and each step may be repeated. First,
// CloseOwner stops further jobs of the owner. It runs in the transaction that erases
// the account. Second, the caller ends the outstanding jobs, which needs the owner's
// key. Third, Erase destroys the key and empties the ciphertext of the owner's events. If a
// process dies between the first and the last step, ClosedOwners returns the owner, so that
// the erasure can be finished.

// CloseOwner stops an owner from starting new work. After the commit, no further job of
// the owner is accepted. Outstanding jobs can continue.
func (tx *Tx) CloseOwner(ctx context.Context, owner uuid.UUID) error {
	return tx.store.vault.CloseOwner(ctx, tx, owner)
}

// codeClosed is the SQLSTATE that the database function admit raises for a closed owner, and
// sealed_by for an erased one.
const codeClosed = "CL001"

// queueOpenCheck adds a statement to the batch that fails with codeClosed if the owner
// is closed. If the owner is open, no other transaction can close the owner before this
// transaction ends.
func queueOpenCheck(batch *pgx.Batch, owner uuid.UUID) { batch.Queue(`select admit($1)`, owner) }

// ClosedOwners returns up to limit closed owners whose erasure is not finished.
func (s *Store) ClosedOwners(ctx context.Context, limit int) ([]uuid.UUID, error) {
	rows, _ := s.pool.Query(ctx, `select owner from owner_keys where closed_at is not null and emptied_at is null limit $1`, limit)
	owners, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("find owners to erase: %w", err)
	}
	return owners, nil
}

// ClosedAmong returns those of the owners that are closed.
func (s *Store) ClosedAmong(ctx context.Context, owners []uuid.UUID) ([]uuid.UUID, error) {
	rows, _ := s.pool.Query(ctx, `select owner from owner_keys where owner = any($1::uuid[]) and closed_at is not null`, texts(owners))
	closed, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("find closed owners: %w", err)
	}
	return closed, nil
}

// Outstanding returns up to limit queued or running jobs of an owner, oldest first.
func (s *Store) Outstanding(ctx context.Context, owner uuid.UUID, limit int) ([]uuid.UUID, error) {
	rows, _ := s.pool.Query(ctx, `select job from history where owner = $1 and state in ('queued', 'running') order by job limit $2`, owner, limit)
	jobs, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("find the outstanding jobs of %s: %w", owner, err)
	}
	return jobs, nil
}

// Erase destroys the owner's key, so that nothing that the owner wrote can be read
// again. Other processes can still read the owner's values for up to vault.KeyTTL. Erase
// then empties the ciphertext of the owner's events and of their rows in the history view, and
// removes the owner's files and batches.
// The payloads of the events stay, so proofs that cover them stay valid. The owner must be
// closed and have no outstanding jobs.
func (s *Store) Erase(ctx context.Context, owner uuid.UUID) error {
	if err := s.vault.Erase(ctx, s.pool, owner); err != nil {
		return err
	}
	for last := int64(0); ; {
		next, err := s.empty(ctx, owner, last)
		if err != nil {
			return fmt.Errorf("empty the ciphertext of owner %s: %w", owner, err)
		}
		if next == 0 {
			break
		}
		last = next
	}
	if err := s.removeFilesOf(ctx, owner); err != nil {
		return err
	}
	if _, err := s.pool.Exec(ctx, `update owner_keys set emptied_at = clock_timestamp() where owner = $1 and emptied_at is null`, owner); err != nil {
		return fmt.Errorf("record the erasure of owner %s: %w", owner, err)
	}
	return nil
}

// defaultEmptyBatch is the number of events or rows whose ciphertext one statement empties.
const defaultEmptyBatch = 1000

// empty empties the ciphertext of up to s.emptyBatch events of the owner that follow the
// position last, and of the history rows of the jobs that these events have opened. It
// returns the position of the last of these events, or 0 if there are none.
func (s *Store) empty(ctx context.Context, owner uuid.UUID, last int64) (next int64, err error) {
	err = s.pool.QueryRow(ctx, `
		with batch as (
			select stream, version, position from events where owner = $1 and position > $2 order by position limit $3
		), emptied_events as (
			update events set sealed = null from batch
			where events.stream = batch.stream and events.version = batch.version and events.sealed is not null
		), emptied_history as (
			update history set sealed = null
			where job in (select substr(stream, 5)::uuid from batch where version = 1 and starts_with(stream, 'job/')) and sealed is not null
		)
		select coalesce(max(position), 0) from batch`, owner, last, s.emptyBatch).Scan(&next)
	return next, err
}

// queueEmptying adds a statement to the batch that empties the ciphertext of a job's events but
// that of JobErased. The statement fails unless the stream has this event.
func queueEmptying(batch *pgx.Batch, job uuid.UUID) {
	batch.Queue(`update events set sealed = null where stream = $1 and sealed is not null and type <> 'job.erased'`, JobStream(job))
}

// Ended names a job that has ended, and the time from which its age counts.
type Ended struct {
	Job uuid.UUID
	At  time.Time
}

// unerased returns the query of jobs that have ended and whose texts are still there. The
// column has the time from which their age counts. The parameters are the age, the time and
// the id of the job before, and the limit.
func unerased(column, condition string) string {
	return `
		select job, ` + column + ` from history
		where ` + column + ` < clock_timestamp() - $1::interval and (` + column + `, job) > ($2, $3) and finished_at is not null and sealed is not null
			and not exists (select from quarantine where stream = 'job/' || job)
			and not exists (select from owner_keys where owner = history.owner and closed_at is not null) ` + condition + `
		order by ` + column + `, job limit $4`
}

// Unkept returns up to limit jobs with EraseAtEnd that ended more than the duration age ago by
// the database's clock and are not erased. The rest is as in Retained.
func (s *Store) Unkept(ctx context.Context, age time.Duration, after Ended, limit int) ([]Ended, error) {
	return s.unerased(ctx, unerased("finished_at", "and erase_at_end"), age, after, limit)
}

// Retained returns up to limit jobs that ended more than the duration age ago by the
// database's clock and are not erased, oldest first. It returns the jobs that follow the job
// after; the zero Ended means all jobs. Damaged jobs and jobs of closed owners are left out,
// because no event can be appended to the former, and Erase erases the latter.
func (s *Store) Retained(ctx context.Context, age time.Duration, after Ended, limit int) ([]Ended, error) {
	return s.unerased(ctx, unerased("finished_at", ""), age, after, limit)
}

// RetainedCopies is Retained for the ended jobs with the text of another job. Their age counts
// from TextAt.
func (s *Store) RetainedCopies(ctx context.Context, age time.Duration, after Ended, limit int) ([]Ended, error) {
	return s.unerased(ctx, unerased("text_at", ""), age, after, limit)
}

func (s *Store) unerased(ctx context.Context, query string, age time.Duration, after Ended, limit int) ([]Ended, error) {
	rows, _ := s.pool.Query(ctx, query, age, after.At, after.Job, limit)
	ended, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Ended])
	if err != nil {
		return nil, fmt.Errorf("find jobs to erase: %w", err)
	}
	return ended, nil
}

// HoldText reports whether an ended job still has its text. If it has, no other transaction can
// erase the job before this one ends.
func (tx *Tx) HoldText(ctx context.Context, job uuid.UUID) (held bool, err error) {
	// An append locks the event before it, so that there are no gaps. The second statement sees
	// what was committed while the first one waited for such a lock.
	stream := JobStream(job)
	_, err = tx.Exec(ctx, `select from events where stream = $1 order by version desc limit 1 for update`, stream)
	if err == nil {
		err = tx.QueryRow(ctx, `select not exists (select from events where stream = $1 and type = 'job.erased')`, stream).Scan(&held)
	}
	if err != nil {
		return false, fmt.Errorf("hold the text of job %s: %w", job, err)
	}
	return held, nil
}
