package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/auth"
	"colophon/internal/console"
)

// accounts opens the accounts; unthrottled, they count no wrong passwords.
func (b *base) accounts(ctx context.Context, unthrottled bool) (*auth.Service, error) {
	var accounts *auth.Service
	err := retryUntilAvailable(ctx, b.log, func() (err error) {
		accounts, err = auth.New(ctx, b.pool, b.store, b.vault, auth.Options{Issuer: "colophon", Audience: "colophon", Unthrottled: unthrottled})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the accounts: %w", err)
	}
	return accounts, nil
}

type userCmd struct {
	Create   userCreateCmd   `cmd:"" help:"Make an account; its password is read from the terminal, or a line of the standard input."`
	List     userListCmd     `cmd:"" help:"List the accounts."`
	Role     userRoleCmd     `cmd:"" help:"Say what an account may do."`
	Password userPasswordCmd `cmd:"" help:"Give an account another password, read as for create, and end its sessions."`
	SignOut  userSignOutCmd  `cmd:"" help:"End an account's sessions."`
	Disable  userDisableCmd  `cmd:"" help:"End an account's sessions, and let nobody sign in to it."`
	Enable   userEnableCmd   `cmd:"" help:"Let an account that was disabled sign in again."`
	Erase    userEraseCmd    `cmd:"" help:"Close an account for good and destroy all that it wrote; the name has to be given once more, on the terminal or in a line of the standard input."`
}

// accountFlags are those of every command about accounts.
type accountFlags struct{ databaseFlags }

// accountFlag names the account that a command is about.
type accountFlag struct {
	accountFlags
	Name string `arg:"" help:"The user name."`
}

// with opens the accounts and runs fn over them.
func (f *accountFlags) with(ctx context.Context, log *slog.Logger, fn func(context.Context, *auth.Service) error) error {
	return f.databaseFlags.with(ctx, log, false, defaultGrace, func(ctx context.Context, b *base) error {
		accounts, err := b.accounts(ctx, false)
		if err != nil {
			return err
		}
		return fn(ctx, accounts)
	})
}

// change runs fn on the named account, and shows the account after it.
func (f *accountFlag) change(ctx context.Context, t *terminal, log *slog.Logger, fn func(context.Context, *auth.Service, uuid.UUID) (auth.Account, error)) error {
	return f.with(ctx, log, func(ctx context.Context, accounts *auth.Service) error {
		account, err := accounts.Named(ctx, f.Name)
		if errors.Is(err, events.ErrNotFound) {
			return errors.New("no account has this name: colophon user list shows them")
		}
		if err != nil {
			return err
		}
		if account, err = fn(ctx, accounts, account.ID); err != nil {
			return err
		}
		return show(t.out, account)
	})
}

type userCreateCmd struct {
	accountFlag
	Role auth.Role `default:"user" enum:"user,auditor,admin" help:"What the account may do: user, auditor or admin ($COLOPHON_ROLE)."`
}

// Run makes an account.
func (c *userCreateCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	password, err := console.ReadPassword(ctx, t.in, t.err)
	if err != nil {
		return err
	}
	return c.with(ctx, log, func(ctx context.Context, accounts *auth.Service) error {
		account, err := accounts.Create(ctx, c.Name, password, c.Role)
		if errors.Is(err, auth.ErrTaken) {
			return errors.New("the user name is taken: colophon user role changes what an account may do")
		}
		if err != nil {
			return err
		}
		return show(t.out, account)
	})
}

type userListCmd struct{ accountFlags }

// listPage is how many accounts are read at a time.
const listPage = 500

// Run lists all accounts.
func (c *userListCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.with(ctx, log, func(ctx context.Context, accounts *auth.Service) error {
		var last uuid.UUID
		for {
			page, err := accounts.Accounts(ctx, last, listPage)
			if err != nil || len(page) == 0 {
				return err
			}
			if err := show(t.out, page...); err != nil {
				return err
			}
			last = page[len(page)-1].ID
		}
	})
}

// show prints a line for each account.
func show(out io.Writer, accounts ...auth.Account) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, a := range accounts {
		state, name := "enabled", a.Username
		switch {
		case !a.ErasedAt.IsZero():
			state, name = "erased", "-"
		case !a.DisabledAt.IsZero():
			state = "disabled"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", a.ID, name, a.Role, state, a.CreatedAt.Format(time.RFC3339))
	}
	return w.Flush()
}

type userRoleCmd struct {
	accountFlag
	Role auth.Role `arg:"" enum:"user,auditor,admin" help:"user, auditor or admin."`
}

// Run changes a role.
func (c *userRoleCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.change(ctx, t, log, func(ctx context.Context, accounts *auth.Service, id uuid.UUID) (auth.Account, error) {
		return accounts.SetRole(ctx, id, c.Role)
	})
}

type userDisableCmd struct{ accountFlag }

// Run disables an account.
func (c *userDisableCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.change(ctx, t, log, func(ctx context.Context, accounts *auth.Service, id uuid.UUID) (auth.Account, error) {
		return accounts.Disable(ctx, auth.CommandLine, id)
	})
}

type userEnableCmd struct{ accountFlag }

// Run enables an account.
func (c *userEnableCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.change(ctx, t, log, func(ctx context.Context, accounts *auth.Service, id uuid.UUID) (auth.Account, error) {
		return accounts.Enable(ctx, auth.CommandLine, id)
	})
}

type userPasswordCmd struct{ accountFlag }

// Run changes a password.
func (c *userPasswordCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	password, err := console.ReadPassword(ctx, t.in, t.err)
	if err != nil {
		return err
	}
	return c.change(ctx, t, log, func(ctx context.Context, accounts *auth.Service, id uuid.UUID) (auth.Account, error) {
		return accounts.SetPassword(ctx, id, password)
	})
}

type userSignOutCmd struct{ accountFlag }

// Run ends all sessions of an account.
func (c *userSignOutCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.change(ctx, t, log, func(ctx context.Context, accounts *auth.Service, id uuid.UUID) (auth.Account, error) {
		return accounts.EndSessions(ctx, id)
	})
}

type userEraseCmd struct{ accountFlag }

// Run erases an account, if it is meant.
func (c *userEraseCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	if console.IsTerminal(t.in) {
		fmt.Fprintf(t.err, "This destroys everything that %s wrote, for good. The name once more: ", c.Name)
	}
	again, err := console.ReadLine(ctx, t.in)
	if err != nil {
		return fmt.Errorf("read the name: %w", err)
	}
	if again != c.Name {
		return errors.New("the name has to be given once more, on the terminal or in a line of the standard input, and was not: nothing has been erased")
	}
	return c.change(ctx, t, log, func(ctx context.Context, accounts *auth.Service, id uuid.UUID) (auth.Account, error) {
		return accounts.EraseAccount(ctx, id)
	})
}
