package main

import (
	"context"
	"fmt"
	"log/slog"
)

type historyCmd struct {
	Rebuild rebuildCmd `cmd:"" help:"Rebuild the history view from the events, or only check it."`
}

type rebuildCmd struct {
	databaseFlags
	Check bool `help:"Only compare the view with the events; fail if they differ."`
}

func (c *rebuildCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.with(ctx, log, false, defaultGrace, func(ctx context.Context, b *base) error {
		if !c.Check {
			n, err := b.store.RebuildHistory(ctx, func(jobs int) { fmt.Fprintf(t.err, "%d jobs rebuilt\n", jobs) })
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(t.out, "history view rebuilt from the events: %d rows\n", n)
			return err
		}
		jobs, wrong, err := b.store.CheckHistory(ctx)
		if err != nil {
			return err
		}
		for _, id := range wrong {
			fmt.Fprintf(t.out, "differs %s\n", id)
		}
		if len(wrong) > 0 {
			return fmt.Errorf("%d rows of the history view differ from the events of %d jobs: colophon history rebuild repairs them", len(wrong), jobs)
		}
		_, err = fmt.Fprintf(t.out, "the history view agrees with the events of %d jobs\n", jobs)
		return err
	})
}
