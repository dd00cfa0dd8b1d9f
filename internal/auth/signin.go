package auth

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/policy"
)

// errMoved occurs when an account was changed while its password was hashed.
var errMoved = errors.New("the account has changed meanwhile")

// SignIn begins a session for somebody who comes from a network: any text that is
// the same for all that one attacker has at hand. It returns ErrCredentials,
// ErrBusy or a ThrottledError.
func (s *Service) SignIn(ctx context.Context, username, password, network string) (Tokens, error) {
	// What cannot be a name is one that no account has: it has nobody's key.
	_, key, _ := policy.Username(username)
	normal := policy.NormalPassword(password)
	a, err := s.attempt(ctx, key, network)
	if err != nil {
		return Tokens{}, err
	}
	tokens, err := Tokens{}, errMoved
	for range 3 {
		if tokens, err = s.signIn(ctx, key, normal, &a); !errors.Is(err, errMoved) {
			break
		}
	}
	if errors.Is(err, errMoved) {
		err = ErrBusy
	}
	if err != nil {
		return Tokens{}, errors.Join(err, s.undecided(ctx, a))
	}
	return tokens, nil
}

// signIn looks at an account, its password and, in a transaction, at the
// account again.
func (s *Service) signIn(ctx context.Context, key, password string, a *attempt) (Tokens, error) {
	var account uuid.UUID
	var hash string
	var disabled bool
	err := s.pool.QueryRow(ctx, `
		select id, password_hash, disabled_at is not null from accounts
		where username_key in ($1, '') order by username_key desc limit 1`, key).Scan(&account, &hash, &disabled)
	if err != nil {
		return Tokens{}, fmt.Errorf("look for the user name: %w", err)
	}
	outdated, err := s.check(ctx, account, a, password, hash, disabled)
	if err != nil {
		return Tokens{}, err
	}
	current := hash
	if outdated {
		if current, err = s.hash.Hash(ctx, password); err != nil {
			return Tokens{}, err
		}
	}
	signer := s.keys.fresh(ctx).signer(s.now()) // not inside, where it would need a second connection
	var tokens Tokens
	var ended []uuid.UUID
	err = s.store.Write(ctx, func(tx *events.Tx) error {
		// Until the session is there, the password cannot be changed nor the
		// account disabled: whoever does that afterwards finds the session to end.
		tag, err := tx.Exec(ctx, `
			update accounts set password_hash = $3
			where id = $1 and password_hash = $2 and disabled_at is null`, account, hash, current)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return errMoved
		}
		if err := errors.Join(s.succeeded(ctx, tx, *a), s.know(ctx, tx, *a, account)); err != nil {
			return err
		}
		tokens, ended, err = s.begin(ctx, tx, signer, account)
		return err
	})
	if err != nil {
		return Tokens{}, fmt.Errorf("begin a session: %w", err)
	}
	s.ended.add(ended...)
	return tokens, nil
}

// check compares a password with an account's hash. If it is wrong, or would be
// of no use, that is counted and on record, whether or not the client has waited
// for it, and ErrCredentials returned.
func (s *Service) check(ctx context.Context, account uuid.UUID, a *attempt, password, hash string, disabled bool) (outdated bool, err error) {
	match, outdated, err := s.hash.Check(ctx, password, hash)
	if err != nil {
		return false, err
	}
	if match && !disabled {
		return outdated, nil
	}
	a.wrong = true
	ctx = context.WithoutCancel(ctx)
	err = s.store.Write(ctx, func(tx *events.Tx) error {
		if err := s.failed(ctx, tx, *a); err != nil {
			return err
		}
		return tx.AppendAccount(ctx, account, events.AccountSignInFailed{})
	})
	if err != nil {
		return false, fmt.Errorf("record a failed sign-in: %w", err)
	}
	return false, ErrCredentials
}
