package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/events"
	"colophon/internal/policy"
)

// CommandLine is the actor of operations from the command line. CommandLine has all
// rights of an administrator.
var CommandLine uuid.UUID

// byCommand is the name of the actor CommandLine in events.
const byCommand = "command"

// actor returns the name under which an actor appears in events.
func actor(by uuid.UUID) string {
	if by == CommandLine {
		return byCommand
	}
	return by.String()
}

// Accounts returns up to limit accounts in the order of their creation. The results
// begin after the account with the given id. For the zero UUID they begin with the
// first account.
func (s *Service) Accounts(ctx context.Context, after uuid.UUID, limit int) ([]Account, error) {
	rows, _ := s.pool.Query(ctx, `select `+accountColumns+` from accounts where id > $1 and id <> $2 order by id limit $3`, after, unknownAccount, limit)
	accounts, err := pgx.CollectRows(rows, scanAccount)
	if err != nil {
		return nil, fmt.Errorf("list the accounts: %w", err)
	}
	return accounts, nil
}

// Named returns the account with a user name, in any spelling. It returns a
// policy.Refusal or events.ErrNotFound.
func (s *Service) Named(ctx context.Context, username string) (Account, error) {
	_, key, err := policy.Username(username)
	if err != nil {
		return Account{}, err
	}
	rows, _ := s.pool.Query(ctx, `select `+accountColumns+` from accounts where username_key = $1`, key)
	account, err := pgx.CollectExactlyOneRow(rows, scanAccount)
	if errors.Is(err, pgx.ErrNoRows) {
		return Account{}, events.ErrNotFound
	}
	if err != nil {
		return Account{}, fmt.Errorf("look up the user name: %w", err)
	}
	return account, nil
}

// Create creates an account with a role. It is for the command line only. It
// returns the same errors as Register.
func (s *Service) Create(ctx context.Context, username, password string, role Role) (Account, error) {
	return s.register(ctx, nil, username, password, role)
}

// Disable ends the sessions of an account, revokes its API keys and refuses later sign-ins.
// The account's jobs continue. An account that is disabled already stays unchanged. Disable returns
// events.ErrNotFound or ErrOwnAccount. If by is not an administrator, it returns
// ErrForbidden.
func (s *Service) Disable(ctx context.Context, by, id uuid.UUID) (Account, error) {
	if by == id {
		return Account{}, ErrOwnAccount
	}
	var ended []uuid.UUID
	account, err := s.administer(ctx, by, id, func(tx *events.Tx, a *Account) (err error) {
		if !a.DisabledAt.IsZero() {
			return nil
		}
		if ended, err = s.endAll(ctx, tx, id, uuid.Nil); err != nil {
			return err
		}
		keys, err := s.endKeys(ctx, tx, id)
		if err != nil {
			return err
		}
		ended = append(ended, keys...)
		a.DisabledAt = s.now().UTC()
		if _, err := tx.Exec(ctx, `update accounts set disabled_at = $2 where id = $1`, id, a.DisabledAt); err != nil {
			return err
		}
		return tx.AppendAccount(ctx, id, events.AccountDisabled{By: actor(by)})
	})
	if err == nil {
		s.ended.add(ended...)
	}
	return account, err
}

// Enable reverses Disable, except that ended sessions and revoked API keys stay so. It returns
// events.ErrNotFound or ErrAccountErased. If by is not an administrator, it returns
// ErrForbidden.
func (s *Service) Enable(ctx context.Context, by, id uuid.UUID) (Account, error) {
	return s.administer(ctx, by, id, func(tx *events.Tx, a *Account) error {
		switch {
		case !a.ErasedAt.IsZero():
			return ErrAccountErased
		case a.DisabledAt.IsZero():
			return nil
		}
		a.DisabledAt = time.Time{}
		if _, err := tx.Exec(ctx, `update accounts set disabled_at = null where id = $1`, id); err != nil {
			return err
		}
		return tx.AppendAccount(ctx, id, events.AccountEnabled{By: actor(by)})
	})
}

// SetRole changes the role of an account. It is for the command line only. It
// returns events.ErrNotFound or ErrAccountErased.
func (s *Service) SetRole(ctx context.Context, id uuid.UUID, role Role) (Account, error) {
	return s.administer(ctx, CommandLine, id, func(tx *events.Tx, a *Account) error {
		switch {
		case !a.ErasedAt.IsZero():
			return ErrAccountErased
		case a.Role == role:
			return nil
		}
		a.Role = role
		if _, err := tx.Exec(ctx, `update accounts set role = $2 where id = $1`, id, role); err != nil {
			return err
		}
		return tx.AppendAccount(ctx, id, events.AccountRoleChanged{Role: string(role), By: byCommand})
	})
}

// SetPassword replaces the password of an account, for owners who have forgotten
// their password. It ends all sessions of the account and removes the account's known
// networks. It is for the command line only. SetPassword returns a policy.Refusal,
// ErrBusy, events.ErrNotFound or ErrAccountErased.
func (s *Service) SetPassword(ctx context.Context, id uuid.UUID, password string) (Account, error) {
	account, err := s.Account(ctx, id)
	if err != nil {
		return Account{}, err
	}
	if !account.ErasedAt.IsZero() {
		return Account{}, ErrAccountErased
	}
	normal, err := policy.Password(password, account.Username)
	if err != nil {
		return Account{}, err
	}
	hash, err := s.hash.Hash(ctx, normal)
	if err != nil {
		return Account{}, err
	}
	return s.command(ctx, id, func(tx *events.Tx, _ *Account) ([]uuid.UUID, error) {
		if _, err := tx.Exec(ctx, `update accounts set password_hash = $2 where id = $1`, id, hash); err != nil {
			return nil, err
		}
		ended, err := s.endAll(ctx, tx, id, uuid.Nil)
		if err != nil {
			return nil, err
		}
		if err := s.forgetNetworks(ctx, tx, id, signInAttempt{}); err != nil {
			return nil, err
		}
		return ended, tx.AppendAccount(ctx, id, events.AccountPasswordChanged{By: byCommand})
	})
}

// EndSessions ends all sessions of an account. It is for the command line only. It
// returns events.ErrNotFound or ErrAccountErased.
func (s *Service) EndSessions(ctx context.Context, id uuid.UUID) (Account, error) {
	return s.command(ctx, id, func(tx *events.Tx, _ *Account) ([]uuid.UUID, error) {
		ended, err := s.endAll(ctx, tx, id, uuid.Nil)
		if err != nil {
			return nil, err
		}
		return ended, tx.AppendAccount(ctx, id, events.AccountSignedOutEverywhere{By: byCommand})
	})
}

// EraseAccount does the same as Erase but needs no password. It is for the command
// line only. It returns events.ErrNotFound or ErrAccountErased.
func (s *Service) EraseAccount(ctx context.Context, id uuid.UUID) (Account, error) {
	return s.command(ctx, id, func(tx *events.Tx, a *Account) ([]uuid.UUID, error) {
		var key string
		if err := tx.QueryRow(ctx, `select username_key from accounts where id = $1`, id).Scan(&key); err != nil {
			return nil, err
		}
		a.ErasedAt = s.now().UTC()
		a.Username, a.Role, a.DisabledAt = "", User, a.ErasedAt
		return s.erase(ctx, tx, id, key, events.AccountErased{By: byCommand})
	})
}

// command runs the function change as CommandLine. If the account is erased, command
// returns ErrAccountErased. The function change returns the sessions that it has ended
// in the database. After the commit, command adds these sessions to s.ended.
func (s *Service) command(ctx context.Context, id uuid.UUID, change func(*events.Tx, *Account) ([]uuid.UUID, error)) (Account, error) {
	var ended []uuid.UUID
	account, err := s.administer(ctx, CommandLine, id, func(tx *events.Tx, a *Account) (err error) {
		if !a.ErasedAt.IsZero() {
			return ErrAccountErased
		}
		ended, err = change(tx, a)
		return err
	})
	if err == nil {
		s.ended.add(ended...)
	}
	return account, err
}

// administer runs the function change in a transaction. The transaction locks the
// account and the acting administrator, and checks the administrator's role. So if two
// administrators disable each other at the same time, one of them stays enabled.
func (s *Service) administer(ctx context.Context, by, id uuid.UUID, change func(*events.Tx, *Account) error) (Account, error) {
	var account Account
	err := s.store.Write(ctx, func(tx *events.Tx) error {
		rows, _ := tx.Query(ctx, `select `+accountColumns+` from accounts where id in ($1, $2) and id <> $3 order by id for update`, by, id, unknownAccount)
		found, err := pgx.CollectRows(rows, scanAccount)
		if err != nil {
			return err
		}
		hasID := func(id uuid.UUID) func(Account) bool { return func(a Account) bool { return a.ID == id } }
		if by != CommandLine {
			admin := slices.IndexFunc(found, hasID(by))
			if admin < 0 || found[admin].Role != Admin || !found[admin].DisabledAt.IsZero() {
				return ErrForbidden
			}
		}
		target := slices.IndexFunc(found, hasID(id))
		if target < 0 {
			return events.ErrNotFound
		}
		account = found[target]
		return change(tx, &account)
	})
	if err != nil {
		return Account{}, fmt.Errorf("change account %s: %w", id, err)
	}
	return account, nil
}
