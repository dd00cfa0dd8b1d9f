package auth

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/policy"
)

// errChanged occurs when an account has changed since the service read its password hash.
var errChanged = errors.New("the account has changed")

// SignIn begins a session. The network is a text that is the same for all addresses
// that a single attacker probably controls. SignIn returns ErrCredentials, ErrBusy or a
// ThrottledError.
func (s *Service) SignIn(ctx context.Context, username, password, network string) (Tokens, error) {
	// An invalid name has an empty key. It is treated like an unknown name.
	_, key, _ := policy.Username(username)
	normal := policy.NormalPassword(password)
	a, err := s.beginAttempt(ctx, key, network)
	if err != nil {
		return Tokens{}, err
	}
	tokens, err := Tokens{}, errChanged
	for range 3 {
		if tokens, err = s.signIn(ctx, key, normal, &a); !errors.Is(err, errChanged) {
			break
		}
	}
	if errors.Is(err, errChanged) {
		err = ErrBusy
	}
	if err != nil {
		return Tokens{}, errors.Join(err, s.withdrawAttempt(ctx, a))
	}
	return tokens, nil
}

// signIn checks the password and then begins a session. If the account changes between
// these two steps, signIn returns errChanged.
func (s *Service) signIn(ctx context.Context, key, password string, a *signInAttempt) (Tokens, error) {
	var account uuid.UUID
	var hash string
	var disabled bool
	err := s.pool.QueryRow(ctx, `
		select id, password_hash, disabled_at is not null from accounts
		where username_key in ($1, '') order by username_key desc limit 1`, key).Scan(&account, &hash, &disabled)
	if err != nil {
		return Tokens{}, fmt.Errorf("look up the user name: %w", err)
	}
	outdated, err := s.checkPassword(ctx, account, a, password, hash, disabled)
	if err != nil {
		return Tokens{}, err
	}
	current := hash
	if outdated {
		if current, err = s.hash.Hash(ctx, password); err != nil {
			return Tokens{}, err
		}
	}
	signer := s.keys.fresh(ctx).signer(s.now()) // not read inside the transaction, because such a read would need a second connection
	var tokens Tokens
	var ended []uuid.UUID
	err = s.store.Write(ctx, func(tx *events.Tx) error {
		// The update locks the account until the session exists. A later change of the
		// password or of the account's state finds the new session and ends it.
		tag, err := tx.Exec(ctx, `
			update accounts set password_hash = $3
			where id = $1 and password_hash = $2 and disabled_at is null`, account, hash, current)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return errChanged
		}
		if err := errors.Join(s.clearFailures(ctx, tx, *a), s.rememberNetwork(ctx, tx, *a, account)); err != nil {
			return err
		}
		tokens, ended, err = s.beginSession(ctx, tx, signer, account)
		return err
	})
	if err != nil {
		return Tokens{}, fmt.Errorf("begin a session: %w", err)
	}
	s.ended.add(ended...)
	return tokens, nil
}

// checkPassword compares a password with an account's hash, and reports whether the
// hash is outdated. If the password is wrong or the account is disabled, checkPassword
// counts and records the failure and returns ErrCredentials. It does so even if the
// client has disconnected.
func (s *Service) checkPassword(ctx context.Context, account uuid.UUID, a *signInAttempt, password, hash string, disabled bool) (outdated bool, err error) {
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
		if err := s.recordFailure(ctx, tx, *a); err != nil {
			return err
		}
		return tx.AppendAccount(ctx, account, events.AccountSignInFailed{})
	})
	if err != nil {
		return false, fmt.Errorf("record a failed sign-in: %w", err)
	}
	return false, ErrCredentials
}
