package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/events"
)

// maxAPIKeys is the maximum number of API keys of an account. Expired keys count until they
// are revoked or a new key needs their room.
const maxAPIKeys = 100

// MaxGenerations and MaxTokens are the largest limits of its own that an API key may have.
const (
	MaxGenerations = 1_000_000     // per minute
	MaxTokens      = 1_000_000_000 // per day
)

// Scope is a right of an API key. No scope includes another one.
type Scope string

// The scopes of an API key.
const (
	ScopeGenerate Scope = "generate" // submits, cancels and erases the account's jobs
	ScopeRead     Scope = "read"     // reads the account, its jobs and its events
	ScopeAdmin    Scope = "admin"    // does what the account's role allows with other accounts
)

// KeyOptions describe an API key to create.
type KeyOptions struct {
	Name        string    // for people
	Scopes      []Scope   // at least one
	Expires     time.Time // time from which the key is refused, or zero for never
	Generations int       // limit of generations per minute, or 0 for the service's limit
	Tokens      int       // budget of tokens per day (UTC) beside that of the account, or 0 for none
}

// APIKey is an API key without its secret.
type APIKey struct {
	ID      uuid.UUID
	Account uuid.UUID
	Prefix  string // the first characters of the key
	KeyOptions
	CreatedAt  time.Time
	LastUsedAt time.Time // to the minute; zero if the key has not been used
}

// Allows reports whether the key has a scope.
func (k *APIKey) Allows(scope Scope) bool { return slices.Contains(k.Scopes, scope) }

// CreateKey creates an API key of an account, and returns it with its secret. The secret is
// not stored, so nobody can read it again. The parameter by is the session of the caller, which
// must not have ended, or CommandLine.
//
// CreateKey returns ErrKeyName, ErrKeyExpired if the key would expire at once, ErrTooManyKeys, and
// ErrForbidden if the key has the scope admin and the account's role has no rights beyond its
// own data. If the session has ended, or the account is disabled or erased, it
// returns ErrAccessToken.
func (s *Service) CreateKey(ctx context.Context, by, account uuid.UUID, o KeyOptions) (APIKey, string, error) {
	secret, now := newAPIKey(), s.now().UTC().Truncate(time.Microsecond)
	o.Expires = o.Expires.UTC().Truncate(time.Microsecond)
	o.Scopes = slices.Compact(slices.Sorted(slices.Values(o.Scopes)))
	k := APIKey{ID: s.store.NewID(), Account: account, Prefix: secret[:keyShown], KeyOptions: o, CreatedAt: now}
	// A name is shown on terminals and beside other names, so it has no control characters.
	if o.Name == "" || o.Name != strings.TrimSpace(o.Name) || !utf8.ValidString(o.Name) || strings.ContainsFunc(o.Name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return APIKey{}, "", ErrKeyName
	}
	if !o.Expires.IsZero() && !now.Before(o.Expires) {
		return APIKey{}, "", ErrKeyExpired
	}
	hash := hashKey(secret)
	err := s.store.Write(ctx, func(tx *events.Tx) error {
		// The lock keeps the number of keys. A transaction that disables the account waits
		// for it, and then finds the new key.
		var role Role
		err := tx.QueryRow(ctx, `select role from accounts where id = $1 and id <> $2 and disabled_at is null for update`, account, unknownAccount).Scan(&role)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("%w: the account is gone", ErrAccessToken)
		}
		if err != nil {
			return err
		}
		// A replica may accept the session's access token for a second or two after its end.
		// Whoever ends a session locks the account too, so it is read after the lock.
		live := by == CommandLine
		if !live {
			if err := tx.QueryRow(ctx, `select exists (select from sessions where id = $1 and account = $2 and revoked_at is null)`, by, account).Scan(&live); err != nil {
				return err
			}
		}
		if !live {
			return errSessionEnded
		}
		if k.Allows(ScopeAdmin) && role == User {
			return ErrForbidden
		}
		if err := s.makeRoomForKey(ctx, tx, account, now); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			insert into api_keys (id, account, hash, prefix, name, scopes, generations, tokens, created_at, expires_at)
			values ($1, $2, $3, $4, $5, $6, nullif($7, 0), nullif($8, 0), $9, $10)`,
			k.ID, account, hash[:], k.Prefix, k.Name, k.Scopes, k.Generations, k.Tokens, now, nullTime(k.Expires))
		if err != nil {
			return err
		}
		return tx.AppendAccount(ctx, account, events.KeyCreated{
			Key: k.ID, Name: k.Name, Scopes: texts(k.Scopes), Expires: k.Expires, Generations: k.Generations, Tokens: k.Tokens, By: keyActor(by),
		})
	})
	if err != nil {
		return APIKey{}, "", fmt.Errorf("create an API key: %w", err)
	}
	return k, secret, nil
}

// makeRoomForKey removes the oldest expired keys if the account has maxAPIKeys. If none has
// expired, it returns ErrTooManyKeys.
func (s *Service) makeRoomForKey(ctx context.Context, tx *events.Tx, account uuid.UUID, now time.Time) error {
	var n int
	err := tx.QueryRow(ctx, `select count(*) from api_keys where account = $1 and revoked_at is null`, account).Scan(&n)
	if err != nil || n < maxAPIKeys {
		return err
	}
	tag, err := tx.Exec(ctx, `
		delete from api_keys where id in (
			select id from api_keys where account = $1 and revoked_at is null and expires_at <= $2 order by expires_at, id limit $3)`,
		account, now, n-maxAPIKeys+1)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrTooManyKeys
	}
	return err
}

// byHolder is the actor of a revocation by somebody who has presented the key itself.
const byHolder = "holder"

// keyActor returns the actor of an event about an API key. It is empty for the owner.
func keyActor(by uuid.UUID) string {
	if by == CommandLine {
		return byCommand
	}
	return ""
}

func texts(scopes []Scope) []string {
	list := make([]string, len(scopes))
	for i, scope := range scopes {
		list[i] = string(scope)
	}
	return list
}

// nullTime returns a time for the database, or nil for the zero time.
func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// keyColumns are the columns of api_keys in the order in which scanKey reads them.
const keyColumns = `id, account, prefix, name, scopes, coalesce(generations, 0), coalesce(tokens, 0), created_at, expires_at, last_used_at`

func scanKey(row pgx.CollectableRow) (APIKey, error) {
	var k APIKey
	var expires, used *time.Time
	err := row.Scan(&k.ID, &k.Account, &k.Prefix, &k.Name, &k.Scopes, &k.Generations, &k.Tokens, &k.CreatedAt, &expires, &used)
	k.CreatedAt = k.CreatedAt.UTC()
	if expires != nil {
		k.Expires = expires.UTC()
	}
	if used != nil {
		k.LastUsedAt = used.UTC()
	}
	return k, err
}

// APIKeys returns the keys of an account that are not revoked, the newest first. Expired keys
// are among them.
func (s *Service) APIKeys(ctx context.Context, account uuid.UUID) ([]APIKey, error) {
	rows, _ := s.pool.Query(ctx, `select `+keyColumns+` from api_keys where account = $1 and revoked_at is null order by id desc`, account)
	keys, err := pgx.CollectRows(rows, scanKey)
	if err != nil {
		return nil, fmt.Errorf("list the API keys: %w", err)
	}
	return keys, nil
}

// RevokeKey revokes a key of an account. This process refuses the key at once, and every
// other process within a second or two. The parameter by is as in CreateKey. If the account
// has no such key, or the key is revoked, RevokeKey returns events.ErrNotFound.
func (s *Service) RevokeKey(ctx context.Context, by, account, id uuid.UUID) error {
	return s.revokeKey(ctx, account, id, keyActor(by))
}

func (s *Service) revokeKey(ctx context.Context, account, id uuid.UUID, by string) error {
	err := s.store.Write(ctx, func(tx *events.Tx) error {
		tag, err := tx.Exec(ctx, `update api_keys set revoked_at = $3 where id = $1 and account = $2 and revoked_at is null`, id, account, s.now())
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return events.ErrNotFound
		}
		return tx.AppendAccount(ctx, account, events.KeyRevoked{Key: id, By: by})
	})
	if err != nil {
		return fmt.Errorf("revoke API key %s: %w", id, err)
	}
	s.ended.add(id)
	return nil
}

// revokePresented revokes the key that a text is, for everybody who has the key. An unknown
// key is no error.
func (s *Service) revokePresented(ctx context.Context, text string) error {
	if !wellFormed(text) {
		return nil
	}
	k, err := s.readKey(ctx, hashKey(text))
	if errors.Is(err, ErrAPIKey) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.revokeKey(ctx, k.Account, k.ID, byHolder); !errors.Is(err, events.ErrNotFound) {
		return err
	}
	return nil
}

// endKeys revokes all keys of an account and returns their ids. The caller does as with
// endAll, which has to come first.
func (s *Service) endKeys(ctx context.Context, tx *events.Tx, account uuid.UUID) ([]uuid.UUID, error) {
	rows, _ := tx.Query(ctx, `update api_keys set revoked_at = $2 where account = $1 and revoked_at is null returning id`, account, s.now())
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}
