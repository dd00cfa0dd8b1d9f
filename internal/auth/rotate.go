package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"time"

	"colophon/events"
)

// Rotation is a change of the key that signs access tokens.
type Rotation struct {
	Key  string    // the id of the new key
	From time.Time // when it begins to sign
	Last time.Time // when the last token expires that an earlier key has signed
}

// Rotate makes a new signing key. It is published at once and signs a few
// minutes later, when every process and everybody who goes by JWKS knows it, and
// the key before it verifies for as long as what it signed is valid: so no
// request fails for it. Rotations take turns, and each key gets its time.
//
// If the keys have leaked, the new one signs at once and nothing that another
// one has signed is accepted, by any process after ten seconds; clients refresh.
func (s *Service) Rotate(ctx context.Context, leaked bool) (Rotation, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Rotation{}, fmt.Errorf("make a signing key: %w", err)
	}
	key, err := newKey(private)
	if err != nil {
		return Rotation{}, fmt.Errorf("make a signing key: %w", err)
	}
	kid := key.KeyID()
	wrapped := s.keys.vault.WrapSecret(private.Seed(), purpose(kid))
	now := s.now().UTC().Truncate(time.Microsecond)
	r := Rotation{Key: kid, From: now, Last: now}
	err = s.store.Write(ctx, func(tx *events.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended('signing_keys', 0))`); err != nil {
			return err
		}
		if leaked {
			// The keys that wait to sign have leaked with the others.
			if _, err := tx.Exec(ctx, `delete from signing_keys`); err != nil {
				return err
			}
		} else {
			if _, err := tx.Exec(ctx, `delete from signing_keys where retired_at < $1`, now.Add(-s.keys.keep)); err != nil {
				return err
			}
			// Not before the key that is waiting to sign has had its time.
			err := tx.QueryRow(ctx, `
				update signing_keys set retired_at = greatest($1, (select max(retired_at) from signing_keys) + interval '1 second')
				where retired_at is null returning retired_at`, now.Add(s.keys.ahead)).Scan(&r.From)
			if err != nil {
				return err
			}
			r.From = r.From.UTC()
			r.Last = r.From.Add(s.keys.keep)
		}
		_, err := tx.Exec(ctx, `insert into signing_keys (kid, wrapped, created_at) values ($1, $2, $3)`, kid, wrapped, now)
		if err != nil {
			return err
		}
		// The zero account is nobody's, and so stands for the service.
		return tx.AppendAccount(ctx, nobody, events.AccountKeyRotated{Key: kid, From: r.From, Leaked: leaked})
	})
	if err != nil {
		return Rotation{}, fmt.Errorf("rotate the signing key: %w", err)
	}
	return r, nil
}
