package events

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"colophon/internal/pg"
	"colophon/internal/vault"
)

// The history view is compared with the events and rebuilt while the service writes.
// Streams are read in batches, each in a snapshot of its own. The rows that differ are
// then replaced in batches of their own. A row is replaced only if it has not changed
// since the snapshot. Writers replace a row in the transaction that appends the event. If
// a writer has changed the row, the row is therefore right, and the rebuild reads its
// stream again. No lock is held longer than one batch of replacements. A rebuild that was
// interrupted at any point is run again from its beginning, and finds less to do.
const (
	defaultRebuildBatch = 500 // streams read in one snapshot
	repairBatch         = 100 // rows replaced in one transaction
)

// Report is the result of comparing the history view with the events.
type Report struct {
	Jobs    int         // jobs whose events were folded
	Wrong   []uuid.UUID // jobs whose rows differ, are missing or should not exist
	Damaged []*Damage   // streams that cannot be folded, whose rows are not compared
}

// Err returns an error that says what to do, if rows differ or streams are damaged.
func (r Report) Err() error {
	wrong, damaged := len(r.Wrong), len(r.Damaged)
	switch {
	case wrong > 0 && damaged > 0:
		return fmt.Errorf("%d rows of the history view differ from the events of %d jobs, and %d streams are damaged: "+
			"colophon history rebuild repairs the rows", wrong, r.Jobs, damaged)
	case wrong > 0:
		return fmt.Errorf("%d rows of the history view differ from the events of %d jobs: colophon history rebuild repairs them", wrong, r.Jobs)
	case damaged > 0:
		return fmt.Errorf("the history view agrees with the events of %d jobs, but %d streams are damaged: restore their events from a backup", r.Jobs, damaged)
	}
	return nil
}

// CheckHistory compares the history view with the events, without a lock.
func (s *Store) CheckHistory(ctx context.Context) (Report, error) {
	var report Report
	err := s.alone(ctx, "check", func(conn *pgx.Conn) error {
		err := s.eachJob(ctx, conn, "job/", func(streams []Stream) error {
			c, err := s.compare(ctx, conn, streams)
			if err != nil {
				return err
			}
			report.Jobs += c.jobs
			report.Damaged = append(report.Damaged, c.damaged...)
			for _, j := range c.wrong {
				report.Wrong = append(report.Wrong, j.ID)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return s.eachOrphan(ctx, conn, func(orphans []uuid.UUID) error {
			report.Wrong = append(report.Wrong, orphans...)
			return nil
		})
	})
	if err != nil {
		return Report{}, fmt.Errorf("check the history view: %w", err)
	}
	return report, nil
}

// RebuildHistory makes the history view and the token budgets of the last days agree with
// the events, while events are appended. It reports the rows that were wrong. If the
// function progress is not nil, it is called with the number of jobs compared so far.
//
// RebuildHistory sets damaged streams aside and leaves their rows as they are. The
// quarantine of a stream ends if its events can be folded again.
//
// RebuildHistory may be interrupted at any point and called again. If another process
// rebuilds the view, RebuildHistory waits.
func (s *Store) RebuildHistory(ctx context.Context, progress func(jobs int)) (Report, error) {
	var report Report
	err := s.alone(ctx, "rebuild", func(conn *pgx.Conn) error {
		if err := waitForRebuild(ctx, conn); err != nil {
			return fmt.Errorf("wait for another rebuild: %w", err)
		}
		err := s.eachJob(ctx, conn, "job/", func(streams []Stream) error {
			if err := s.rebuild(ctx, conn, streams, &report); err != nil {
				return err
			}
			if progress != nil {
				progress(report.Jobs)
			}
			return nil
		})
		if err != nil {
			return err
		}
		err = s.eachOrphan(ctx, conn, func(orphans []uuid.UUID) error {
			report.Wrong = append(report.Wrong, orphans...)
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
	return report, nil
}

// waitForRebuild waits until no other process rebuilds the view. Until conn is closed,
// other rebuilds wait. Two rebuilds at a time would correct a budget twice.
func waitForRebuild(ctx context.Context, conn *pgx.Conn) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `set local statement_timeout = 0`); err != nil {
			return err
		}
		_, err := tx.Exec(pg.Unlimited(ctx), `select pg_advisory_lock(hashtextextended('rebuild', 0))`)
		return err
	})
}

// alone calls fn with a new connection. The connection does not come from the pool, so no
// request waits for it.
func (s *Store) alone(ctx context.Context, purpose string, fn func(*pgx.Conn) error) error {
	config := s.pool.Config().ConnConfig.Copy()
	config.RuntimeParams["application_name"] += " " + purpose // identifies the connection in pg_stat_activity
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return fn(conn)
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

// comparison is the state of some jobs in one snapshot.
type comparison struct {
	jobs    int               // number of jobs that were folded
	intact  []Stream          // streams of the folded jobs, except damaged jobs of erased owners
	damaged []*Damage         // streams that cannot be folded
	wrong   []Job             // jobs whose rows are missing or differ
	found   map[uuid.UUID]row // rows of the history view, by job
}

// compare folds jobs and compares them with their rows. It reads both in one snapshot.
func (s *Store) compare(ctx context.Context, conn *pgx.Conn, streams []Stream) (comparison, error) {
	c := comparison{found: map[uuid.UUID]row{}}
	var stored []storedEvent
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, conn, snapshot, func(tx pgx.Tx) error {
		var err error
		if stored, err = readStreams(ctx, conn, streams); err != nil {
			return err
		}
		ids := make([]uuid.UUID, len(streams))
		for i, stream := range streams {
			ids[i] = stream.ID()
		}
		rows, _ := tx.Query(ctx, `select `+columns+` from history where job = any($1::uuid[])`, texts(ids))
		found, err := pgx.CollectRows(rows, scanRow)
		for _, r := range found {
			c.found[r.Job] = r
		}
		return err
	})
	if err != nil {
		return c, err
	}
	jobs, damaged, err := s.foldStreams(ctx, conn, stored)
	if err != nil {
		return c, err
	}
	c.jobs, c.damaged = len(jobs), damaged
	for _, j := range jobs {
		r, ok := c.found[j.ID]
		if j.Erased && !j.State.Final() && r.State == stateDamaged {
			continue // the job was damaged before its owner's key was destroyed, and cannot end any more
		}
		c.intact = append(c.intact, JobStream(j.ID))
		if ok {
			if r.Record, err = s.open(ctx, conn, r); errors.Is(err, errRow) {
				ok = false
			} else if err != nil {
				return c, err
			}
		}
		if !ok || readable(r.Record) != readable(record(j)) {
			c.wrong = append(c.wrong, j)
		}
	}
	return c, nil
}

// readable returns r without the values that an erasure has removed from the events. The
// token count of a cancelled or failed job follows only from its sealed tokens. After an
// erasure, only the row still has this count.
func readable(r Record) Record {
	if r.Erased && r.State != Completed {
		r.CompletionTokens = 0
	}
	return r
}

func readStreams(ctx context.Context, conn *pgx.Conn, streams []Stream) ([]storedEvent, error) {
	return storedEvents(conn.Query(ctx, `select `+eventColumns+` from events where stream = any($1::text[]) order by stream, version`, texts(streams)))
}

// texts returns values as texts. In the text modes of pgx, a parameter that is an array
// must be a slice of strings.
func texts[T any](values []T) []string {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = fmt.Sprint(v)
	}
	return all
}

// foldStreams folds the events of jobs. The events of each stream must be adjacent.
// foldStreams returns the damaged streams separately.
func (s *Store) foldStreams(ctx context.Context, conn *pgx.Conn, stored []storedEvent) (jobs []Job, damaged []*Damage, err error) {
	for len(stored) > 0 {
		n := slices.IndexFunc(stored, func(r storedEvent) bool { return r.Stream != stored[0].Stream })
		if n < 0 {
			n = len(stored)
		}
		events, err := s.decodeAll(ctx, conn, stored[:n])
		stored = stored[n:]
		var job Job
		if err == nil {
			job, err = foldStream(events)
		}
		d, isDamage := errors.AsType[*Damage](err)
		switch {
		case err == nil:
			jobs = append(jobs, job)
		case isDamage:
			damaged = append(damaged, d)
		default:
			return nil, nil, err
		}
	}
	return jobs, damaged, nil
}

// rebuild makes the rows of some jobs agree with the events, and adds the result to
// report.
func (s *Store) rebuild(ctx context.Context, conn *pgx.Conn, streams []Stream, report *Report) error {
	for first := true; len(streams) > 0; first = false {
		c, err := s.compare(ctx, conn, streams)
		if err != nil {
			return err
		}
		if first {
			report.Jobs += c.jobs
		}
		report.Damaged = append(report.Damaged, c.damaged...)
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
			for _, j := range part {
				if stream := JobStream(j.ID); slices.Contains(outdated, stream) {
					streams = append(streams, stream)
				} else {
					report.Wrong = append(report.Wrong, j.ID)
				}
			}
		}
	}
	return nil
}

// repair replaces the rows of jobs. The map found contains the rows that the jobs were
// compared with. If a writer has written a row since then, repair leaves the row as it is
// and returns the job's stream.
func (s *Store) repair(ctx context.Context, conn *pgx.Conn, jobs []Job, found map[uuid.UUID]row) (outdated []Stream, err error) {
	var batch pgx.Batch
	for _, j := range jobs {
		key, err := s.vault.Key(ctx, conn, j.Owner)
		if err != nil && !errors.Is(err, vault.ErrErased) {
			return nil, err
		}
		query, err := queueUpsert(&batch, record(j), key, `where history.xmin::text = $15`, found[j.ID].xmin)
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
	return outdated, conn.SendBatch(ctx, &batch).Close()
}
