package auth

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"colophon/internal/flight"
	"colophon/internal/vault"
)

const (
	// keysMaxAge is the time for which a process uses the keys that it has read. Run
	// reads the keys again after half of that time.
	keysMaxAge = 10 * time.Second

	// JWKSMaxAge is the time for which clients may use the result of JWKS.
	JWKSMaxAge = time.Minute

	// keysPublishAhead is the time between the publication of a new key and its first
	// signature. After that time every process and client has read the new key, or may
	// no longer use an older key set.
	keysPublishAhead = 2*keysMaxAge + JWKSMaxAge + 2*maxSkew + 30*time.Second

	// keysMinInterval is the minimum time between two reads of the keys, for any number
	// of requests.
	keysMinInterval = time.Second

	// keysTimeout bounds a read of the keys, because a request may be waiting for the
	// keys.
	keysTimeout = 2 * time.Second
)

// keyring holds the signing keys of the database in memory.
type keyring struct {
	pool         *pgxpool.Pool
	vault        *vault.Vault
	maxAge       time.Duration // keysMaxAge, except in tests
	publishAhead time.Duration // keysPublishAhead, except in tests
	retention    time.Duration // the time for which a key verifies after its retirement
	clocks

	current atomic.Pointer[keySet]
	reads   flight.Group[*keySet] // shares one read between callers, and keeps its result for keysMinInterval
}

// keySet is the result of one read of the keys. It is immutable.
type keySet struct {
	read    time.Time            // time of the read, by this process's clock
	sign    []signingKey         // the private keys, in the order in which they sign
	verify  map[string]publicKey // the keys that verify access tokens, by key id
	encoded []byte               // the public keys as a JWK set
}

type signingKey struct {
	key   jwk.Key
	until time.Time // time of the key's retirement, or zero if no retirement is planned
}

type publicKey struct {
	key   jwk.Key
	until time.Time // time from which the key verifies nothing, or zero if no retirement is planned
}

// reached reports whether now is at or after until. A zero until is never reached.
func reached(until, now time.Time) bool { return !until.IsZero() && !now.Before(until) }

// signer returns the key that signs at the given time. This is the first key that is
// not retired. The keys after it are published but do not sign yet. If all keys are
// retired, signer returns nil.
func (s *keySet) signer(now time.Time) jwk.Key {
	for _, k := range s.sign {
		if !reached(k.until, now) {
			return k.key
		}
	}
	return nil
}

// open reads the keys for the first time. If no key can sign, open creates one.
func (r *keyring) open(ctx context.Context) error {
	set, err := r.load(ctx)
	if err == nil && set.signer(r.now()) == nil {
		if err = r.create(ctx); err == nil {
			set, err = r.load(ctx)
		}
	}
	if err != nil {
		return err
	}
	if set.signer(r.now()) == nil {
		return errors.New("the database has no signing key, and a new one was not stored")
	}
	r.current.Store(set)
	return nil
}

// fresh returns keys that were read at most maxAge ago. If the database is unavailable,
// or another request is reading the keys, fresh returns older keys.
func (r *keyring) fresh(ctx context.Context) *keySet { return r.within(ctx, r.maxAge) }

// within returns keys that were read at most age ago. If the database is unavailable,
// or another request is reading the keys, within returns older keys.
func (r *keyring) within(ctx context.Context, age time.Duration) *keySet {
	set := r.current.Load()
	if r.local().Sub(set.read) > age && !r.reads.Busy(keysRead) { // while one request reads the keys, the other requests use the old keys
		if newer, err := r.reload(ctx); err == nil {
			return newer
		}
		// The old keys stay in use. The next read is at least keysMinInterval later.
	}
	return set
}

// lookup returns the public key with the given id. It returns ErrAccessToken if the key
// is unknown or retired, and another error if the keys could not be read.
func (r *keyring) lookup(ctx context.Context, kid string) (jwk.Key, error) {
	set := r.fresh(ctx)
	if _, ok := set.verify[kid]; !ok {
		var err error
		if set, err = r.newer(ctx, set); err != nil {
			return nil, err
		}
	}
	k, ok := set.verify[kid]
	if !ok || reached(k.until, r.now()) {
		return nil, fmt.Errorf("%w: the key is unknown or retired", ErrAccessToken)
	}
	return k.key, nil
}

// newer returns a key set that was read after the set seen. If seen was read less than
// keysMinInterval ago, newer may return seen itself.
func (r *keyring) newer(ctx context.Context, seen *keySet) (*keySet, error) {
	if set := r.current.Load(); set != seen {
		return set, nil // another request has read the keys
	}
	return r.reload(ctx)
}

// keysRead is the only key that a keyring uses in its flight.Group.
const keysRead = "signing keys"

// reload reads the keys. If a read is running or ended less than keysMinInterval ago,
// reload returns the result of that read.
func (r *keyring) reload(ctx context.Context) (*keySet, error) {
	return r.reads.Do(ctx, keysRead, func(ctx context.Context) (*keySet, error) {
		set, err := r.load(ctx)
		if err == nil {
			r.current.Store(set)
		}
		return set, err
	})
}

// create stores a new signing key. If a key without a planned retirement exists, create
// stores nothing and returns no error.
func (r *keyring) create(ctx context.Context) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("create a signing key: %w", err)
	}
	key, err := newKey(private)
	if err != nil {
		return fmt.Errorf("create a signing key: %w", err)
	}
	err = pgx.BeginTxFunc(ctx, r.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		master, err := r.vault.Sealing(ctx, tx)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `insert into signing_keys (kid, wrapped, created_at, master_key_id) values ($1, $2, $3, $4) on conflict do nothing`,
			key.KeyID(), master.Wrap(private.Seed(), purpose(key.KeyID())), r.now(), master.ID())
		return err
	})
	if err != nil {
		return fmt.Errorf("store a signing key: %w", err)
	}
	return nil
}

// purpose returns the purpose of a wrapped key. The purpose binds the key to its row.
func purpose(kid string) string { return vault.SigningKeyPurpose + kid }

// newKey returns a private key as a JWK. The key's id is its RFC 7638 thumbprint.
func newKey(private ed25519.PrivateKey) (jwk.Key, error) {
	key, err := jwk.FromRaw(private)
	if err != nil {
		return nil, err
	}
	sum, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return key, errors.Join(
		key.Set(jwk.KeyIDKey, base64.RawURLEncoding.EncodeToString(sum)),
		key.Set(jwk.AlgorithmKey, jwa.EdDSA),
		key.Set(jwk.KeyUsageKey, jwk.ForSignature),
	)
}

// row is a row of the table signing_keys.
type row struct {
	KID       string
	Wrapped   []byte
	MasterKey []byte // id of the master key; nil for a row of an earlier version
	RetiredAt *time.Time
}

// load reads the future signing keys, the current signing key, and the retired keys
// that still verify.
func (r *keyring) load(ctx context.Context) (*keySet, error) {
	read := r.local()
	rows, _ := r.pool.Query(ctx, `
		select kid, wrapped, master_key_id, retired_at from signing_keys
		where retired_at is null or retired_at > $1 order by retired_at desc nulls first, kid`, r.now().Add(-r.retention))
	stored, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return nil, fmt.Errorf("read the signing keys: %w", err)
	}
	set := &keySet{read: read, verify: map[string]publicKey{}}
	public := jwk.NewSet()
	for _, row := range stored {
		private, err := r.unwrap(row)
		if err != nil {
			return nil, fmt.Errorf("signing key %q: %w", row.KID, err)
		}
		key, err := private.PublicKey()
		if err != nil {
			return nil, fmt.Errorf("signing key %q: %w", row.KID, err)
		}
		if err := public.AddKey(key); err != nil {
			return nil, fmt.Errorf("signing key %q: %w", row.KID, err)
		}
		signer, verifier := signingKey{key: private}, publicKey{key: key}
		if row.RetiredAt != nil {
			signer.until, verifier.until = *row.RetiredAt, row.RetiredAt.Add(r.retention)
		}
		set.sign = append(set.sign, signer)
		set.verify[row.KID] = verifier
	}
	slices.Reverse(set.sign)
	if set.encoded, err = json.Marshal(public); err != nil {
		return nil, fmt.Errorf("encode the public keys: %w", err)
	}
	return set, nil
}

// unwrap returns the private key of a row.
func (r *keyring) unwrap(row row) (jwk.Key, error) {
	seed, err := r.vault.UnwrapSecret(row.Wrapped, purpose(row.KID), row.MasterKey)
	if err != nil {
		return nil, err
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("the key has %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	key, err := newKey(ed25519.NewKeyFromSeed(seed))
	if err != nil {
		return nil, err
	}
	if key.KeyID() != row.KID {
		return nil, errors.New("the id is not the thumbprint")
	}
	return key, nil
}

// JWKS returns the public keys that verify access tokens, as a JWK set (RFC 7517).
// The set holds the future signing keys, the current signing key, and recently retired
// keys. Clients may use the set for JWKSMaxAge.
func (s *Service) JWKS(ctx context.Context) []byte {
	return s.keys.fresh(ctx).encoded
}
