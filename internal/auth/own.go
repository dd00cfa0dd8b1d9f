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

// proof is that somebody who is signed in has given the password once more.
type proof struct {
	account  uuid.UUID
	key      string // of the user name
	username string
	hash     string
	attempt  attempt
}

// prove checks the password of an account, as a sign-in does. It returns
// ErrPassword, ErrBusy or a ThrottledError; ErrAccessToken, if the account has
// been disabled or erased.
func (s *Service) prove(ctx context.Context, account uuid.UUID, password, network string) (proof, error) {
	p := proof{account: account}
	err := s.pool.QueryRow(ctx, `
		select username_key, username, password_hash from accounts where id = $1 and disabled_at is null`, account).
		Scan(&p.key, &p.username, &p.hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, fmt.Errorf("%w: the account is gone", ErrAccessToken)
	}
	if err != nil {
		return p, fmt.Errorf("look for the account: %w", err)
	}
	if p.attempt, err = s.attempt(ctx, p.key, network); err != nil {
		return p, err
	}
	_, err = s.check(ctx, account, &p.attempt, policy.NormalPassword(password), p.hash, false)
	if errors.Is(err, ErrCredentials) {
		return p, ErrPassword
	}
	if err == nil {
		if err = s.succeeded(ctx, s.pool, p.attempt); err != nil {
			err = fmt.Errorf("forget failed sign-ins: %w", err)
		}
	}
	if err != nil {
		return p, errors.Join(err, s.undecided(ctx, p.attempt))
	}
	return p, nil
}

// proven runs fn in a transaction in which the proof still holds, and nobody
// signs in or changes the account.
func (s *Service) proven(ctx context.Context, p proof, fn func(*events.Tx) error) error {
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
			return ErrBusy // and the next time it is another password, or hashed anew
		}
		return fn(tx)
	})
}

// ChangePassword gives the caller's account another password and ends all of its
// sessions but the caller's; whoever came from elsewhere comes from an unknown
// network again. It returns a policy.Refusal, and what prove returns.
func (s *Service) ChangePassword(ctx context.Context, caller Identity, current, next, network string) error {
	p, err := s.prove(ctx, caller.Account, current, network)
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
	err = s.proven(ctx, p, func(tx *events.Tx) error {
		if _, err := tx.Exec(ctx, `update accounts set password_hash = $2 where id = $1`, p.account, hash); err != nil {
			return err
		}
		if ended, err = s.endAll(ctx, tx, p.account, caller.Session); err != nil {
			return err
		}
		if err := s.unknow(ctx, tx, p.account, p.attempt); err != nil {
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
		// Nobody else ends several sessions of the account meanwhile, or each
		// could wait for the other.
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

// endAll ends the sessions of an account, except for one, and returns them: once
// that has committed, it is to be noted here, and others will hear of it. The
// caller has the account's row, and appends to its stream afterwards: whoever
// locks more than one of these locks the row, sessions, the stream in this order.
func (s *Service) endAll(ctx context.Context, tx *events.Tx, account, except uuid.UUID) ([]uuid.UUID, error) {
	rows, _ := tx.Query(ctx, `update sessions set revoked_at = $3 where account = $1 and id <> $2 and revoked_at is null returning id`, account, except, s.now())
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}

// Erase closes the caller's account for good: nobody can sign in to it, it
// begins no further job, and all that is left of its name is a digest, so that
// nobody else can have it. What the account wrote can be read until its jobs
// have been ended and its key destroyed, which is for the jobs' queue to do. It
// returns what prove returns; erasing again, ErrAccessToken.
func (s *Service) Erase(ctx context.Context, caller Identity, password, network string) error {
	p, err := s.prove(ctx, caller.Account, password, network)
	if err != nil {
		return err
	}
	var ended []uuid.UUID
	err = s.proven(ctx, p, func(tx *events.Tx) (err error) {
		ended, err = s.erase(ctx, tx, p.account, p.key, events.AccountErased{})
		return err
	})
	if err != nil {
		return fmt.Errorf("erase an account: %w", err)
	}
	s.ended.add(ended...)
	return nil
}

// erase leaves of an account, whose row is locked, what Erase says, and returns
// the sessions that end with it.
func (s *Service) erase(ctx context.Context, tx *events.Tx, id uuid.UUID, key string, fact events.AccountErased) ([]uuid.UUID, error) {
	ended, err := s.endAll(ctx, tx, id, uuid.Nil)
	if err != nil {
		return nil, err
	}
	// A key has no spaces, so that this one is nobody's.
	_, err = tx.Exec(ctx, `
		update accounts set username = '', username_key = 'erased ' || id, erased_name = $2, password_hash = '',
			role = $3, disabled_at = $4, erased_at = $4
		where id = $1`, id, s.erasedName(key), User, s.now())
	if err != nil {
		return nil, err
	}
	if err := s.unknow(ctx, tx, id, attempt{}); err != nil {
		return nil, err
	}
	if err := tx.AppendAccount(ctx, id, fact); err != nil {
		return nil, err
	}
	return ended, tx.Close(ctx, id)
}

// erasedName is what remains of the name of an account that has been erased.
func (s *Service) erasedName(key string) []byte { return s.vault.Digest("erased name", key) }
