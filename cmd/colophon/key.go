package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/auth"
)

type keyCmd struct {
	Create keyCreateCmd `cmd:"" help:"Create an API key. The key is the only line on standard output, and is shown only now."`
	List   keyListCmd   `cmd:"" help:"List the API keys of an account that are not revoked, the newest first."`
	Revoke keyRevokeCmd `cmd:"" help:"Revoke API keys. All processes refuse them within two seconds."`
}

type keyCreateCmd struct {
	namedAccountFlags
	KeyName     string         `name:"name" var:"-" default:"command line" help:"Name of the key: what it is for."`
	Scope       []auth.Scope   `var:"-" default:"generate,read" enum:"generate,read,admin" help:"Scopes of the key: generate, read or admin, separated by commas."`
	ExpiresIn   *time.Duration `var:"-" help:"Time after which the key expires, such as 720h. Without it, the key does not expire."`
	Generations uint32         `var:"-" help:"The key's own limit of generations per minute. It can only lower that of --limit-keys; 0 means no limit of its own."`
	Tokens      uint32         `var:"-" help:"The key's own budget of tokens per day (UTC), beside that of the account; 0 means no budget of its own."`
}

func (c *keyCreateCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	if c.ExpiresIn != nil && *c.ExpiresIn <= 0 {
		return &usageError{errors.New("--expires-in must be more than 0")}
	}
	if c.Generations > auth.MaxGenerations {
		return &usageError{fmt.Errorf("--generations is at most %d", auth.MaxGenerations)}
	}
	if c.Tokens > auth.MaxTokens {
		return &usageError{fmt.Errorf("--tokens is at most %d", auth.MaxTokens)}
	}
	return c.databaseFlags.with(ctx, log, func(ctx context.Context, b *base) error {
		accounts, err := b.accounts(ctx, false)
		if err != nil {
			return err
		}
		account, err := named(ctx, accounts, c.Name)
		if err != nil {
			return err
		}
		o := auth.KeyOptions{Name: c.KeyName, Scopes: c.Scope, Generations: int(c.Generations), Tokens: int(c.Tokens)}
		if c.ExpiresIn != nil {
			o.Expires = b.store.Clock().Now().Add(*c.ExpiresIn)
		}
		key, secret, err := accounts.CreateKey(ctx, auth.CommandLine, account.ID, o)
		switch {
		case errors.Is(err, auth.ErrForbidden):
			return fmt.Errorf("the scope admin is for auditors and administrators (colophon user role changes the role of %s)", account.Username)
		case errors.Is(err, auth.ErrAccessToken):
			return errors.New("the account is disabled")
		case err != nil:
			return err
		}
		fmt.Fprintf(t.err, "key %s of %s: keep the line below, it is shown only now\n", key.ID, account.Username)
		_, err = fmt.Fprintln(t.out, secret)
		return err
	})
}

type keyListCmd struct{ namedAccountFlags }

func (c *keyListCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.withNamed(ctx, log, func(ctx context.Context, accounts *auth.Service, account auth.Account) error {
		keys, err := accounts.APIKeys(ctx, account.ID)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
		for _, k := range keys {
			scopes := make([]string, len(k.Scopes))
			for i, scope := range k.Scopes {
				scopes[i] = string(scope)
			}
			fmt.Fprintf(w, "%s\t%s…\t%s\t%s\texpires %s\tused %s\t%s\n", k.ID, k.Prefix, strings.Join(scopes, ","),
				k.CreatedAt.Format(time.RFC3339), orNever(k.Expires), orNever(k.LastUsedAt), k.KeyOptions.Name)
		}
		return w.Flush()
	})
}

// orNever returns a time as text, or "never" for the zero time.
func orNever(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Format(time.RFC3339)
}

// withNamed opens the account service and calls fn with the named account.
func (f *namedAccountFlags) withNamed(ctx context.Context, log *slog.Logger, fn func(context.Context, *auth.Service, auth.Account) error) error {
	return f.with(ctx, log, func(ctx context.Context, accounts *auth.Service) error {
		account, err := named(ctx, accounts, f.Name)
		if err != nil {
			return err
		}
		return fn(ctx, accounts, account)
	})
}

type keyRevokeCmd struct {
	namedAccountFlags
	ID  []string `arg:"" optional:"" help:"Ids of the keys, from colophon key list."`
	All bool     `var:"-" help:"Revoke all keys of the account."`
}

func (c *keyRevokeCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	if c.All == (len(c.ID) > 0) {
		return &usageError{errors.New("give the ids of keys, or --all")}
	}
	ids := make([]uuid.UUID, len(c.ID))
	for i, text := range c.ID {
		var err error
		if ids[i], err = uuid.Parse(text); err != nil {
			return &usageError{errors.New("a key is revoked by its id, which colophon key list shows")} // the text may be the key itself
		}
	}
	return c.withNamed(ctx, log, func(ctx context.Context, accounts *auth.Service, account auth.Account) error {
		if c.All {
			keys, err := accounts.APIKeys(ctx, account.ID)
			if err != nil {
				return err
			}
			for _, k := range keys {
				ids = append(ids, k.ID)
			}
		}
		for _, id := range ids {
			err := accounts.RevokeKey(ctx, auth.CommandLine, account.ID, id)
			if errors.Is(err, events.ErrNotFound) && c.All {
				continue // the owner has just revoked it
			}
			if errors.Is(err, events.ErrNotFound) {
				return fmt.Errorf("the account has no key %s (colophon key list shows its keys)", id)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(t.out, "%s revoked\n", id)
		}
		return nil
	})
}
