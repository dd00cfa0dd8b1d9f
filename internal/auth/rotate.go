package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"time"

	"colophon/events"
)

// Rotation describes a change of the key that signs access tokens.
type Rotation struct {
	Key  string    // the id of the new key
	From time.Time // the time when the new key begins to sign
	Last time.Time // the time when the last access token of an earlier key expires
}

// Rotate creates a new signing key. The key is published at once and signs a few
// minutes later, when every process and every client of JWKS has read the key. The
// previous key verifies until its last access token has expired, so no request fails.
// Concurrent rotations are serialized. Each key signs for at least a second.
//
// If the keys have leaked, the new key signs at once. Within ten seconds every process
// refuses access tokens signed by any other key. Refresh tokens stay valid.
func (s *Service) Rotate(ctx context.Context, leaked bool) (Rotation, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Rotation{}, fmt.Errorf("create a signing key: %w", err)
	}
	key, err := newKey(private)
	if err != nil {
		return Rotation{}, fmt.Errorf("create a signing key: %w", err)
	}
	kid := key.KeyID()
	now := s.now().UTC().Truncate(time.Microsecond)
	r := Rotation{Key: kid, From: now, Last: now}
	err = s.store.Write(ctx, func(tx *events.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended('signing_keys', 0))`); err != nil {
			return err
		}
		if leaked {
			// Published keys that do not sign yet have leaked too, so all keys are deleted.
			if _, err := tx.Exec(ctx, `delete from signing_keys`); err != nil {
				return err
			}
		} else {
			if _, err := tx.Exec(ctx, `delete from signing_keys where retired_at < $1`, now.Add(-s.keys.retention)); err != nil {
				return err
			}
			// An earlier rotation may have published a key that does not sign yet. That key
			// must sign for at least a second before it retires.
			err := tx.QueryRow(ctx, `
				update signing_keys set retired_at = greatest($1, (select max(retired_at) from signing_keys) + interval '1 second')
				where retired_at is null returning retired_at`, now.Add(s.keys.publishAhead)).Scan(&r.From)
			if err != nil {
				return err
			}
			r.From = r.From.UTC()
			r.Last = r.From.Add(s.keys.retention)
		}
		master, err := s.keys.vault.Sealing(ctx, tx)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `insert into signing_keys (kid, wrapped, created_at, master_key_id) values ($1, $2, $3, $4)`,
			kid, master.Wrap(private.Seed(), purpose(kid)), now, master.ID())
		if err != nil {
			return err
		}
		// unknownAccount belongs to no user, so its stream holds the service's own events.
		return tx.AppendAccount(ctx, unknownAccount, events.AccountKeyRotated{Key: kid, From: r.From, Leaked: leaked})
	})
	if err != nil {
		return Rotation{}, fmt.Errorf("rotate the signing key: %w", err)
	}
	return r, nil
}
