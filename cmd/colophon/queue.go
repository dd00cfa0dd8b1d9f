package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"text/tabwriter"
	"time"

	"colophon/jobs"
	"colophon/model/catalog"
)

type queueCmd struct {
	List     queueListCmd     `cmd:"" help:"Count the waiting jobs by the weights that they were accepted for."`
	Reassign queueReassignCmd `cmd:"" help:"Let other weights run the waiting jobs of some weights. Jobs that have started are left."`
	Cancel   queueCancelCmd   `cmd:"" help:"Cancel the waiting jobs of some weights."`
}

type queueListCmd struct{ databaseFlags }

func (c *queueListCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.with(ctx, log, func(ctx context.Context, b *base) error {
		found, err := jobs.FindWaiting(ctx, b.Pool)
		if err != nil {
			return err
		}
		out := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(out, "MODEL\tWEIGHTS\tJOBS\tOLDEST")
		for _, w := range found {
			fmt.Fprintf(out, "%s\t%s\t%d\t%s\n", w.Model, cmp.Or(w.Weights, "any"), w.Jobs, w.Oldest.UTC().Format(time.RFC3339))
		}
		return out.Flush()
	})
}

type queueReassignCmd struct {
	databaseFlags
	From catalog.Digest `arg:"" placeholder:"sha256:HEX" help:"Digest of the weights that the jobs were accepted for (see queue list)."`
	To   catalog.Digest `arg:"" placeholder:"sha256:HEX" help:"Digest of the weights that may run them."`
}

func (c *queueReassignCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.with(ctx, log, func(ctx context.Context, b *base) error {
		reassigned, started, err := jobs.Reassign(ctx, b.Pool, b.store, string(c.From), string(c.To))
		fmt.Fprintf(t.out, "%d jobs reassigned\n", reassigned)
		if started > 0 {
			fmt.Fprintf(t.out, "%d jobs left: they have started, so their texts need the same weights to the end (colophon queue cancel ends them)\n", started)
		}
		return err
	})
}

type queueCancelCmd struct {
	databaseFlags
	Weights catalog.Digest `arg:"" placeholder:"sha256:HEX" help:"Digest of the weights that the jobs were accepted for (see queue list)."`
}

func (c *queueCancelCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.with(ctx, log, func(ctx context.Context, b *base) error {
		n, err := jobs.CancelWaiting(ctx, b.Pool, b.store, string(c.Weights))
		fmt.Fprintf(t.out, "%d jobs cancelled\n", n)
		return err
	})
}
