package events

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"colophon/internal/vault"
	"colophon/model/watermark"
)

// ErrWatermarkUnreadable occurs when this process cannot open an owner's watermark key,
// because it lacks the master key or because the stored key is damaged.
var ErrWatermarkUnreadable = errors.New("the owner's watermark key cannot be opened")

// FindWatermarkKey returns the key that marks an owner's texts. Found is false if the owner
// has none yet, and then no text of the owner is marked. The error is vault.ErrErased for an
// erased owner, or ErrWatermarkUnreadable. FindWatermarkKey creates nothing.
func (s *Store) FindWatermarkKey(ctx context.Context, owner uuid.UUID) (key watermark.Key, found bool, err error) {
	secret, found, err := s.vault.FindWatermarkSecret(ctx, s.pool, owner)
	if errors.Is(err, vault.ErrUnreadable) {
		err = fmt.Errorf("%w: %w", ErrWatermarkUnreadable, err)
	}
	if !found || err != nil {
		return key, false, err
	}
	return watermark.NewKey(secret), true, nil
}

// WatermarkKey is like FindWatermarkKey, but creates the key if the owner has none. All
// processes get the same key.
func (s *Store) WatermarkKey(ctx context.Context, owner uuid.UUID) (key watermark.Key, err error) {
	secret, err := s.vault.WatermarkSecret(ctx, s.pool, owner)
	if err != nil {
		return key, err
	}
	return watermark.NewKey(secret), nil
}
