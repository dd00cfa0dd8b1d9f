package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"colophon/events"
)

type historyCmd struct {
	Rebuild rebuildCmd `cmd:"" help:"Rebuild the history view from the events while the service runs, or only check it."`
	Damaged damagedCmd `cmd:"" help:"List the damaged event streams that were set aside."`
}

type rebuildCmd struct {
	databaseFlags
	Check bool `help:"Only compare the view with the events; fail if they differ."`
}

func (c *rebuildCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.with(ctx, log, func(ctx context.Context, b *base) error {
		if c.Check {
			return check(ctx, t, b.store)
		}
		report, err := b.store.RebuildHistory(ctx, events.Observer{Progress: progress(t.err, "jobs compared")})
		if err != nil {
			return err
		}
		if err := showDamaged(t.out, report.Damaged...); err != nil {
			return err
		}
		fmt.Fprintf(t.out, "the history view agrees with the events of %d jobs: %d rows corrected\n", report.Jobs, report.Wrong)
		if n := len(report.Damaged); n > 0 {
			return &pendingError{fmt.Errorf("%d damaged streams could not be read, their rows are unchanged: restore their events from a backup, and run this again", n)}
		}
		return nil
	})
}

// check prints a line for each difference between the history view and the events.
func check(ctx context.Context, t *terminal, store *events.Store) error {
	report, err := store.CheckHistory(ctx, events.Observer{
		Progress: progress(t.err, "jobs compared"),
		Differs:  func(d events.Difference) { fmt.Fprintf(t.out, "differs %s\n", d) },
	})
	if err != nil {
		return err
	}
	if err := showDamaged(t.out, report.Damaged...); err != nil {
		return err
	}
	if err := report.Err(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.out, "the history view agrees with the events of %d jobs\n", report.Jobs)
	return err
}

type damagedCmd struct{ databaseFlags }

func (c *damagedCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.with(ctx, log, func(ctx context.Context, b *base) error {
		for last := events.Stream(""); ; {
			page, err := b.store.Quarantine(ctx, last, listPage)
			if err != nil || len(page) == 0 {
				return err
			}
			if err := showDamaged(t.out, page...); err != nil {
				return err
			}
			last = page[len(page)-1].Stream
		}
	})
}

// showDamaged prints a line for each damaged event stream.
func showDamaged(out io.Writer, damaged ...*events.Damage) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, d := range damaged {
		since := ""
		if !d.At.IsZero() {
			since = d.At.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(w, "damaged\t%s@%d\towner %s\t%s\t%s\n", d.Stream, d.Version, d.Owner, d.Reason, since)
	}
	return w.Flush()
}
