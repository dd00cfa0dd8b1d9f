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
	"colophon/internal/database"
	"colophon/jobs"
)

// accounts opens the account service. If unthrottled is set, the service does not count
// wrong passwords.
func (b *base) accounts(ctx context.Context, unthrottled bool) (*auth.Service, error) {
	var accounts *auth.Service
	err := database.Retry(ctx, b.log, func() (err error) {
		accounts, err = auth.New(ctx, b.Pool, b.store, b.Vault, auth.Options{Issuer: "colophon", Audience: "colophon", Unthrottled: unthrottled})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the accounts: %w", err)
	}
	return accounts, nil
}

type userCmd struct {
	Create   userCreateCmd   `cmd:"" help:"Create an account. The password is read from the terminal, or as a line of standard input."`
	List     userListCmd     `cmd:"" help:"List all accounts."`
	Role     userRoleCmd     `cmd:"" help:"Change the role of an account."`
	Password userPasswordCmd `cmd:"" help:"Set the password of an account and end its sessions. The password is read as in create."`
	SignOut  userSignOutCmd  `cmd:"" help:"End all sessions of an account."`
	Disable  userDisableCmd  `cmd:"" help:"Disable an account: end its sessions and refuse sign-ins."`
	Enable   userEnableCmd   `cmd:"" help:"Enable a disabled account again."`
	Erase    userEraseCmd    `cmd:"" help:"Close an account and destroy all its texts for good. To confirm, type the name again on the terminal, or as a line of standard input."`
}

// accountFlags are the flags of every command for accounts.
type accountFlags struct{ databaseFlags }

// namedAccountFlags are the flags of every command for one account.
type namedAccountFlags struct {
	accountFlags
	Name string `arg:"" help:"User name of the account."`
}

// with opens the account service and calls fn.
func (f *accountFlags) with(ctx context.Context, log *slog.Logger, fn func(context.Context, *auth.Service) error) error {
	return f.databaseFlags.with(ctx, log, func(ctx context.Context, b *base) error {
		accounts, err := b.accounts(ctx, false)
		if err != nil {
			return err
		}
		return fn(ctx, accounts)
	})
}

// change calls fn for the named account, and prints the account that fn returns.
func (f *namedAccountFlags) change(ctx context.Context, t *terminal, log *slog.Logger, fn func(context.Context, *auth.Service, uuid.UUID) (auth.Account, error)) error {
	return f.with(ctx, log, func(ctx context.Context, accounts *auth.Service) error {
		account, err := named(ctx, accounts, f.Name)
		if err != nil {
			return err
		}
		if account, err = fn(ctx, accounts, account.ID); err != nil {
			return err
		}
		return show(t.out, account)
	})
}

func named(ctx context.Context, accounts *auth.Service, name string) (auth.Account, error) {
	account, err := accounts.Named(ctx, name)
	if errors.Is(err, events.ErrNotFound) {
		err = errors.New("no account has this name (colophon user list shows all)")
	}
	return account, err
}

type userCreateCmd struct {
	namedAccountFlags
	Role auth.Role `default:"user" enum:"user,auditor,admin" help:"Role of the account: user, auditor or admin ($COLOPHON_ROLE)."`
}

func (c *userCreateCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	password, err := console.ReadPassword(ctx, t.in, t.err)
	if err != nil {
		return err
	}
	return c.with(ctx, log, func(ctx context.Context, accounts *auth.Service) error {
		account, err := accounts.Create(ctx, c.Name, password, c.Role)
		if errors.Is(err, auth.ErrTaken) {
			return errors.New("the user name is taken (colophon user role changes the role of an account)")
		}
		if err != nil {
			return err
		}
		return show(t.out, account)
	})
}

type userListCmd struct{ accountFlags }

// listPage is the number of accounts in one query.
const listPage = 500

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
	namedAccountFlags
	Role auth.Role `arg:"" enum:"user,auditor,admin" help:"New role: user, auditor or admin."`
}

func (c *userRoleCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.change(ctx, t, log, func(ctx context.Context, accounts *auth.Service, id uuid.UUID) (auth.Account, error) {
		return accounts.SetRole(ctx, id, c.Role)
	})
}

type userDisableCmd struct{ namedAccountFlags }

func (c *userDisableCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.change(ctx, t, log, func(ctx context.Context, accounts *auth.Service, id uuid.UUID) (auth.Account, error) {
		return accounts.Disable(ctx, auth.CommandLine, id)
	})
}

type userEnableCmd struct{ namedAccountFlags }

func (c *userEnableCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.change(ctx, t, log, func(ctx context.Context, accounts *auth.Service, id uuid.UUID) (auth.Account, error) {
		return accounts.Enable(ctx, auth.CommandLine, id)
	})
}

type userPasswordCmd struct{ namedAccountFlags }

func (c *userPasswordCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	password, err := console.ReadPassword(ctx, t.in, t.err)
	if err != nil {
		return err
	}
	return c.change(ctx, t, log, func(ctx context.Context, accounts *auth.Service, id uuid.UUID) (auth.Account, error) {
		return accounts.SetPassword(ctx, id, password)
	})
}

type userSignOutCmd struct{ namedAccountFlags }

func (c *userSignOutCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.change(ctx, t, log, func(ctx context.Context, accounts *auth.Service, id uuid.UUID) (auth.Account, error) {
		return accounts.EndSessions(ctx, id)
	})
}

type userEraseCmd struct{ namedAccountFlags }

// Run erases an account after the user has typed the account's name again. It returns
// when the account's encryption key is destroyed. If the key cannot be destroyed, Run
// returns a pendingError.
func (c *userEraseCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	if console.IsTerminal(t.in) {
		fmt.Fprintf(t.err, "This destroys all texts of %s for good. Type the name to confirm: ", c.Name)
	}
	confirmed, err := console.ReadLine(ctx, t.in)
	if err != nil {
		return fmt.Errorf("read name: %w", err)
	}
	if confirmed != c.Name {
		return errors.New("name not confirmed, nothing erased: type it again on the terminal, or as a line of standard input")
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
		if account, err = accounts.EraseAccount(ctx, account.ID); err != nil {
			return err
		}
		if err := show(t.out, account); err != nil {
			return err
		}
		erasing, cancel := context.WithTimeout(ctx, eraseTimeout)
		defer cancel()
		if err := jobs.Erase(erasing, b.store, account.ID); err != nil {
			return &pendingError{fmt.Errorf("the account is closed, but its texts are not destroyed yet: "+
				"colophon api or up finishes this within seconds of its start (%w)", err)}
		}
		return nil
	})
}

// eraseTimeout bounds the time to end an account's jobs and destroy its encryption key.
const eraseTimeout = time.Minute
