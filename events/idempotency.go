package events

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"colophon/internal/errcode"
	"colophon/internal/pg"
	"colophon/internal/vault"
)

var (
	// ErrClaimed occurs when another request with the same idempotency key has opened a
	// stream. Opened returns that stream.
	ErrClaimed = errors.New("the idempotency key has been used")

	// ErrInFlight occurs when another request with the same idempotency key has not
	// ended within a second.
	ErrInFlight = errcode.New("idempotency_key_in_flight", "a request with this idempotency key is under way")

	// ErrKeyReused occurs when a client sends an idempotency key again with a different
	// payload. It also occurs when the owner of the key has been erased.
	ErrKeyReused = errcode.New("idempotency_key_reused", "the idempotency key was used for something else")
)

const (
	// IdempotencyKeyTTL is the minimum time for which an idempotency key is remembered.
	IdempotencyKeyTTL = 24 * time.Hour

	// defaultClaimWait is the maximum time for which a claim waits for an uncommitted
	// claim of the same key.
	defaultClaimWait = time.Second
)

// IdempotencyKey identifies a request. The request opens only one stream, even if it is
// sent several times.
type IdempotencyKey struct {
	Scope   string // the caller and the route, within which the key is unique
	Key     string // the key that the client has chosen
	Payload []byte // the content of the request, without passwords
}

// hash returns the value under which the key is stored.
func (k IdempotencyKey) hash() []byte {
	h := sha256.New()
	for _, part := range []string{k.Scope, k.Key} {
		_ = binary.Write(h, binary.BigEndian, uint64(len(part)))
		h.Write([]byte(part))
	}
	return h.Sum(nil)
}

// fingerprint returns a digest of the payload. A repeated request must have the same
// fingerprint.
func (k IdempotencyKey) fingerprint() []byte {
	sum := sha256.Sum256(k.Payload)
	return sum[:]
}

// aad returns the associated data that binds a sealed fingerprint to its key.
func (k IdempotencyKey) aad() string { return requestAAD(k.hash()) }

func requestAAD(hash []byte) string { return fmt.Sprintf("idempotency key %x", hash) }

// Opened returns the stream that an earlier request with the same key has opened. It
// returns ErrNotFound if no request has used the key. It returns ErrKeyReused if the
// earlier request had another payload. A stream that Opened returns is as durable as if
// the earlier request had succeeded.
func (s *Store) Opened(ctx context.Context, k IdempotencyKey) (Stream, error) {
	stream, err := s.opened(ctx, k)
	if errors.Is(err, vault.ErrUnreadable) {
		stream, err = s.opened(ctx, k) // the owner's key may have been replaced between the reads
	}
	return stream, err
}

func (s *Store) opened(ctx context.Context, k IdempotencyKey) (Stream, error) {
	var stream Stream
	var owner uuid.UUID
	var sealed []byte
	err := s.pool.QueryRow(ctx, `select stream, owner, fingerprint from idempotency_keys where key_hash = $1`, k.hash()).
		Scan(&stream, &owner, &sealed)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", ErrNotFound
	}
	if err != nil {
		return "", fmt.Errorf("read an idempotency key: %w", err)
	}
	key, err := s.vault.Key(ctx, s.pool, owner)
	if errors.Is(err, vault.ErrErased) {
		return "", ErrKeyReused
	}
	if err != nil {
		return "", err
	}
	fingerprint, err := key.Open(sealed, k.aad())
	if err != nil {
		s.vault.Forget(owner)
		return "", err
	}
	if !bytes.Equal(fingerprint, k.fingerprint()) {
		return "", ErrKeyReused
	}
	// The earlier request may have failed while its commit waited for a synchronous
	// standby. This commit waits for the standby in its place.
	if _, err := s.pool.Exec(ctx, `select pg_logical_emit_message(true, 'colophon', '')`); err != nil {
		return "", fmt.Errorf("wait for the commit of an earlier request: %w", err)
	}
	return stream, nil
}

// Claim records that the request with the key k opens the given stream of the owner.
// Call it in the transaction that opens the stream. The owner must have a data key.
//
// If several claims of a key are concurrent, the first claim succeeds. The other claims
// wait for the first claim's transaction. If this transaction commits, they return
// ErrClaimed. If it is rolled back, one of the waiting claims succeeds. If it does not
// end within a second, they return ErrInFlight.
func (tx *Tx) Claim(ctx context.Context, k IdempotencyKey, owner uuid.UUID, stream Stream) error {
	key, err := tx.store.vault.Key(ctx, tx, owner)
	if err != nil {
		return err
	}
	var batch pgx.Batch
	batch.Queue(fmt.Sprintf(`set local lock_timeout = %d`, tx.store.claimWait.Milliseconds()))
	claimed := true
	batch.Queue(`
		insert into idempotency_keys (key_hash, owner, stream, fingerprint) values ($1, $2, $3, sealed_by($2, $5::integer, $4)) on conflict do nothing`,
		k.hash(), owner, stream, key.Seal(k.fingerprint(), k.aad()), key.Number()).
		Exec(func(tag pgconn.CommandTag) error { claimed = tag.RowsAffected() == 1; return nil })
	batch.Queue(`set local lock_timeout to default`)
	err = tx.SendBatch(ctx, &batch).Close()
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == "55P03" { // the code means lock_not_available
		return ErrInFlight
	}
	if err = sealRefused(err); err != nil {
		tx.store.forgetReplaced(err, owner)
		return fmt.Errorf("claim an idempotency key: %w", err)
	}
	if !claimed {
		return ErrClaimed
	}
	return nil
}

// ForgetIdempotencyKeys removes the keys that are older than IdempotencyKeyTTL. The
// streams of these keys remain. If a request is repeated after its key was removed, it
// opens another stream.
func (s *Store) ForgetIdempotencyKeys(ctx context.Context) error {
	_, err := pg.DeleteBatches(ctx, s.pool, forgetBatch, forgetTimeout, `
		delete from idempotency_keys where key_hash in (
			select key_hash from idempotency_keys where created_at < clock_timestamp() - $1::interval order by created_at limit $2)`,
		IdempotencyKeyTTL)
	if err != nil {
		return fmt.Errorf("remove old idempotency keys: %w", err)
	}
	return nil
}

const (
	forgetBatch   = 1000 // maximum number of rows that one statement deletes
	forgetTimeout = 10 * time.Second
)
