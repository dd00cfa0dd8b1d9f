package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"

	"colophon/events/ledger"
	"colophon/events/receipt"
	"colophon/internal/console"
	"colophon/jobs"
)

// maxReasons bounds the number of different reasons that an audit counts one by one.
const maxReasons = 20

// replayAudit counts the results of many replays. Its size does not depend on their number.
type replayAudit struct {
	ended     int // jobs that have ended
	chosen    int // jobs that were chosen for a replay
	equal     int
	empty     int // jobs without a token
	erased    int
	differing int
	unknown   int
	pending   bool           // the log lacked events at the beginning
	reasons   map[string]int // jobs that could not be compared, by the first reason
}

// count adds a result.
func (a *replayAudit) count(result jobs.Replay) {
	switch {
	case result.Difference != nil:
		a.differing++
	case result.Job.Erased:
		a.erased++
	case result.Unknown != nil:
		a.unknown++
		reason := result.Unknown[0]
		if _, known := a.reasons[reason]; !known && len(a.reasons) >= maxReasons {
			reason = "other reasons"
		}
		a.reasons[reason]++
	case result.Empty():
		a.empty++
	default:
		a.equal++
	}
}

// replayAll replays a random sample of the jobs that have ended since a time, each with the
// same probability. It prints the jobs that differ, and a report.
func (b *base) replayAll(ctx context.Context, t *terminal, r *jobs.Replayer, since time.Time, sample float64) error {
	lag, err := ledger.Lag(ctx, b.Pool)
	if err != nil {
		return err
	}
	audit := replayAudit{pending: lag > 0, reasons: map[string]int{}}
	progress := console.NewCounter(t.err, "replay", "events of the log")
	err = func() error {
		for job, err := range ledger.NewLog(b.Pool).EndedJobs(ctx, since) {
			if err != nil {
				return err
			}
			if rand.Float64() < sample {
				if err := b.replayChosen(ctx, t, r, job.Stream.ID(), &audit, progress); err != nil {
					return err
				}
			}
			audit.ended++
			progress.Show(job.Index+1, job.Size)
		}
		return nil
	}()
	progress.End()
	if shown := audit.show(t.out, sample, err == nil); err == nil {
		err = shown
	}
	return cmp.Or(err, audit.verdict())
}

// replayChosen replays and counts a job of the sample. It prints a job that differs.
func (b *base) replayChosen(ctx context.Context, t *terminal, r *jobs.Replayer, job uuid.UUID, audit *replayAudit, progress *console.Progress) error {
	result, err := b.replay(ctx, r, job)
	if err != nil {
		return err
	}
	audit.chosen++
	audit.count(result)
	if d := result.Difference; d != nil {
		progress.Above()
		_, err = fmt.Fprintf(t.out, "differs\t%s\t%s\n", job, printable(d.String()))
	}
	return err
}

// show prints the report.
func (a *replayAudit) show(out io.Writer, sample float64, complete bool) error {
	if !complete {
		fmt.Fprintln(out, "The replay was interrupted. This is the result so far:")
	}
	if sample < 1 {
		fmt.Fprintf(out, "%d jobs have ended. %d of them were chosen at random, each with the probability %g, and replayed.\n", a.ended, a.chosen, sample)
	} else {
		fmt.Fprintf(out, "%d jobs have ended, and all of them were replayed.\n", a.ended)
	}
	fmt.Fprintf(out, "%8d  equal\n%8d  differ\n%8d  cannot be compared\n", a.equal, a.differing, a.unknown)
	for _, reason := range slices.Sorted(maps.Keys(a.reasons)) {
		fmt.Fprintf(out, "%14d  %s\n", a.reasons[reason], printable(reason))
	}
	fmt.Fprintf(out, "%8d  erased, so there is nothing left to compare\n", a.erased)
	fmt.Fprintf(out, "%8d  ended without a token, so there is nothing to compare\n", a.empty)
	if a.pending {
		fmt.Fprintln(out, "The last events have no index in the log yet. Jobs that they end were not replayed.")
	}
	_, err := io.WriteString(out, replayNotCovered)
	return err
}

// verdict returns the error for the status of the command.
func (a *replayAudit) verdict() error {
	switch {
	case a.differing > 0:
		return &verdictError{fmt.Errorf("%w: %d of %d jobs differ", receipt.ErrRefuted, a.differing, a.chosen), statusRefuted}
	case a.unknown > 0:
		return &verdictError{fmt.Errorf("%w: %d of %d jobs cannot be compared", receipt.ErrCannotTell, a.unknown, a.chosen), statusCannotTell}
	case a.equal == 0:
		return &verdictError{fmt.Errorf("%w: no job was compared", receipt.ErrCannotTell), statusCannotTell}
	}
	return nil
}
