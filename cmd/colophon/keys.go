package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events"
	"colophon/events/ledger"
	"colophon/internal/database"
	"colophon/internal/vault"
)

type keysCmd struct {
	Rotate rotateCmd `cmd:"" help:"Sign access tokens with a new key. Clients keep working."`
}

type rotateCmd struct {
	databaseFlags
	Log     bool          `help:"Rotate the key that signs the log's checkpoints instead. The new key signs at once, and the earlier ones sign too for the time of --overlap."`
	Overlap time.Duration `default:"720h" help:"With --log: time for which the earlier keys go on signing, so that everybody who has pinned one can get the new one."`
	Owner   string        `var:"-" placeholder:"NAME" help:"Replace the data key of the account with this name instead, and seal the texts of the account again. The service goes on. Needs the URL of the owner of the database. May be stopped and run again."`
	Master  bool          `help:"Put the second master key (--second-master-key) into the place of the first instead. All processes must have both. Needs the URL of the owner of the database. May be stopped and run again."`
	Leaked  bool          `help:"Use after a leak of the keys: sign with the new key at once, and refuse access tokens that other keys have signed."`
}

// Run rotates the signing key. Running processes load the new key by themselves.
func (c *rotateCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	if c.Owner != "" && (c.Master || c.Log || c.Leaked) {
		return &usageError{errors.New("--owner: the other keys have rotations of their own")}
	}
	if c.Master && (c.Log || c.Leaked) {
		return &usageError{errors.New("--master: the keys that sign have rotations of their own")}
	}
	if c.Log && (c.Leaked || c.Overlap < 0) {
		return &usageError{errors.New("--log: with a leaked key, begin a new log (`colophon log begin`); --overlap must not be negative")}
	}
	return c.with(ctx, log, func(ctx context.Context, b *base) error {
		switch {
		case c.Log:
			return c.rotateLog(ctx, t, b)
		case c.Master:
			return c.rotateMaster(ctx, t, b)
		case c.Owner != "":
			return c.rotateOwner(ctx, t, b)
		}
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

// rotateLog rotates the key that signs the log.
func (c *rotateCmd) rotateLog(ctx context.Context, t *terminal, b *base) error {
	vkey, retire, err := ledger.NewKeys(b.Pool, b.Vault).Rotate(ctx, c.Overlap)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.out, "%s\nsigns the log from now on; the earlier keys sign too until %s\n", vkey, retire.Format(time.RFC3339))
	return err
}

// rotateMaster replaces the master key of the database.
func (c *rotateCmd) rotateMaster(ctx context.Context, t *terminal, b *base) error {
	owner, err := b.asOwner(ctx, "--master")
	if err != nil {
		return err
	}
	defer owner.Close()
	r, err := b.Vault.Rotate(ctx, owner, progress(t.err, "keys sealed"))
	switch {
	case errors.Is(err, vault.ErrOneKey):
		return &usageError{fmt.Errorf("--master: %w: set COLOPHON_SECOND_MASTER_KEY (`openssl rand -base64 32`) for all processes first", err)}
	case errors.Is(err, vault.ErrRetired):
		return &usageError{fmt.Errorf("--master: %w", err)}
	case errors.Is(err, vault.ErrUnsealed):
		return &pendingError{fmt.Errorf("%w (neither key opens %d): all processes need both keys until these rows are restored from a backup and this has run again", err, r.Unreadable)}
	case err != nil:
		return err
	}
	_, err = fmt.Fprintf(t.out, "%d keys sealed; the master key of id %x has sealed all keys of the database: "+
		"make it the only one of every process, and keep the earlier one with the backups made until now\n", r.Rows, r.Key)
	return err
}

// rotateOwner replaces the data key of an account.
func (c *rotateCmd) rotateOwner(ctx context.Context, t *terminal, b *base) error {
	accounts, err := b.accounts(ctx, false)
	if err != nil {
		return err
	}
	account, err := named(ctx, accounts, c.Owner)
	if err != nil {
		return err
	}
	owner, err := b.asOwner(ctx, "--owner")
	if err != nil {
		return err
	}
	defer owner.Close()
	r, err := b.store.Rekey(ctx, owner, account.ID, events.RekeyObserver{
		Progress: progress(t.err, "values looked at"),
		Left:     func(value string) { fmt.Fprintf(t.out, "left %s\n", value) },
		Waiting: func() {
			fmt.Fprintln(t.err, "waiting for a transaction or a check of the log that needs the earlier key")
		},
	})
	switch {
	case errors.Is(err, events.ErrNotRekeyed):
		return &pendingError{fmt.Errorf("%w: the earlier key stays until they are restored from a backup, or repaired (`colophon history rebuild`), and this has run again", err)}
	case errors.Is(err, vault.ErrErased):
		return fmt.Errorf("the account was erased meanwhile, with all of its keys: %w", err)
	case err != nil:
		return err
	}
	fmt.Fprintf(t.out, "%d events, %d rows of the history view, %d fingerprints of requests, %d webhooks and %d parts of files and batches sealed with the new data key\n", r.Events, r.Rows, r.Requests, r.Webhooks, r.Parts)
	if r.Kept > 0 {
		_, err = fmt.Fprintf(t.out, "%d events of release 0.1.0 cannot be sealed again: the key that opens them stays until the account is erased\n", r.Kept)
		return err
	}
	_, err = fmt.Fprintln(t.out, "the earlier key is destroyed; other processes forget it within 5 s")
	return err
}

// asOwner is AsOwner. It returns a usageError that names the flag if the login has no other
// rights than the service.
func (b *base) asOwner(ctx context.Context, flag string) (*pgxpool.Pool, error) {
	owner, err := b.AsOwner(ctx)
	if errors.Is(err, database.ErrNotOwner) {
		err = &usageError{fmt.Errorf("%s: %w", flag, err)}
	}
	return owner, err
}
