// Package auth keeps accounts, their sessions and their API keys, and issues and verifies
// access tokens. It is the only package that knows how access tokens and API keys are made.
//
// Callers may rely on the following.
//
//   - Atomicity. A change to an account and the event about the change are one
//     transaction. No database connection is held while a password is hashed.
//   - Secrecy. The database holds Argon2id hashes of passwords, SHA-256 hashes of
//     refresh tokens and API keys, and signing keys wrapped by the master key. No error text
//     repeats a name, a password or a token.
//   - Equal time. A sign-in under an unknown name does the same work as a sign-in
//     with a wrong password. It makes the same queries, computes one hash with the
//     same parameters, and appends one event. After repeated failures it is delayed
//     in the same way. The events of all unknown names are in the stream of the zero
//     account id.
//   - Throttling. Wrong passwords delay the next sign-in attempt from the same
//     network ([ThrottledError]), in all processes. Other users are not affected. A
//     network is known for an account after a successful sign-in from that network.
//     A sign-in from a known network is never refused because of failures from other
//     networks or under other names.
//   - Bounded work. At most half of the processors hash passwords at a time. A
//     caller that waits too long for a processor gets [ErrBusy].
//     While [Service.Run] runs, [Service.Verify] queries the database only for
//     unknown keys, at most once a second.
//   - Refresh. A refresh token is exchanged once. A client that presents the token
//     again within [Grace] has lost the response or sent the request twice. That
//     client gets a new access token and the same refresh token as before. So a copied
//     refresh token cannot divide a session in two. A token that is presented after
//     Grace has been copied, and its session ends.
//   - Session limits. An account has at most 100 sessions. One more sign-in ends
//     the oldest session. A session ends RefreshTTL after its sign-in at the latest.
//     No access token outlives its session.
//   - Revocation. A session also ends when it is revoked or signed out, when a newer
//     session exceeds the limit, and when its refresh token is reused. It also ends
//     when its account is disabled, erased or removed, even if another program
//     writes the tables. The process that ended a session refuses the session's
//     access tokens at once. Every other process refuses these tokens when an event
//     of the account is announced (after about 50 ms). If the announcement is lost,
//     the process refuses them at its next poll (within a second). Contexts returned
//     by [Service.While] end at the same time.
//   - API keys. A key ends when it is revoked, or when its account is disabled, erased or
//     removed. Every process learns of it as of the end of a session, in the same time. A
//     password change, a sign-out and the end of all sessions leave keys valid. A process
//     queries the database only for keys that it has not read in the last five minutes, and
//     never for a malformed one. The time of a key's last use is written once a minute.
//   - Late commits. Revocation does not depend on clocks. Each process reads the
//     transactions that it has not seen, so a late commit is not missed. A process
//     that starts reads all recently ended sessions before it serves requests.
//   - Outages. After ten seconds without a successful poll, Verify accepts no
//     access token. It returns an error that is not ErrAccessToken until the
//     database answers again. One caller at a time polls, for at most two
//     seconds, and the other callers share the result. Contexts returned by While
//     stay open during an outage.
//   - Keys. [Service.Rotate] may be called at any time, while any number of processes
//     serve requests. Rotate makes no token invalid, unless the keys have leaked.
//
// A [Service] is safe for concurrent use. Any number of processes may share one
// database.
package auth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events"
	"colophon/internal/errcode"
	"colophon/internal/flight"
	"colophon/internal/vault"
)

var (
	// ErrTaken occurs when another account has the user name, in any spelling, or a name
	// that looks alike. It also occurs when an erased account had such a name.
	ErrTaken = errcode.New("username_taken", "the user name is taken")

	// ErrCredentials occurs when the user name is unknown, the password is wrong,
	// or the account is disabled.
	ErrCredentials = errcode.New("invalid_credentials", "the user name or the password is wrong")

	// ErrPassword occurs when a signed-in user enters their password again and the
	// password is wrong.
	ErrPassword = errcode.New("wrong_password", "the password is wrong")

	// ErrForbidden occurs when an account's role does not allow the operation.
	ErrForbidden = errcode.New("forbidden", "the role does not allow this")

	// ErrOwnAccount occurs when administrators try to disable their own account.
	ErrOwnAccount = errcode.New("own_account", "an account cannot disable itself")

	// ErrAccountErased occurs when the account to change has been erased.
	ErrAccountErased = errcode.New("account_erased", "the account has been erased")

	// ErrRefreshToken occurs when a refresh token is unknown, when the token was
	// exchanged more than Grace ago, or when its session has ended.
	ErrRefreshToken = errcode.New("invalid_refresh_token", "the refresh token is not valid")

	// ErrAccessToken occurs when an access token was not issued by this service or
	// is not valid now. The text of the error gives the reason, for the log.
	ErrAccessToken = errcode.New("invalid_access_token", "the access token is not valid")

	// ErrAPIKey occurs when an API key is malformed, unknown, revoked or expired. The text
	// of the error gives the reason, for the log.
	ErrAPIKey = errcode.New("invalid_api_key", "the API key is not valid")

	// ErrKeyName occurs when the name of an API key is empty or has other than printable
	// characters.
	ErrKeyName = errcode.New("key_name", "the name of an API key has printable characters only, and no space at its ends")

	// ErrTooManyKeys occurs when an account has its maximum number of API keys.
	ErrTooManyKeys = errcode.New("too_many_keys", "the account has 100 API keys, the limit")

	// ErrKeyExpired occurs when the expiry of a new API key is not in the future.
	ErrKeyExpired = errcode.New("expiry_in_past", "the expiry of the API key is in the past")

	// ErrBusy occurs when too many passwords are being hashed, or when the account
	// changed during the check. The caller may try again after a few seconds.
	ErrBusy = errcode.New("busy", "too many passwords are being checked at the moment")
)

// These are the default values of Options.
const (
	DefaultAccessTTL  = 30 * time.Minute
	DefaultRefreshTTL = 30 * 24 * time.Hour
)

// Options configure a Service.
type Options struct {
	Issuer     string        // member "iss" of the access tokens, usually the service's own URL
	Audience   string        // member "aud" of the access tokens
	AccessTTL  time.Duration // lifetime of an access token, or 0 for DefaultAccessTTL
	RefreshTTL time.Duration // lifetime of a session, or 0 for DefaultRefreshTTL

	Unthrottled bool // true in measurements, so that wrong passwords are not counted

	// HashMemory is the memory that one password hash uses, in KiB. The value 0 means
	// the production parameters. A value above 0 also reduces a hash to one pass. Such
	// a value is only for tests that do not test hashing.
	HashMemory uint32
}

// Role gives an account rights beyond its own data.
type Role string

// The roles of an account.
const (
	User    Role = "user"    // has no rights beyond its own data
	Auditor Role = "auditor" // reads other accounts and their events
	Admin   Role = "admin"   // has the rights of an auditor, and disables and enables accounts
)

// Account is a registered user. An erased account remains, without its name.
type Account struct {
	ID         uuid.UUID
	Username   string // as registered, or empty after the erasure
	Role       Role
	CreatedAt  time.Time
	DisabledAt time.Time // zero if the account is neither disabled nor erased
	ErasedAt   time.Time // zero if the account is not erased
}

// Service registers accounts, handles sign-ins and verifies access tokens. [New] creates
// a service. [Service.Run] must run for as long as the service is used.
type Service struct {
	pool     *pgxpool.Pool
	store    *events.Store
	vault    *vault.Vault
	options  Options
	hash     *hasher
	backoffs backoffs
	keys     *keyring
	ended    *endedSessions
	known    *knownKeys
	now      func() time.Time // the database's time

	pollInterval time.Duration // defaultPollInterval, except in tests
}

// New returns a service over a migrated database. If the database has no signing key
// or no account for unknown names, New creates them.
func New(ctx context.Context, pool *pgxpool.Pool, store *events.Store, v *vault.Vault, o Options) (*Service, error) {
	params := productionParams
	if o.HashMemory > 0 {
		params.Memory, params.Iterations = o.HashMemory, 1
	}
	now := func() time.Time { return store.Clock().Now() }
	return newService(ctx, pool, store, v, o, newHasher(params), clocks{now, time.Now})
}

// clocks are the clocks of a Service.
type clocks struct {
	now   func() time.Time // the database's time, for times that are stored or signed and for comparisons with them
	local func() time.Time // this process's time, for the age of data in memory; a change of the database's clock must not affect this age
}

func newService(ctx context.Context, pool *pgxpool.Pool, store *events.Store, v *vault.Vault, o Options, h *hasher, c clocks) (*Service, error) {
	if o.AccessTTL == 0 {
		o.AccessTTL = DefaultAccessTTL
	}
	if o.RefreshTTL == 0 {
		o.RefreshTTL = DefaultRefreshTTL
	}
	switch {
	case o.Issuer == "" || o.Audience == "":
		return nil, errors.New("access tokens need an issuer and an audience")
	case o.AccessTTL < time.Second:
		return nil, fmt.Errorf("access tokens would be valid for %v, want 1s or more", o.AccessTTL)
	case o.RefreshTTL < o.AccessTTL:
		return nil, fmt.Errorf("sessions would last %v, less than the %v of an access token", o.RefreshTTL, o.AccessTTL)
	}
	if err := store.Clock().Ensure(ctx, pool); err != nil {
		return nil, err
	}
	s := &Service{pool: pool, store: store, vault: v, options: o, hash: h, backoffs: productionBackoffs, now: c.now, pollInterval: defaultPollInterval}
	// A key may still sign for a short time after its retirement. This happens in a
	// process that has not read the new keys yet, and in a transaction that has begun.
	// The retention is long enough for both cases.
	s.keys = &keyring{
		pool: pool, vault: v, clocks: c,
		maxAge: keysMaxAge, publishAhead: keysPublishAhead, retention: o.AccessTTL + 2*keysMaxAge + 2*maxSkew,
		reads: flight.Group[*keySet]{Timeout: keysTimeout, Keep: keysMinInterval, Now: c.local},
	}
	if err := s.keys.open(ctx); err != nil {
		return nil, err
	}
	s.ended = newEndedSessions(pool, max(o.AccessTTL, keyTTL), c.local)
	s.known = newKnownKeys(c.local)
	if err := s.ended.poll(ctx); err != nil {
		return nil, err
	}
	if err := s.ensureUnknownAccount(ctx); err != nil {
		return nil, err
	}
	return s, nil
}
