package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"colophon/internal/pg"
	"colophon/internal/vault"
)

// Difference says how a row of the history view differs from the events of its job.
type Difference struct {
	Job uuid.UUID

	// What names the columns that differ, with both values of those that are stored in
	// clear, or says that the row is missing, that it cannot be opened, or that the job has
	// no events. It contains no prompt and no text.
	What string
}

func (d Difference) String() string { return d.Job.String() + ": " + d.What }

// differences names the members in which a row differs from what the events say. It
// returns an empty string if there are none.
func differences(row, want Record) string {
	if row == want {
		return ""
	}
	var all []string
	clear := func(name string, got, want any) {
		if got != want {
			all = append(all, fmt.Sprintf("%s is %v, and the events say %v", name, got, want))
		}
	}
	sealed := func(name, got, want string) {
		if got != want {
			all = append(all, name+" differs")
		}
	}
	clear("owner", row.Owner, want.Owner)
	clear("state", row.State, want.State)
	clear("priority", row.Priority, want.Priority)
	clear("model", row.Model, want.Model)
	clear("weights", row.AcceptedFor, want.AcceptedFor)
	sealed("prompt", row.Prompt, want.Prompt)
	sealed("text", row.Text, want.Text)
	clear("prompt_tokens", row.PromptTokens, want.PromptTokens)
	clear("completion_tokens", row.CompletionTokens, want.CompletionTokens)
	clear("finish_reason", row.FinishReason, want.FinishReason)
	clear("created_at", row.CreatedAt, want.CreatedAt)
	clear("deadline", row.Deadline, want.Deadline)
	clear("started_at", row.StartedAt, want.StartedAt)
	clear("finished_at", row.FinishedAt, want.FinishedAt)
	clear("erased_at", row.ErasedAt, want.ErasedAt)
	clear("erased", row.Erased, want.Erased)
	clear("erase_at_end", row.EraseAtEnd, want.EraseAtEnd)
	clear("text_at", row.TextAt, want.TextAt)
	clear("batch", row.Batch, want.Batch)
	if len(all) == 0 {
		return "a column differs"
	}
	return strings.Join(all, "; ")
}

// tally collects what the workers of a check or a rebuild find. It is safe for concurrent
// use.
type tally struct {
	observer Observer
	total    int // number of jobs to compare

	mu     sync.Mutex
	report Report
}

// compared adds jobs whose events were folded, and damaged streams.
func (t *tally) compared(jobs int, damaged []*Damage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.report.Jobs += jobs
	t.report.Damaged = append(t.report.Damaged, damaged...)
	if t.observer.Progress != nil {
		t.observer.Progress(min(t.report.Jobs+len(t.report.Damaged), t.total), t.total)
	}
}

func (t *tally) wrong(rows []wrongRow) {
	for _, r := range rows {
		t.differs(Difference{r.job.ID, r.what})
	}
}

func (t *tally) orphans(jobs []uuid.UUID) {
	for _, id := range jobs {
		t.differs(Difference{id, "the job has no events"})
	}
}

func (t *tally) differs(d Difference) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.report.Wrong++
	if t.report.First == nil || d.Job.String() < t.report.First.Job.String() {
		t.report.First = &d
	}
	if t.observer.Differs != nil {
		t.observer.Differs(d)
	}
}

// compareAll calls fn with the streams of all jobs, in batches. Workers with connections of
// their own call fn concurrently. If the server has no connection for some of them, the
// others do all the work. purpose names these connections.
func (s *Store) compareAll(ctx context.Context, conn *pgx.Conn, purpose string, t *tally, fn func(context.Context, *pgx.Conn, []Stream) error) error {
	if t.observer.Progress != nil {
		if err := count(ctx, conn, &t.total); err != nil {
			return err
		}
	}
	work, ctx := errgroup.WithContext(ctx)
	batches := make(chan []Stream)
	work.Go(func() error {
		defer close(batches)
		return s.eachJob(ctx, conn, "job/", func(streams []Stream) error {
			select {
			case batches <- streams:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	for n := range compareWorkers {
		worker, err := s.connect(ctx, purpose)
		if err != nil && n == 0 {
			work.Go(func() error { return err }) // ends the goroutine above
		}
		if err != nil {
			break
		}
		work.Go(func() error {
			defer worker.Close(context.WithoutCancel(ctx))
			for streams := range batches {
				if err := fn(ctx, worker, streams); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return work.Wait()
}

// count counts the jobs that have events. On a large table it takes longer than the server
// runs a statement of the service.
func count(ctx context.Context, conn *pgx.Conn, jobs *int) error {
	return unlimited(ctx, conn, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, `select count(*) from events where stream > 'job/' and stream < 'job0' and version = 1`).Scan(jobs)
	})
}

// unlimited calls fn in a transaction whose statements may take as long as ctx lasts.
func unlimited(ctx context.Context, db interface {
	Begin(context.Context) (pgx.Tx, error)
}, fn func(context.Context, pgx.Tx) error,
) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `set local statement_timeout = 0`); err != nil {
			return err
		}
		return fn(pg.Unlimited(ctx), tx)
	})
}

// comparison is the state of some jobs in one snapshot.
type comparison struct {
	jobs    int               // number of jobs that were folded
	intact  []Stream          // streams of the folded jobs, except damaged jobs of erased owners
	damaged []*Damage         // streams that cannot be folded
	wrong   []wrongRow        // jobs whose rows are missing or differ
	found   map[uuid.UUID]row // rows of the history view, by job
}

// wrongRow is a job whose row is missing or differs.
type wrongRow struct {
	job  Job
	what string // see Difference.What
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
		if j.Erased && !j.State.Final() && r.State == StateDamaged {
			continue // the job was damaged before its owner's key was destroyed, and cannot end any more
		}
		c.intact = append(c.intact, JobStream(j.ID))
		what := "the row is missing"
		if ok {
			r.Record, err = s.open(ctx, conn, r)
			switch {
			case errors.Is(err, errRow):
				what = "its ciphertext cannot be opened"
			case err != nil:
				return c, err
			default:
				what = differences(readable(r.Record), readable(record(j)))
			}
		}
		if what != "" {
			c.wrong = append(c.wrong, wrongRow{j, what})
		}
	}
	return c, nil
}

// readable returns r without the values that the erasure of an owner has removed from the
// events. The token count of a cancelled or failed job follows only from its sealed tokens.
// After such an erasure, only the row still has this count.
func readable(r Record) Record {
	if r.Erased && r.ErasedAt.IsZero() && r.State != Completed {
		r.CompletionTokens = 0
	}
	return r
}

// streamsQuery reads the events of some streams, those of each stream together and in order.
const streamsQuery = `select ` + eventColumns + ` from events where stream = any($1::text[]) order by stream, version`

func readStreams(ctx context.Context, conn *pgx.Conn, streams []Stream) ([]storedEvent, error) {
	return storedEvents(conn.Query(ctx, streamsQuery, texts(streams)))
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
func (s *Store) foldStreams(ctx context.Context, db vault.DB, stored []storedEvent) (jobs []Job, damaged []*Damage, err error) {
	for len(stored) > 0 {
		n := slices.IndexFunc(stored, func(r storedEvent) bool { return r.Stream != stored[0].Stream })
		if n < 0 {
			n = len(stored)
		}
		events, err := s.decodeAll(ctx, db, stored[:n])
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
