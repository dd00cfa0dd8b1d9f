// Package auth keeps accounts, their sessions and the access tokens that speak
// for them. It is the only package that knows how access tokens are made.
//
// What a caller may rely on:
//
//   - Atomicity. What happens to an account and the event that says so are one
//     transaction. No database connection is held while a password is hashed.
//   - Secrecy. The database has Argon2id hashes of passwords, SHA-256 hashes of
//     refresh tokens, and signing keys wrapped by the master key. No error text
//     repeats a name, a password or a token.
//   - Equal time. A sign-in under a name that no account has does what one with
//     a wrong password does: the same queries, one hash with the same
//     parameters, one event (on the stream of the zero account id, which stands
//     for all such names), the same waiting after several.
//   - Throttling. Wrong passwords make the next attempt from the same network
//     wait ([ThrottledError]), in all processes, and that of nobody else: a
//     network from which an account has been signed in to is never refused for
//     what others did.
//   - Bounded work. At most half of the processors hash passwords at a time,
//     whatever number of callers wait; a caller that would wait too long gets
//     [ErrBusy]. [Service.Verify] does not ask the database while [Service.Run] runs.
//   - Sessions. A refresh token is exchanged once. When it comes again later
//     than [Grace] after that, it has been copied, so its session ends. Within
//     Grace it is a client that lost the answer or asked twice, and gets another
//     pair; both pairs live on. An account has 100 sessions at most: another
//     sign-in ends the oldest. A session ends for good RefreshTTL after its
//     sign-in, and no access token outlives that.
//   - Endings. When a session ends earlier (revoked, signed out, its place
//     needed, its refresh token reused, its account disabled, erased or removed, by whatever writes
//     the tables), Verify refuses its access tokens: at once in the process
//     whose call ended it, and in every other one as soon as it hears of an
//     event of the account (some 50 ms), or, if that announcement is lost, when
//     it next asks, a second later. What [Service.While] has returned ends then
//     too. This does not rest on clocks: each process asks for the transactions
//     that it has not seen, and a late commit is not missed. A process that
//     starts reads what may matter before it serves. One that cannot ask for ten
//     seconds does not say of any access token that it is good: Verify returns
//     an error that is not ErrAccessToken until the database answers again. One
//     caller asks meanwhile, for two seconds at the most, and the others wait
//     for what he learns.
//     What While has returned goes on meanwhile.
//   - Keys. [Service.Rotate] may be called at any time, with any number of
//     processes at work: no token is refused for it.
//
// A [Service] is safe for concurrent use, and any number of processes may have
// one over the same database.
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
	// ErrTaken occurs when a user name is registered that an account has, in
	// whatever spelling.
	ErrTaken = errcode.New("username_taken", "the user name is taken")

	// ErrCredentials occurs when a user name and a password do not belong
	// together, or the account is disabled.
	ErrCredentials = errcode.New("invalid_credentials", "the user name or the password is wrong")

	// ErrPassword occurs when somebody who is signed in has to give the password
	// once more, and gives another one.
	ErrPassword = errcode.New("wrong_password", "the password is wrong")

	// ErrForbidden occurs when an account's role does not allow what it asks for.
	ErrForbidden = errcode.New("forbidden", "the role does not allow this")

	// ErrOneself occurs when administrators try to disable their own account.
	ErrOneself = errcode.New("own_account", "an account cannot disable itself")

	// ErrAccountErased occurs when an account is to be changed that has been erased.
	ErrAccountErased = errcode.New("account_erased", "the account has been erased")

	// ErrRefreshToken occurs when a refresh token is unknown, was exchanged
	// before, or belongs to a session that has ended.
	ErrRefreshToken = errcode.New("invalid_refresh_token", "the refresh token is not valid")

	// ErrAccessToken occurs when an access token is not one of this service's
	// that is valid now. The text of the error has the reason, for the log.
	ErrAccessToken = errcode.New("invalid_access_token", "the access token is not valid")

	// ErrBusy occurs when so many passwords are being hashed that this one
	// would have to wait too long. Trying again in a few seconds helps.
	ErrBusy = errcode.New("busy", "too many passwords are being checked at the moment")
)

// Defaults of Options.
const (
	DefaultAccessTTL  = 30 * time.Minute
	DefaultRefreshTTL = 30 * 24 * time.Hour
)

// Options of a Service.
type Options struct {
	Issuer     string        // "iss" of the access tokens, usually the service's own URL
	Audience   string        // "aud" of the access tokens
	AccessTTL  time.Duration // how long an access token is valid; 0 means DefaultAccessTTL
	RefreshTTL time.Duration // how long a session lasts; 0 means DefaultRefreshTTL

	Unthrottled bool // count no wrong passwords, for measurements

	// HashMemory is how many KiB the hash of a password takes, in one pass;
	// 0 means what is safe, and anything else is for tests of other things.
	HashMemory uint32
}

// Role is what an account may do besides what is its own.
type Role string

// The roles of an account.
const (
	User    Role = "user"    // nothing
	Auditor Role = "auditor" // look at other accounts and what happened to them
	Admin   Role = "admin"   // that, and disable and enable them
)

// Account is somebody who can sign in, or could once.
type Account struct {
	ID         uuid.UUID
	Username   string // as registered; empty once erased
	Role       Role
	CreatedAt  time.Time
	DisabledAt time.Time // zero if the account is not disabled; erased ones are
	ErasedAt   time.Time // zero if the account is not erased
}

// Service registers accounts, signs them in and recognises them. Use [New], and
// keep [Service.Run] running for as long as the service is used.
type Service struct {
	pool    *pgxpool.Pool
	store   *events.Store
	vault   *vault.Vault
	options Options
	hash    *hasher
	paces   paces
	keys    *keyring
	ended   *endings
	now     func() time.Time
}

// New returns a service over a migrated database, in which it makes what it
// needs and does not find: the first signing key, and the row for unknown names.
func New(ctx context.Context, pool *pgxpool.Pool, store *events.Store, v *vault.Vault, o Options) (*Service, error) {
	params := productionParams
	if o.HashMemory > 0 {
		params.Memory, params.Iterations = o.HashMemory, 1
	}
	return newService(ctx, pool, store, v, o, newHasher(params), time.Now)
}

func newService(ctx context.Context, pool *pgxpool.Pool, store *events.Store, v *vault.Vault, o Options, h *hasher, now func() time.Time) (*Service, error) {
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
	s := &Service{pool: pool, store: store, vault: v, options: o, hash: h, paces: productionPaces, now: now}
	// A key signs after its retirement where that is not known yet, and in
	// transactions that have begun.
	s.keys = &keyring{
		pool: pool, vault: v, now: now,
		known: keysFor, ahead: keysAhead, keep: o.AccessTTL + 2*keysFor + 2*maxSkew,
		reads: flight.Group[*keySet]{Timeout: keysTimeout, Keep: keysEvery, Now: now},
	}
	if err := s.keys.open(ctx); err != nil {
		return nil, err
	}
	s.ended = newEndings(pool, o.AccessTTL, now)
	if err := s.ended.look(ctx); err != nil {
		return nil, err
	}
	if err := s.ensureNobody(ctx); err != nil {
		return nil, err
	}
	return s, nil
}
