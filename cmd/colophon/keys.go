package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

type keysCmd struct {
	Rotate rotateCmd `cmd:"" help:"Sign access tokens with a new key. Clients keep working."`
}

type rotateCmd struct {
	databaseFlags
	Leaked bool `help:"Use after a leak of the keys: sign with the new key at once, and refuse access tokens that other keys have signed."`
}

// Run rotates the signing key. Running processes load the new key by themselves.
func (c *rotateCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.with(ctx, log, func(ctx context.Context, b *base) error {
		accounts, err := b.accounts(ctx, false)
		if err != nil {
			return err
		}
		r, err := accounts.Rotate(ctx, c.Leaked)
		if err != nil {
			return err
		}
		if c.Leaked {
			_, err = fmt.Fprintf(t.out, "key %s signs; all processes refuse access tokens of other keys within seconds, and clients refresh them\n", r.Key)
			return err
		}
		_, err = fmt.Fprintf(t.out, "key %s is published and signs from %s; the previous key verifies until %s\n",
			r.Key, r.From.Format(time.RFC3339), r.Last.Format(time.RFC3339))
		return err
	})
}
