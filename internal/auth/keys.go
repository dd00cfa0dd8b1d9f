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
	// keysFor is how long a process goes by the keys that it has read; Run reads
	// them anew at half of that.
	keysFor = 10 * time.Second

	// JWKSFor is how long others may go by what JWKS has told them.
	JWKSFor = time.Minute

	// keysAhead is how long a new key is published before it signs: everybody
	// has read it by then, or may not go by what he has read before.
	keysAhead = 2*keysFor + JWKSFor + 2*maxSkew + 30*time.Second

	// keysEvery is how often at most the keys are read, whatever tokens come.
	keysEvery = time.Second

	// keysTimeout bounds the reading, for which a request may be waiting.
	keysTimeout = 2 * time.Second
)

// keyring has the signing keys of the database in memory.
type keyring struct {
	pool  *pgxpool.Pool
	vault *vault.Vault
	known time.Duration // keysFor
	ahead time.Duration // keysAhead
	keep  time.Duration // how long after its retirement a key verifies
	now   func() time.Time

	current atomic.Pointer[keySet]
	reads   flight.Group[*keySet] // keeps a result for keysEvery
}

// keySet is the keys as they were read together. It does not change.
type keySet struct {
	read    time.Time
	sign    []signingKey         // in the order in which they do
	verify  map[string]publicKey // by key id
	encoded []byte               // the public keys as a JWK set
}

type signingKey struct {
	key   jwk.Key
	until time.Time // when it retires; zero if that has not been decided
}

type publicKey struct {
	key   jwk.Key
	until time.Time // zero: not to be retired
}

// over reports whether a time has come that may not have been set.
func over(until, now time.Time) bool { return !until.IsZero() && !now.Before(until) }

// signer returns the key that signs at a time: the first that is not retired
// then. Its successors are published, and wait.
func (s *keySet) signer(now time.Time) jwk.Key {
	for _, k := range s.sign {
		if !over(k.until, now) {
			return k.key
		}
	}
	return nil
}

// open reads the keys for the first time, and makes one if there is none.
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
		return errors.New("the database has no signing key, and does not take one")
	}
	r.current.Store(set)
	return nil
}

// fresh returns the keys, read not long ago if the database can be reached.
func (r *keyring) fresh(ctx context.Context) *keySet { return r.within(ctx, r.known) }

// within returns keys of a certain age at most, if the database can be reached.
func (r *keyring) within(ctx context.Context, age time.Duration) *keySet {
	set := r.current.Load()
	if r.now().Sub(set.read) > age && !r.reads.Busy(keysRead) { // one request reads, the others go on
		if newer, err := r.reload(ctx); err == nil {
			return newer
		}
		// The known keys must do; the next try is keysEvery later.
	}
	return set
}

// lookup returns the public key with an id. It returns ErrAccessToken if there
// is none, and another error if that could not be found out.
func (r *keyring) lookup(ctx context.Context, kid string) (jwk.Key, error) {
	set := r.fresh(ctx)
	if _, ok := set.verify[kid]; !ok {
		var err error
		if set, err = r.newer(ctx, set); err != nil {
			return nil, err
		}
	}
	k, ok := set.verify[kid]
	if !ok || over(k.until, r.now()) {
		return nil, fmt.Errorf("%w: the key is unknown or retired", ErrAccessToken)
	}
	return k.key, nil
}

// newer returns the keys after seen, which are the same ones if it was read
// only just now.
func (r *keyring) newer(ctx context.Context, seen *keySet) (*keySet, error) {
	if set := r.current.Load(); set != seen {
		return set, nil // another request has read them
	}
	return r.reload(ctx)
}

// keysRead is the only key of keyring.reads.
const keysRead = "signing keys"

// reload reads the keys, or returns those that were read less than keysEvery ago.
func (r *keyring) reload(ctx context.Context) (*keySet, error) {
	return r.reads.Do(ctx, keysRead, func(ctx context.Context) (*keySet, error) {
		set, err := r.load(ctx)
		if err == nil {
			r.current.Store(set)
		}
		return set, err
	})
}

// create makes a signing key, unless there is one already that signs.
func (r *keyring) create(ctx context.Context) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	key, err := newKey(private)
	if err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	_, err = r.pool.Exec(ctx, `insert into signing_keys (kid, wrapped, created_at) values ($1, $2, $3) on conflict do nothing`,
		key.KeyID(), r.vault.WrapSecret(private.Seed(), purpose(key.KeyID())), r.now())
	if err != nil {
		return fmt.Errorf("store a signing key: %w", err)
	}
	return nil
}

// purpose binds a wrapped key to its row.
func purpose(kid string) string { return "signing key " + kid }

// newKey returns a private key as a JWK, whose id is its RFC 7638 thumbprint.
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

// row is a signing key as it is stored.
type row struct {
	KID       string
	Wrapped   []byte
	RetiredAt *time.Time
}

// load reads the keys that will sign, sign or still verify, in that order.
func (r *keyring) load(ctx context.Context) (*keySet, error) {
	now := r.now()
	rows, _ := r.pool.Query(ctx, `
		select kid, wrapped, retired_at from signing_keys
		where retired_at is null or retired_at > $1 order by retired_at desc nulls first, kid`, now.Add(-r.keep))
	stored, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return nil, fmt.Errorf("read the signing keys: %w", err)
	}
	set := &keySet{read: now, verify: map[string]publicKey{}}
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
			signer.until, verifier.until = *row.RetiredAt, row.RetiredAt.Add(r.keep)
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
	seed, err := r.vault.UnwrapSecret(row.Wrapped, purpose(row.KID))
	if err != nil {
		return nil, err
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("it has %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	key, err := newKey(ed25519.NewKeyFromSeed(seed))
	if err != nil {
		return nil, err
	}
	if key.KeyID() != row.KID {
		return nil, errors.New("its id is not its thumbprint")
	}
	return key, nil
}

// JWKS returns the public keys that verify access tokens, as a JWK set (RFC
// 7517): those that will sign, the one that does, and those retired not long
// ago. It may be gone by for JWKSFor.
func (s *Service) JWKS(ctx context.Context) []byte {
	return s.keys.fresh(ctx).encoded
}
