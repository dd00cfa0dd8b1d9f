package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"colophon/events"
	"colophon/internal/policy"
)

// unknownAccount stands for all unknown user names. It is the only account with an
// empty username key. The account is disabled. Its password is random and not stored.
var unknownAccount = uuid.UUID{}

// ensureUnknownAccount creates the row of unknownAccount. If the row exists and its
// hash has outdated parameters, ensureUnknownAccount replaces the hash. So every
// password check takes the same time.
func (s *Service) ensureUnknownAccount(ctx context.Context) error {
	var old string
	err := s.pool.QueryRow(ctx, `select password_hash from accounts where id = $1`, unknownAccount).Scan(&old)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("read the account for unknown names: %w", err)
	}
	if err == nil && !s.hash.outdated(old) {
		return nil
	}
	hash, err := s.hash.Hash(ctx, unguessable())
	if err != nil {
		return fmt.Errorf("hash a password for unknown names: %w", err)
	}
	err = s.store.Write(ctx, func(tx *events.Tx) error {
		created := s.now()
		tag, err := tx.Exec(ctx, `
			insert into accounts (id, username, username_key, password_hash, created_at, disabled_at)
			values ($1, '', '', $2, $3, $3) on conflict (id) do nothing`, unknownAccount, hash, created)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 1 {
			return tx.AppendAccount(ctx, unknownAccount, events.AccountRegistered{})
		}
		_, err = tx.Exec(ctx, `update accounts set password_hash = $2 where id = $1`, unknownAccount, hash)
		return err
	})
	if err != nil {
		return fmt.Errorf("create the account for unknown names: %w", err)
	}
	return nil
}

// RegisterOnce creates an account like Register. A second call with the same key,
// user name and password returns the account of the first call. A second call with
// another name or password returns events.ErrKeyReused. If the first call has not ended
// after a second, the second call returns events.ErrInFlight. RegisterOnce also returns
// the errors of Register, and a ThrottledError.
//
// The key's record covers only the user name of the request. The password is compared
// with the account's hash, because passwords can be guessed quickly from a fast digest.
func (s *Service) RegisterOnce(ctx context.Context, key events.IdempotencyKey, username, password, network string) (Account, error) {
	key.Payload = []byte(username)
	account, err := s.registered(ctx, key, password, network)
	if !errors.Is(err, events.ErrNotFound) {
		return account, err
	}
	account, err = s.register(ctx, &key, username, password, User)
	if errors.Is(err, events.ErrClaimed) || errors.Is(err, ErrTaken) {
		// The client may have sent the same request twice at the same time.
		first, lookupErr := s.registered(ctx, key, password, network)
		if !errors.Is(lookupErr, events.ErrNotFound) {
			return first, lookupErr
		}
	}
	return account, err
}

// registered returns the account that was registered under the key. It returns
// events.ErrNotFound if the key has no account. It returns events.ErrKeyReused if the
// account was registered with another user name or password.
func (s *Service) registered(ctx context.Context, key events.IdempotencyKey, password, network string) (Account, error) {
	stream, err := s.store.Opened(ctx, key)
	if err != nil {
		return Account{}, err
	}
	account, err := s.Account(ctx, stream.ID())
	if errors.Is(err, events.ErrNotFound) {
		return Account{}, events.ErrKeyReused
	}
	if err != nil {
		return Account{}, err
	}
	// A client that knows the key could guess the password with this call. So each
	// guess is counted and recorded like a sign-in attempt.
	_, err = s.reauthenticate(ctx, account.ID, password, network)
	switch {
	case errors.Is(err, ErrPassword), errors.Is(err, ErrAccessToken):
		return Account{}, events.ErrKeyReused
	case err != nil:
		return Account{}, err
	}
	return account, nil
}

// Register creates an account. It returns a policy.Refusal, ErrTaken or ErrBusy.
func (s *Service) Register(ctx context.Context, username, password string) (Account, error) {
	return s.register(ctx, nil, username, password, User)
}

// takenConstraints are the constraints that a registration violates if another account has
// the same name in any spelling, or a name that looks alike.
var takenConstraints = []string{"accounts_username_key_key", "accounts_username_skeleton_key"}

func (s *Service) register(ctx context.Context, once *events.IdempotencyKey, username, password string, role Role) (Account, error) {
	display, key, skeleton, err := policy.NewUsername(username)
	if err != nil {
		return Account{}, err
	}
	normal, err := policy.Password(password, username)
	if err != nil {
		return Account{}, err
	}
	erased := [][]byte{s.erasedName(key), s.erasedName(skeleton)}
	var taken bool
	err = s.pool.QueryRow(ctx, `
		select exists (select from accounts where username_key = $1 or username_skeleton = $2 or erased_name = any($3))`, key, skeleton, erased).Scan(&taken)
	if err != nil {
		return Account{}, fmt.Errorf("look up the user name: %w", err)
	}
	if taken {
		return Account{}, ErrTaken // no hash is computed for a taken name
	}
	hash, err := s.hash.Hash(ctx, normal)
	if err != nil {
		return Account{}, err
	}
	id := s.store.NewID()
	account := Account{ID: id, Username: display, Role: role, CreatedAt: s.now().UTC().Truncate(time.Microsecond)}
	err = s.store.Write(ctx, func(tx *events.Tx) error {
		_, err := tx.Exec(ctx, `
			insert into accounts (id, username, username_key, username_skeleton, password_hash, role, created_at)
			values ($1, $2, $3, $4, $5, $6, $7)`, account.ID, account.Username, key, skeleton, hash, account.Role, account.CreatedAt)
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && slices.Contains(takenConstraints, pg.ConstraintName) {
			return ErrTaken
		}
		if err != nil {
			return err
		}
		// An erasure may have freed the name since the first check. The insert has waited
		// for the erasure's transaction, so this query sees the erased name.
		if err := tx.QueryRow(ctx, `select exists (select from accounts where erased_name = any($1))`, erased).Scan(&taken); err != nil {
			return err
		}
		if taken {
			return ErrTaken
		}
		facts := []events.Fact{events.AccountRegistered{Username: account.Username}}
		if role != User {
			facts = append(facts, events.AccountRoleChanged{Role: string(role), By: byCommand})
		}
		if err := tx.AppendAccount(ctx, account.ID, facts...); err != nil {
			return err
		}
		if once == nil {
			return nil
		}
		return tx.Claim(ctx, *once, account.ID, events.AccountStream(account.ID))
	})
	if errors.Is(err, ErrTaken) {
		return Account{}, ErrTaken
	}
	if err != nil {
		return Account{}, fmt.Errorf("register an account: %w", err)
	}
	return account, nil
}

// accountColumns are the columns of the table accounts in the order in which
// scanAccount reads them.
const accountColumns = `id, username, role, created_at, disabled_at, erased_at`

func scanAccount(row pgx.CollectableRow) (Account, error) {
	var a Account
	var disabled, erased *time.Time
	err := row.Scan(&a.ID, &a.Username, &a.Role, &a.CreatedAt, &disabled, &erased)
	a.CreatedAt = a.CreatedAt.UTC()
	if disabled != nil {
		a.DisabledAt = disabled.UTC()
	}
	if erased != nil {
		a.ErasedAt = erased.UTC()
	}
	return a, err
}

// Account returns the current state of an account, or events.ErrNotFound.
func (s *Service) Account(ctx context.Context, id uuid.UUID) (Account, error) {
	rows, _ := s.pool.Query(ctx, `select `+accountColumns+` from accounts where id = $1 and id <> $2`, id, unknownAccount)
	account, err := pgx.CollectExactlyOneRow(rows, scanAccount)
	if errors.Is(err, pgx.ErrNoRows) {
		return Account{}, fmt.Errorf("account %s: %w", id, events.ErrNotFound)
	}
	if err != nil {
		return Account{}, fmt.Errorf("read account %s: %w", id, err)
	}
	return account, nil
}
