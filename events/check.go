package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"colophon/internal/vault"
)

// Row is a row of the table events, for a check of the whole log.
type Row struct {
	Stream  Stream
	Version int
	Owner   uuid.UUID
	Type    string
	Schema  int
	At      time.Time
	Payload []byte
	Sealed  []byte
	Erased  bool // the stream has the event job.erased, and this is another one
}

// ErrNoKey occurs when the sealed members of an event cannot be compared with their
// commitments, because its owner's key is gone or cannot be opened.
var ErrNoKey = errors.New("the owner's key is gone or cannot be opened, so the sealed members were not checked")

// CheckRow returns an error unless a row is as the service has written it: its columns agree
// with the payload, the payload has the hash of the event before it, and the sealed members
// are those that the payload commits to. The rows of an erased job must have no sealed
// members. previous is the row before it in the stream, or nil
// if there is none. It does not check the owner of an erased job, which nothing but the
// emptied ciphertext names.
//
// The rows may be of an older snapshot if its transaction has called vault.KeepKeys at its
// start.
//
// The error is a [Damage], or [ErrNoKey] if nothing else is wrong. Other errors are errors of
// the database.
func (s *Store) CheckRow(ctx context.Context, r Row, previous *Row) error {
	var before *storedEvent
	if previous != nil {
		before = new(previous.stored())
		if r.Version != previous.Version+1 || r.Stream != previous.Stream || r.Owner != previous.Owner {
			return r.stored().damage(misplaced)
		}
	} else if r.Version != 1 {
		return r.stored().damage(unchained)
	}
	key, err := s.vault.Key(ctx, s.pool, r.Owner)
	unreadable := errors.Is(err, vault.ErrUnreadable)
	if err != nil && !unreadable && !errors.Is(err, vault.ErrErased) {
		return fmt.Errorf("check %s@%d: %w", r.Stream, r.Version, err)
	}
	e, err := r.stored().decode(before, key)
	if hasReason(err, missing, unopenable) {
		s.vault.Forget(r.Owner) // the key in memory may be older than the row
		e, err = s.decodeWith(ctx, s.pool, r.stored(), before, s.vault.Reload)
	}
	switch {
	case hasReason(err, keyless):
		return ErrNoKey
	case err != nil:
		return err
	case !e.At.Equal(r.At):
		return r.stored().damage(misplaced)
	case e.Erased && !r.Erased && (unreadable || r.Sealed != nil):
		return ErrNoKey // a key that is gone may hide a changed ciphertext, which an erasure would have emptied
	}
	return nil
}

func (r Row) stored() storedEvent {
	return storedEvent{Stream: r.Stream, Version: r.Version, Owner: r.Owner, Type: r.Type, Schema: r.Schema, Payload: r.Payload, Sealed: r.Sealed, Erased: r.Erased}
}
