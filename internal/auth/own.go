package auth

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/events"
	"colophon/internal/policy"
)

// reauthentication records that a signed-in user has repeated their password.
type reauthentication struct {
	account  uuid.UUID
	key      string // of the user name
	username string
	hash     string // the password hash that was checked
	attempt  signInAttempt
}

// reauthenticate checks the password of an account as a sign-in does. It returns
// ErrPassword, ErrBusy or a ThrottledError, or ErrAccessToken if the account has
// been disabled or erased.
func (s *Service) reauthenticate(ctx context.Context, account uuid.UUID, password, network string) (reauthentication, error) {
	p := reauthentication{account: account}
	err := s.pool.QueryRow(ctx, `
		select username_key, username, password_hash from accounts where id = $1 and disabled_at is null`, account).
		Scan(&p.key, &p.username, &p.hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, fmt.Errorf("%w: the account is gone", ErrAccessToken)
	}
	if err != nil {
		return p, fmt.Errorf("look up the account: %w", err)
	}
	if p.attempt, err = s.beginAttempt(ctx, p.key, network); err != nil {
		return p, err
	}
	_, err = s.checkPassword(ctx, account, &p.attempt, policy.NormalPassword(password), p.hash, false)
	if errors.Is(err, ErrCredentials) {
		return p, ErrPassword
	}
	if err == nil {
		if err = s.clearFailures(ctx, s.pool, p.attempt); err != nil {
			err = fmt.Errorf("clear failed sign-ins: %w", err)
		}
	}
	if err != nil {
		return p, errors.Join(err, s.withdrawAttempt(ctx, p.attempt))
	}
	return p, nil
}

// writeIfUnchanged runs fn in a transaction that locks the account, if its password
// is still the one that was checked. No sign-in or other change happens meanwhile.
func (s *Service) writeIfUnchanged(ctx context.Context, p reauthentication, fn func(*events.Tx) error) error {
	return s.store.Write(ctx, func(tx *events.Tx) error {
		var same bool
		err := tx.QueryRow(ctx, `select password_hash = $2 from accounts where id = $1 and disabled_at is null for update`, p.account, p.hash).Scan(&same)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("%w: the account is gone", ErrAccessToken)
		}
		if err != nil {
			return err
		}
		if !same {
			return ErrBusy // the password was changed or rehashed; a retry finds out which
		}
		return fn(tx)
	})
}

// ChangePassword replaces the password of the caller's account and ends all other
// sessions. It also removes the account's known networks, except the caller's. It
// returns a policy.Refusal, ErrPassword, ErrBusy, a ThrottledError or ErrAccessToken.
func (s *Service) ChangePassword(ctx context.Context, caller Identity, current, next, network string) error {
	p, err := s.reauthenticate(ctx, caller.Account, current, network)
	if err != nil {
		return err
	}
	normal, err := policy.Password(next, p.username)
	if err != nil {
		return err
	}
	hash, err := s.hash.Hash(ctx, normal)
	if err != nil {
		return err
	}
	var ended []uuid.UUID
	err = s.writeIfUnchanged(ctx, p, func(tx *events.Tx) error {
		if _, err := tx.Exec(ctx, `update accounts set password_hash = $2 where id = $1`, p.account, hash); err != nil {
			return err
		}
		if ended, err = s.endAll(ctx, tx, p.account, caller.Session); err != nil {
			return err
		}
		if err := s.forgetNetworks(ctx, tx, p.account, p.attempt); err != nil {
			return err
		}
		return tx.AppendAccount(ctx, p.account, events.AccountPasswordChanged{Session: caller.Session})
	})
	if err != nil {
		return fmt.Errorf("change a password: %w", err)
	}
	s.ended.add(ended...)
	return nil
}

// SignOutEverywhere ends all sessions of an account.
func (s *Service) SignOutEverywhere(ctx context.Context, account uuid.UUID) error {
	var ended []uuid.UUID
	err := s.store.Write(ctx, func(tx *events.Tx) (err error) {
		// Two transactions that each lock several sessions could deadlock. The lock
		// on the account prevents that.
		if _, err := tx.Exec(ctx, `select from accounts where id = $1 for no key update`, account); err != nil {
			return err
		}
		if ended, err = s.endAll(ctx, tx, account, uuid.Nil); err != nil {
			return err
		}
		return tx.AppendAccount(ctx, account, events.AccountSignedOutEverywhere{})
	})
	if err != nil {
		return fmt.Errorf("sign out everywhere: %w", err)
	}
	s.ended.add(ended...)
	return nil
}

// endAll ends all sessions of an account except one, and returns their ids. After
// the commit the caller adds them to s.ended; other processes are told by the event.
// The caller has locked the account's row, and appends to its stream afterwards. All
// transactions lock in this order: the row, sessions, the stream.
func (s *Service) endAll(ctx context.Context, tx *events.Tx, account, except uuid.UUID) ([]uuid.UUID, error) {
	rows, _ := tx.Query(ctx, `update sessions set revoked_at = $3 where account = $1 and id <> $2 and revoked_at is null returning id`, account, except, s.now())
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}

// Erase closes the caller's account for good. No further sign-in or job is accepted.
// A digest of the user name remains, so that the name cannot be registered again.
// Texts stay readable until the job queue has ended the account's jobs and destroyed
// its key. Erase returns ErrPassword, ErrBusy, a ThrottledError, or ErrAccessToken if
// the account is disabled or erased already.
func (s *Service) Erase(ctx context.Context, caller Identity, password, network string) error {
	p, err := s.reauthenticate(ctx, caller.Account, password, network)
	if err != nil {
		return err
	}
	var ended []uuid.UUID
	err = s.writeIfUnchanged(ctx, p, func(tx *events.Tx) (err error) {
		ended, err = s.erase(ctx, tx, p.account, p.key, events.AccountErased{})
		return err
	})
	if err != nil {
		return fmt.Errorf("erase an account: %w", err)
	}
	s.ended.add(ended...)
	return nil
}

// erase does the work of Erase on an account whose row is locked. It returns the
// sessions that end with it.
func (s *Service) erase(ctx context.Context, tx *events.Tx, id uuid.UUID, key string, fact events.AccountErased) ([]uuid.UUID, error) {
	ended, err := s.endAll(ctx, tx, id, uuid.Nil)
	if err != nil {
		return nil, err
	}
	// Keys of user names have no spaces, so no name has this one.
	_, err = tx.Exec(ctx, `
		update accounts set username = '', username_key = 'erased ' || id, erased_name = $2, password_hash = '',
			role = $3, disabled_at = $4, erased_at = $4
		where id = $1`, id, s.erasedName(key), User, s.now())
	if err != nil {
		return nil, err
	}
	if err := s.forgetNetworks(ctx, tx, id, signInAttempt{}); err != nil {
		return nil, err
	}
	if err := tx.AppendAccount(ctx, id, fact); err != nil {
		return nil, err
	}
	return ended, tx.CloseOwner(ctx, id)
}

// erasedName returns the digest that remains of an erased user name.
func (s *Service) erasedName(key string) []byte { return s.vault.Digest("erased name", key) }
