package events

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"colophon/events/receipt"
	"colophon/internal/vault"
)

// Evidence is the part of a receipt that the events of a job contain.
type Evidence struct {
	Job Job // the fold of the events

	Payloads [][]byte // from version 1 on
	Schemas  []int    // of the payloads

	// Openings show secret members, by version and name.
	Openings map[int]map[string]receipt.Opening
}

// Evidence returns the payloads of a job's events, and openings of the secret members that
// the names select, such as "prompt". Members whose ciphertext is gone are not opened. It
// returns ErrNotFound, or ErrDamaged if an event cannot be used. It checks no owner.
func (s *Store) Evidence(ctx context.Context, id uuid.UUID, names []string) (Evidence, error) {
	e, err := s.evidence(ctx, id, names)
	if errors.Is(err, vault.ErrUnreadable) {
		e, err = s.evidence(ctx, id, names) // the owner's key may have been replaced between the reads
	}
	return e, err
}

func (s *Store) evidence(ctx context.Context, id uuid.UUID, names []string) (e Evidence, err error) {
	stored, err := storedEvents(s.pool.Query(ctx, `select `+eventColumns+` from events where stream = $1 order by version`, JobStream(id)))
	if err != nil {
		return e, fmt.Errorf("read the evidence of %s: %w", JobStream(id), err)
	}
	if len(stored) == 0 {
		return e, fmt.Errorf("%s: %w", JobStream(id), ErrNotFound)
	}
	events, err := s.decodeAll(ctx, s.pool, stored)
	if err == nil {
		e.Job, err = foldStream(events)
	}
	if err != nil {
		return e, s.setAside(ctx, err)
	}
	key, err := s.vault.Key(ctx, s.pool, stored[0].Owner)
	if err != nil && !errors.Is(err, vault.ErrErased) {
		return e, err
	}
	e.Openings = map[int]map[string]receipt.Opening{}
	for _, r := range stored {
		e.Payloads, e.Schemas = append(e.Payloads, r.Payload), append(e.Schemas, r.Schema)
		if key == nil || r.Sealed == nil {
			continue
		}
		opened, err := r.open(names, key)
		if err != nil {
			s.vault.Forget(r.Owner)
			return e, fmt.Errorf("open %s: %w", aad(r.Stream, r.Version), err)
		}
		if len(opened) > 0 {
			e.Openings[r.Version] = opened
		}
	}
	return e, nil
}

// open returns openings of the event's secret members that names contains.
func (r storedEvent) open(names []string, key *vault.Key) (map[string]receipt.Opening, error) {
	s, _, err := readEnvelope(r.Payload)
	if err != nil {
		return nil, err
	}
	box, err := r.openMembers(s, key)
	if err != nil {
		return nil, err
	}
	opened := map[string]receipt.Opening{}
	for name, value := range box.Members {
		if slices.Contains(names, name) {
			opened[name] = receipt.Opening{Blinding: receipt.Blinding(box.Seed, name), Value: value}
		}
	}
	return opened, nil
}
