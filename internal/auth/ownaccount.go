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

// reauthentication is the state of an account at the time when its user entered the
// password again.
type reauthentication struct {
	account  uuid.UUID
	key      string // the key of the user name
	username string
	hash     string // the password hash that was checked
	attempt  signInAttempt
}

// reauthenticate checks the password of an account as a sign-in does. It returns
// ErrPassword, ErrBusy or a ThrottledError. If the account has been disabled or erased,
// it returns ErrAccessToken.
func (s *Service) reauthenticate(ctx context.Context, account uuid.UUID, password, network string) (reauthentication, error) {
	r := reauthentication{account: account}
	err := s.pool.QueryRow(ctx, `
		select username_key, username, password_hash from accounts where id = $1 and disabled_at is null`, account).
		Scan(&r.key, &r.username, &r.hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, fmt.Errorf("%w: the account is gone", ErrAccessToken)
	}
	if err != nil {
		return r, fmt.Errorf("look up the account: %w", err)
	}
	if r.attempt, err = s.beginAttempt(ctx, r.key, network); err != nil {
		return r, err
	}
	_, err = s.checkPassword(ctx, account, &r.attempt, policy.NormalPassword(password), r.hash, false)
	if errors.Is(err, ErrCredentials) {
		return r, ErrPassword
	}
	if err == nil {
		if err = s.clearFailures(ctx, s.pool, r.attempt); err != nil {
			err = fmt.Errorf("clear failed sign-ins: %w", err)
		}
	}
	if err != nil {
		return r, errors.Join(err, s.withdrawAttempt(ctx, r.attempt))
	}
	return r, nil
}

// writeIfUnchanged runs fn in a transaction that locks the account. No sign-in and no
// other change of the account happens during the transaction. If the password hash has
// changed since the check, writeIfUnchanged returns ErrBusy. If the account is disabled
// or erased, it returns ErrAccessToken.
func (s *Service) writeIfUnchanged(ctx context.Context, r reauthentication, fn func(*events.Tx) error) error {
	return s.store.Write(ctx, func(tx *events.Tx) error {
		var same bool
		err := tx.QueryRow(ctx, `select password_hash = $2 from accounts where id = $1 and disabled_at is null for update`, r.account, r.hash).Scan(&same)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("%w: the account is gone", ErrAccessToken)
		}
		if err != nil {
			return err
		}
		if !same {
			return ErrBusy // the password was changed, or only hashed again with new parameters, and a retry tells which
		}
		return fn(tx)
	})
}

// ChangePassword replaces the password of the caller's account and ends all other
// sessions of the account. It also removes the account's known networks, except the
// caller's network. It returns a policy.Refusal, ErrPassword, ErrBusy, a ThrottledError
// or ErrAccessToken.
func (s *Service) ChangePassword(ctx context.Context, caller Identity, current, next, network string) error {
	r, err := s.reauthenticate(ctx, caller.Account, current, network)
	if err != nil {
		return err
	}
	normal, err := policy.Password(next, r.username)
	if err != nil {
		return err
	}
	hash, err := s.hash.Hash(ctx, normal)
	if err != nil {
		return err
	}
	var ended []uuid.UUID
	err = s.writeIfUnchanged(ctx, r, func(tx *events.Tx) error {
		if _, err := tx.Exec(ctx, `update accounts set password_hash = $2 where id = $1`, r.account, hash); err != nil {
			return err
		}
		if ended, err = s.endAll(ctx, tx, r.account, caller.Session); err != nil {
			return err
		}
		if err := s.forgetNetworks(ctx, tx, r.account, r.attempt); err != nil {
			return err
		}
		return tx.AppendAccount(ctx, r.account, events.AccountPasswordChanged{Session: caller.Session})
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
		// on the account prevents this deadlock.
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

// endAll ends all sessions of an account but keeps the session with the id except. It
// returns the ids of the ended sessions. The caller locks the account's row before the
// call, and appends an event to the account's stream after the call. The event tells
// other processes about the ended sessions. After the commit the caller adds the ended
// sessions to s.ended. All transactions lock in this order: the account's row, the
// sessions, the API keys, the stream.
func (s *Service) endAll(ctx context.Context, tx *events.Tx, account, except uuid.UUID) ([]uuid.UUID, error) {
	rows, _ := tx.Query(ctx, `update sessions set revoked_at = $3 where account = $1 and id <> $2 and revoked_at is null returning id`, account, except, s.now())
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}

// Erase closes the caller's account permanently. No further sign-in or job is accepted.
// A digest of the user name remains, so that the name cannot be registered again. The
// account's texts stay readable until the job queue has ended the account's jobs and
// destroyed the account's key. Erase returns ErrPassword, ErrBusy or a ThrottledError.
// If the account is disabled or erased already, Erase returns ErrAccessToken.
func (s *Service) Erase(ctx context.Context, caller Identity, password, network string) error {
	r, err := s.reauthenticate(ctx, caller.Account, password, network)
	if err != nil {
		return err
	}
	var ended []uuid.UUID
	err = s.writeIfUnchanged(ctx, r, func(tx *events.Tx) (err error) {
		ended, err = s.erase(ctx, tx, r.account, r.key, events.AccountErased{})
		return err
	})
	if err != nil {
		return fmt.Errorf("erase an account: %w", err)
	}
	s.ended.add(ended...)
	return nil
}

// erase does the work of Erase on an account whose row is locked. It returns the
// sessions and the API keys that it has ended.
func (s *Service) erase(ctx context.Context, tx *events.Tx, id uuid.UUID, key string, fact events.AccountErased) ([]uuid.UUID, error) {
	ended, err := s.endAll(ctx, tx, id, uuid.Nil)
	if err != nil {
		return nil, err
	}
	// The keys are deleted and not only revoked, because their names are the user's words.
	rows, _ := tx.Query(ctx, `delete from api_keys where account = $1 returning id`, id)
	keys, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, err
	}
	ended = append(ended, keys...)
	// The new username key contains a space. No user name has such a key. An erased account
	// with a lookalike name keeps this name taken already.
	_, err = tx.Exec(ctx, `
		update accounts set username = '', username_key = 'erased ' || id, username_skeleton = null,
			erased_name = case when not exists (select from accounts where erased_name = $2::bytea) then $2::bytea end, password_hash = '',
			role = $3, disabled_at = $4, erased_at = $4
		where id = $1`, id, s.erasedName(policy.Skeleton(key)), User, s.now())
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

// erasedName returns the digest of a user name's skeleton that remains after the erasure.
// Accounts that were erased by version 0.1.0 have the digest of the name's key.
func (s *Service) erasedName(skeleton string) []byte { return s.vault.Digest("erased name", skeleton) }
