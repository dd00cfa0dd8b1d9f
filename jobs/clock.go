package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"colophon/events"
	"colophon/internal/pg"
	"colophon/migrations"
)

// All times in River's tables are times of the database's clock. River fetches entries by
// that clock. By default, however, River stores two times of the process's clock: the
// time of an insert, and the time until which a delayed entry must wait. River's setting
// for another clock is named TestConfig, because River itself uses it in tests. The types
// below use this setting.

// riverClock gives River the database's time.
type riverClock struct{ *pg.Clock }

// NowOrNil returns nil. River's statements then use the database's function now.
func (riverClock) NowOrNil() *time.Time { return nil }

// insertClock is the clock of a client that only inserts.
type insertClock struct{}

// Now returns this process's time, which the client does not store.
func (insertClock) Now() time.Time { return time.Now() }

// NowOrNil returns the zero time. River's insert statement then stores the database's
// now() instead.
func (insertClock) NowOrNil() *time.Time { return &time.Time{} }

// maxDelay is the longest delay of a queue entry. River marks an entry with a delay of up
// to five seconds as available at once, and workers fetch it after the delay. An entry
// with a longer delay must be marked later by River's leader, which may have died. Only the
// entries of jobs that cannot be read have longer delays.
const maxDelay = 5 * time.Second

// NextRetry returns the time of the next attempt at a job: 1 s after the first failed
// attempt and 4 s after the second.
func (g *generate) NextRetry(rj *river.Job[generateArgs]) time.Time {
	failed := time.Duration(len(rj.Errors) + 1)
	return g.store.Clock().Now().Add(min(failed*failed*time.Second, maxDelay))
}

// minStep is the smallest change of the database's clock that the search for expired
// leases notices. A smaller change is of little effect, because leases last for seconds.
const minStep = 500 * time.Millisecond

// clockSteps notices when the database's clock is set back or forward. After such a step,
// the method back or forward returns true for leaseTime. clockSteps is not safe for
// concurrent use.
type clockSteps struct {
	epoch      time.Time // Clock.Epoch at the last call of look; zero before the first call
	backEnd    time.Time // end of the time in which back returns true, by this process's clock
	forwardEnd time.Time
}

// look compares the clock with its state at the last call. The first call counts as a step
// back, because the process has not seen earlier steps.
func (s *clockSteps) look(c *pg.Clock) {
	epoch, end := c.Epoch(), time.Now().Add(leaseTime)
	switch step := epoch.Sub(s.epoch); {
	case s.epoch.IsZero(), step < -minStep:
		s.backEnd = end
	case step > minStep:
		s.forwardEnd = end
	}
	s.epoch = epoch
}

// back reports whether look has noticed a step back in the last leaseTime. During this
// time, a process that has not noticed the step may store times that lie in the future.
func (s *clockSteps) back() bool { return time.Now().Before(s.backEnd) }

// forward reports whether look has noticed a step forward in the last leaseTime. All
// leases may have expired at the step, and living workers may not have renewed them yet.
func (s *clockSteps) forward() bool { return time.Now().Before(s.forwardEnd) }

// errClockSet rolls back a search for expired leases because the clock was set forward.
var errClockSet = errors.New("the database's clock was set forward")

// lookAtClock reads the database's clock and compares it with its state at the last look.
func (w *Worker) lookAtClock(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) error {
	clock := w.store.Clock()
	if err := clock.Sync(ctx, db); err != nil {
		return err
	}
	w.steps.look(clock)
	return nil
}

// mendTimes corrects times that lie too far in the future because the clock was set back.
// Otherwise a dead worker's lease would stay valid for as long as the clock was set back,
// and queue entries would wait for as long. A delayed entry may run too early as a
// result, which does no harm. Delayed entries have the state available or, after longer
// delays, scheduled (see maxDelay).
func mendTimes(ctx context.Context, tx pgx.Tx) error {
	var batch pgx.Batch
	batch.Queue(`update leases set expires_at = now() + $1::interval where expires_at > now() + $1::interval`, leaseTime)
	batch.Queue(`
		update ` + migrations.RiverJobs + ` set attempted_at = clock_timestamp()
		where state = 'running' and attempted_at > clock_timestamp()`)
	batch.Queue(`
		update `+migrations.RiverJobs+` set scheduled_at = clock_timestamp()
		where state in ('available', 'scheduled') and kind = $1 and scheduled_at > clock_timestamp()`, generateArgs{}.Kind())
	events.QueueMending(&batch)
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("mend times after the database's clock was set back: %w", err)
	}
	return nil
}
