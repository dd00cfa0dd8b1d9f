package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

type keysCmd struct {
	Rotate rotateCmd `cmd:"" help:"Sign access tokens with a new key; nobody notices."`
}

type rotateCmd struct {
	databaseFlags
	Leaked bool `help:"The keys have become known to others: use the new one at once, and refuse what another one has signed."`
}

// Run rotates the key, whatever processes are at work.
func (c *rotateCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.with(ctx, log, false, defaultGrace, func(ctx context.Context, b *base) error {
		accounts, err := b.accounts(ctx, false)
		if err != nil {
			return err
		}
		r, err := accounts.Rotate(ctx, c.Leaked)
		if err != nil {
			return err
		}
		if c.Leaked {
			_, err = fmt.Fprintf(t.out, "key %s signs; access tokens of other keys are refused by every process within seconds, and clients refresh them\n", r.Key)
			return err
		}
		_, err = fmt.Fprintf(t.out, "key %s is published and signs from %s; the key before it verifies until %s\n",
			r.Key, r.From.Format(time.RFC3339), r.Last.Format(time.RFC3339))
		return err
	})
}
