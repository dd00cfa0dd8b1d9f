package events

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/internal/pg"
	"colophon/internal/vault"
)

// rebuildBatch is the number of jobs whose events are in memory at a time.
const rebuildBatch = 500

// noLimit lets the statements of a transaction take as long as the log is long.
const noLimit = `set local statement_timeout = 0`

// RebuildHistory rebuilds the history view and the token budgets from the events, in one
// transaction. It returns the number of jobs. Until the commit, readers see the old view
// and appends wait. If the function progress is not nil, it is called with the number of
// jobs rebuilt so far.
func (s *Store) RebuildHistory(ctx context.Context, progress func(jobs int)) (int, error) {
	ctx = pg.Unlimited(ctx)
	total := 0
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, noLimit); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `lock table history, budgets in exclusive mode`); err != nil {
			return err
		}
		for _, view := range []string{"history", "budgets"} {
			if _, err := tx.Exec(ctx, `delete from `+view); err != nil {
				return err
			}
		}
		return s.foldAll(ctx, tx, func(jobs []Job) error {
			var batch pgx.Batch
			for _, j := range jobs {
				var key *vault.Key
				if !j.Erased {
					var err error
					if key, err = s.vault.Key(ctx, tx, j.Owner); err != nil {
						return err
					}
					queueSpending(&batch, Job{}, j) // the budget is left out for an erased owner, who can start no job
				}
				if err := queueUpsert(&batch, record(j), key); err != nil {
					return err
				}
			}
			total += len(jobs)
			if progress != nil {
				progress(total)
			}
			return tx.SendBatch(ctx, &batch).Close()
		})
	})
	if err != nil {
		return 0, fmt.Errorf("rebuild the history view: %w", err)
	}
	return total, nil
}

// CheckHistory compares the history view with the events, in one snapshot and without a
// lock. It returns the number of jobs in the log, and in wrong the jobs whose rows
// differ, are missing or should not exist.
func (s *Store) CheckHistory(ctx context.Context) (jobs int, wrong []uuid.UUID, err error) {
	ctx = pg.Unlimited(ctx)
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, s.pool, snapshot, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, noLimit); err != nil {
			return err
		}
		err := s.foldAll(ctx, tx, func(batch []Job) error {
			jobs += len(batch)
			found, err := s.rowsOf(ctx, tx, batch)
			if err != nil {
				return err
			}
			for _, j := range batch {
				if r, ok := found[j.ID]; !ok || readable(r) != readable(record(j)) {
					wrong = append(wrong, j.ID)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, `
			select job from history h
			where not exists (select 1 from events where stream = 'job/' || h.job and version = 1)`)
		orphans, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		wrong = append(wrong, orphans...)
		return err
	})
	if err != nil {
		return 0, nil, fmt.Errorf("check the history view: %w", err)
	}
	return jobs, wrong, nil
}

// readable returns r without the values that an erasure has removed from the events.
// The token count of a cancelled or failed job can be computed only from its sealed
// tokens. After an erasure, only the history row still has this count.
func readable(r Record) Record {
	if r.Erased && r.State != Completed {
		r.CompletionTokens = 0
	}
	return r
}

func (s *Store) rowsOf(ctx context.Context, tx pgx.Tx, jobs []Job) (map[uuid.UUID]Record, error) {
	ids := make([]string, len(jobs))
	for i, j := range jobs {
		ids[i] = j.ID.String()
	}
	rows, _ := tx.Query(ctx, `select `+columns+` from history where job = any($1::uuid[])`, ids)
	found, err := pgx.CollectRows(rows, scanRow)
	if err != nil {
		return nil, err
	}
	records := make(map[uuid.UUID]Record, len(found))
	for _, r := range found {
		if records[r.Job], err = s.open(ctx, tx, r); err != nil {
			return nil, err
		}
	}
	return records, nil
}

// foldAll folds all jobs of the log and passes the jobs to fn in batches, ordered by id.
func (s *Store) foldAll(ctx context.Context, tx pgx.Tx, fn func([]Job) error) error {
	for last := Stream("job/"); ; {
		rows, _ := tx.Query(ctx, `
			select stream from events where stream > $1 and stream < 'job0' and version = 1
			order by stream limit $2`, last, rebuildBatch)
		streams, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		if len(streams) == 0 {
			return nil
		}
		last = Stream(streams[len(streams)-1])
		rows, _ = tx.Query(ctx, `select payload from events where stream = any($1) order by stream, version`, streams)
		payloads, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
		if err != nil {
			return err
		}
		events, err := s.decodeAll(ctx, tx, payloads)
		if err != nil {
			return err
		}
		jobs := make([]Job, 0, len(streams))
		for len(events) > 0 {
			n := slices.IndexFunc(events, func(e Event) bool { return e.Stream != events[0].Stream })
			if n < 0 {
				n = len(events)
			}
			j, err := Fold(events[:n])
			if err != nil {
				return err
			}
			jobs, events = append(jobs, j), events[n:]
		}
		if err := fn(jobs); err != nil {
			return err
		}
	}
}
