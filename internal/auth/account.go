package auth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"colophon/events"
	"colophon/internal/policy"
)

// nobody is the account of all names that no account has. Its key is empty, as
// no other one's is; it is disabled, and its password is not known to anybody.
var nobody = uuid.UUID{}

// ensureNobody makes nobody's row, or brings its hash up to date, so that it
// costs as much to check as any other.
func (s *Service) ensureNobody(ctx context.Context) error {
	var old string
	err := s.pool.QueryRow(ctx, `select password_hash from accounts where id = $1`, nobody).Scan(&old)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("find the row for unknown names: %w", err)
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
			values ($1, '', '', $2, $3, $3) on conflict (id) do nothing`, nobody, hash, created)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 1 {
			return tx.AppendAccount(ctx, nobody, events.AccountRegistered{})
		}
		_, err = tx.Exec(ctx, `update accounts set password_hash = $2 where id = $1`, nobody, hash)
		return err
	})
	if err != nil {
		return fmt.Errorf("make the row for unknown names: %w", err)
	}
	return nil
}

// RegisterOnce makes an account like Register; a registration under a key that
// has been used, with the same user name and password, returns the account that
// it made then. It also returns events.ErrKeyReused and events.ErrInFlight.
//
// What is remembered of the request is its user name. Its password is compared
// with the account's: a digest of it that is quick to compute would be quick to
// guess, too.
func (s *Service) RegisterOnce(ctx context.Context, key events.IdempotencyKey, username, password string) (Account, error) {
	key.Payload = []byte(username)
	account, err := s.registered(ctx, key, password)
	if !errors.Is(err, events.ErrNotFound) {
		return account, err
	}
	account, err = s.register(ctx, &key, username, password)
	if errors.Is(err, events.ErrClaimed) || errors.Is(err, ErrTaken) {
		// By the same request, which came twice at the same time?
		first, again := s.registered(ctx, key, password)
		if !errors.Is(again, events.ErrNotFound) {
			return first, again
		}
	}
	return account, err
}

// registered returns the account that a registration under the key has made, if
// the password is its own.
func (s *Service) registered(ctx context.Context, key events.IdempotencyKey, password string) (Account, error) {
	stream, err := s.store.Opened(ctx, key)
	if err != nil {
		return Account{}, err
	}
	account := Account{ID: stream.ID()}
	var hash string
	err = s.pool.QueryRow(ctx, `select username, password_hash, created_at from accounts where id = $1`, account.ID).
		Scan(&account.Username, &hash, &account.CreatedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return Account{}, events.ErrKeyReused
	}
	if err != nil {
		return Account{}, fmt.Errorf("look for the account of an idempotency key: %w", err)
	}
	account.CreatedAt = account.CreatedAt.UTC()
	match, _, err := s.hash.Check(ctx, policy.NormalPassword(password), hash)
	if err != nil {
		return Account{}, err
	}
	if !match {
		// Whoever knows the key can try passwords here as at a sign-in: so it
		// is on record as there.
		err := s.store.Write(ctx, func(tx *events.Tx) error {
			return tx.AppendAccount(ctx, account.ID, events.AccountSignInFailed{})
		})
		return Account{}, errors.Join(events.ErrKeyReused, err)
	}
	return account, nil
}

// Register makes an account. It returns a policy.Refusal, ErrTaken or ErrBusy.
func (s *Service) Register(ctx context.Context, username, password string) (Account, error) {
	return s.register(ctx, nil, username, password)
}

func (s *Service) register(ctx context.Context, once *events.IdempotencyKey, username, password string) (Account, error) {
	display, key, err := policy.Username(username)
	if err != nil {
		return Account{}, err
	}
	normal, err := policy.Password(password, username)
	if err != nil {
		return Account{}, err
	}
	var taken bool
	if err := s.pool.QueryRow(ctx, `select exists (select from accounts where username_key = $1)`, key).Scan(&taken); err != nil {
		return Account{}, fmt.Errorf("look for the user name: %w", err)
	}
	if taken {
		return Account{}, ErrTaken // without the price of a hash
	}
	hash, err := s.hash.Hash(ctx, normal)
	if err != nil {
		return Account{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Account{}, fmt.Errorf("make an account id: %w", err)
	}
	account := Account{ID: id, Username: display, CreatedAt: s.now().UTC().Truncate(time.Microsecond)}
	err = s.store.Write(ctx, func(tx *events.Tx) error {
		_, err := tx.Exec(ctx, `insert into accounts (id, username, username_key, password_hash, created_at) values ($1, $2, $3, $4, $5)`,
			account.ID, account.Username, key, hash, account.CreatedAt)
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.ConstraintName == "accounts_username_key_key" {
			return ErrTaken
		}
		if err != nil {
			return err
		}
		if err := tx.AppendAccount(ctx, account.ID, events.AccountRegistered{Username: account.Username}); err != nil {
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

// errMoved occurs when an account was changed while its password was hashed.
var errMoved = errors.New("the account has changed meanwhile")

// SignIn begins a session. It returns ErrCredentials or ErrBusy.
func (s *Service) SignIn(ctx context.Context, username, password string) (Tokens, error) {
	// What cannot be a name is one that no account has: it has nobody's key.
	_, key, _ := policy.Username(username)
	normal := policy.NormalPassword(password)
	for range 3 {
		tokens, err := s.signIn(ctx, key, normal)
		if !errors.Is(err, errMoved) {
			return tokens, err
		}
	}
	return Tokens{}, ErrBusy
}

// signIn looks at an account, its password and, in a transaction, at the
// account again.
func (s *Service) signIn(ctx context.Context, key, password string) (Tokens, error) {
	var account uuid.UUID
	var hash string
	var disabled bool
	err := s.pool.QueryRow(ctx, `
		select id, password_hash, disabled_at is not null from accounts
		where username_key in ($1, '') order by username_key desc limit 1`, key).Scan(&account, &hash, &disabled)
	if err != nil {
		return Tokens{}, fmt.Errorf("look for the user name: %w", err)
	}
	match, outdated, err := s.hash.Check(ctx, password, hash)
	if err != nil {
		return Tokens{}, err
	}
	if !match || disabled {
		err := s.store.Write(ctx, func(tx *events.Tx) error {
			return tx.AppendAccount(ctx, account, events.AccountSignInFailed{})
		})
		if err != nil {
			return Tokens{}, fmt.Errorf("record a failed sign-in: %w", err)
		}
		return Tokens{}, ErrCredentials
	}
	current := hash
	if outdated {
		if current, err = s.hash.Hash(ctx, password); err != nil {
			return Tokens{}, err
		}
	}
	signer := s.keys.fresh(ctx).signer(s.now()) // not inside, where it would need a second connection
	var tokens Tokens
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
		tokens, err = s.begin(ctx, tx, signer, account)
		return err
	})
	if err != nil {
		return Tokens{}, fmt.Errorf("begin a session: %w", err)
	}
	return tokens, nil
}
