package events

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"colophon/internal/vault"
)

// The history view is compared with the events and rebuilt while the service writes.
// Streams are read in batches, each in a snapshot of its own. The rows that differ are
// then replaced in batches of their own. A row is replaced only if it has not changed
// since the snapshot. Writers replace a row in the transaction that appends the event. If
// a writer has changed the row, the row is therefore right, and the rebuild reads its
// stream again. So a reader never sees a row go back, and rows that are right are never
// touched. No lock is held longer than one batch of replacements. A rebuild that was
// interrupted at any point is run again from its beginning, and finds less to do.
const (
	defaultRebuildBatch = 500 // streams read in one snapshot
	repairBatch         = 100 // rows replaced in one transaction
	compareWorkers      = 4   // workers that compare jobs, each with a connection of its own
)

// Report is the result of comparing the history view with the events.
type Report struct {
	Jobs    int         // jobs whose events were folded
	Wrong   int         // rows that differ, are missing or should not exist
	First   *Difference // the difference of the first of these jobs; nil if there is none
	Damaged []*Damage   // streams that cannot be folded, whose rows are not compared
}

// Observer follows a check or a rebuild of the history view. Each of its functions may be
// nil. They are called one at a time.
type Observer struct {
	Progress func(jobs, total int) // called with the number of jobs compared so far, and of those at the start
	Differs  func(Difference)      // called for each row that is wrong, in no order
}

// Err returns an error that says what to do, if rows differ or streams are damaged.
func (r Report) Err() error {
	damaged := len(r.Damaged)
	switch {
	case r.Wrong > 0 && damaged > 0:
		return fmt.Errorf("%d rows of the history view differ from the events of %d jobs, first %s, and %d streams are damaged: "+
			"colophon history rebuild repairs the rows", r.Wrong, r.Jobs, r.First, damaged)
	case r.Wrong > 0:
		return fmt.Errorf("%d rows of the history view differ from the events of %d jobs, first %s: colophon history rebuild repairs them",
			r.Wrong, r.Jobs, r.First)
	case damaged > 0:
		return fmt.Errorf("the history view agrees with the events of %d jobs, but %d streams are damaged: restore their events from a backup", r.Jobs, damaged)
	}
	return nil
}

// CheckHistory compares the history view with the events, without a lock. It holds up to four
// batches of jobs in memory, and all damaged streams. It opens up to five connections.
func (s *Store) CheckHistory(ctx context.Context, o Observer) (Report, error) {
	t := tally{observer: o}
	err := s.alone(ctx, "check", func(conn *pgx.Conn) error {
		err := s.compareAll(ctx, conn, "check", &t, func(ctx context.Context, conn *pgx.Conn, streams []Stream) error {
			c, err := s.compare(ctx, conn, streams)
			if err == nil {
				t.compared(c.jobs, c.damaged)
				t.wrong(c.wrong)
			}
			return err
		})
		if err != nil {
			return err
		}
		return s.eachOrphan(ctx, conn, func(orphans []uuid.UUID) error {
			t.orphans(orphans)
			return nil
		})
	})
	if err != nil {
		return Report{}, fmt.Errorf("check the history view: %w", err)
	}
	return t.report, nil
}

// RebuildHistory makes the history view and the token budgets of the last days agree with
// the events, while events are appended. It reports the rows that were wrong. It uses memory
// and connections as CheckHistory does, and memory for the budgets of these days.
//
// RebuildHistory sets damaged streams aside and leaves their rows as they are. The
// quarantine of a stream ends if its events can be folded again.
//
// RebuildHistory may be interrupted at any point and called again. If another process
// rebuilds the view, RebuildHistory waits.
func (s *Store) RebuildHistory(ctx context.Context, o Observer) (Report, error) {
	t := tally{observer: o}
	err := s.alone(ctx, "rebuild", func(conn *pgx.Conn) error {
		if err := waitForRebuild(ctx, conn); err != nil {
			return fmt.Errorf("wait for another rebuild: %w", err)
		}
		err := s.compareAll(ctx, conn, "rebuild", &t, func(ctx context.Context, conn *pgx.Conn, streams []Stream) error {
			return s.rebuild(ctx, conn, streams, &t)
		})
		if err != nil {
			return err
		}
		err = s.eachOrphan(ctx, conn, func(orphans []uuid.UUID) error {
			t.orphans(orphans)
			_, err := conn.Exec(ctx, `
				delete from history where job = any($1::uuid[])
					and not exists (select from events where stream = 'job/' || job and version = 1)`, texts(orphans))
			return err
		})
		if err != nil {
			return err
		}
		if err := s.endQuarantineOfAccounts(ctx, conn); err != nil {
			return err
		}
		return s.rebuildBudgets(ctx, conn)
	})
	if err != nil {
		return Report{}, fmt.Errorf("rebuild the history view: %w", err)
	}
	return t.report, nil
}

// waitForRebuild waits until no other process rebuilds the view. Until conn is closed,
// other rebuilds wait. Two rebuilds at a time would correct a budget twice.
func waitForRebuild(ctx context.Context, conn *pgx.Conn) error {
	return unlimited(ctx, conn, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `select pg_advisory_lock(hashtextextended('rebuild', 0))`)
		return err
	})
}

// alone calls fn with a new connection. The connection does not come from the pool, so no
// request waits for it.
func (s *Store) alone(ctx context.Context, purpose string, fn func(*pgx.Conn) error) error {
	conn, err := s.connect(ctx, purpose)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return fn(conn)
}

func (s *Store) connect(ctx context.Context, purpose string) (*pgx.Conn, error) {
	config := s.pool.Config().ConnConfig.Copy()
	config.RuntimeParams["application_name"] += " " + purpose // identifies the connection in pg_stat_activity
	return pgx.ConnectConfig(ctx, config)
}

// eachJob calls fn with the streams of all jobs that follow the stream after, in order
// and in batches. It leaves out jobs that are accepted after the call. Otherwise it would
// never end while jobs are accepted faster than fn handles them.
func (s *Store) eachJob(ctx context.Context, conn *pgx.Conn, after Stream, fn func([]Stream) error) error {
	var last *Stream
	err := conn.QueryRow(ctx, `select max(stream) from events where stream > $1 and stream < 'job0' and version = 1`, after).Scan(&last)
	if err != nil || last == nil {
		return err
	}
	for {
		rows, _ := conn.Query(ctx, `
			select stream from events where stream > $1 and stream <= $2 and version = 1
			order by stream limit $3`, after, *last, s.rebuildBatch)
		streams, err := pgx.CollectRows(rows, pgx.RowTo[Stream])
		if err != nil || len(streams) == 0 {
			return err
		}
		if err := fn(streams); err != nil {
			return err
		}
		after = streams[len(streams)-1]
	}
}

// eachOrphan calls fn with the jobs that have a row in the view but no events, in
// batches.
func (s *Store) eachOrphan(ctx context.Context, conn *pgx.Conn, fn func([]uuid.UUID) error) error {
	type row struct {
		Job    uuid.UUID
		Orphan bool
	}
	var newest *uuid.UUID
	err := conn.QueryRow(ctx, `select job from history order by job desc limit 1`).Scan(&newest)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	for last := (uuid.UUID{}); ; {
		rows, _ := conn.Query(ctx, `
			select job, not exists (select from events where stream = 'job/' || job and version = 1)
			from history where job > $1 and job <= $2 order by job limit $3`, last, *newest, s.rebuildBatch)
		page, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
		if err != nil || len(page) == 0 {
			return err
		}
		last = page[len(page)-1].Job
		var orphans []uuid.UUID
		for _, r := range page {
			if r.Orphan {
				orphans = append(orphans, r.Job)
			}
		}
		if len(orphans) > 0 {
			if err := fn(orphans); err != nil {
				return err
			}
		}
	}
}

// rebuild makes the rows of some jobs agree with the events, and adds the result to t.
func (s *Store) rebuild(ctx context.Context, conn *pgx.Conn, streams []Stream, t *tally) error {
	for first := true; len(streams) > 0; first = false {
		c, err := s.compare(ctx, conn, streams)
		if err != nil {
			return err
		}
		jobs := 0
		if first {
			jobs = c.jobs
		}
		for _, d := range c.damaged {
			if err := s.setAside(ctx, d); err != nil && !errors.Is(err, d) {
				return err
			}
		}
		if _, err := conn.Exec(ctx, `delete from quarantine where stream = any($1::text[])`, texts(c.intact)); err != nil {
			return err
		}
		streams = nil
		for part := range slices.Chunk(c.wrong, repairBatch) {
			outdated, err := s.repair(ctx, conn, part, c.found)
			if err != nil {
				return err
			}
			part = slices.DeleteFunc(part, func(w wrongRow) bool { return slices.Contains(outdated, JobStream(w.job.ID)) })
			t.wrong(part)
			streams = append(streams, outdated...)
		}
		t.compared(jobs, c.damaged)
	}
	return nil
}

// repair replaces the rows of jobs. The map found contains the rows that the jobs were
// compared with. If a writer has written a row since then, repair leaves the row as it is
// and returns the job's stream.
func (s *Store) repair(ctx context.Context, conn *pgx.Conn, wrong []wrongRow, found map[uuid.UUID]row) (outdated []Stream, err error) {
	var batch pgx.Batch
	for _, w := range wrong {
		j := w.job
		key, err := s.vault.Key(ctx, conn, j.Owner)
		if err != nil && !errors.Is(err, vault.ErrErased) {
			return nil, err
		}
		query, err := queueUpsert(&batch, record(j), key, `where history.xmin::text = $21`, found[j.ID].xmin)
		if err != nil {
			return nil, err
		}
		query.Exec(func(tag pgconn.CommandTag) error {
			if tag.RowsAffected() == 0 {
				outdated = append(outdated, JobStream(j.ID))
			}
			return nil
		})
	}
	err = sealRefused(conn.SendBatch(ctx, &batch).Close())
	if errors.Is(err, errReplaced) || errors.Is(err, vault.ErrErased) {
		outdated = nil
		for _, w := range wrong { // nothing was written
			s.vault.Forget(w.job.Owner)
			outdated = append(outdated, JobStream(w.job.ID))
		}
		return outdated, nil
	}
	return outdated, err
}
