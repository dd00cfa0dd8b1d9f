package auth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/events"
)

// Session is a live session of an account. All times are in UTC.
type Session struct {
	ID          uuid.UUID
	CreatedAt   time.Time // time of the sign-in
	RefreshedAt time.Time // time at which the session last got a new refresh token, by the sign-in or by Refresh
	ExpiresAt   time.Time
}

// Sessions returns the live sessions of an account, newest first. There are at most 100.
func (s *Service) Sessions(ctx context.Context, account uuid.UUID) ([]Session, error) {
	rows, _ := s.pool.Query(ctx, `
		select id, created_at, coalesce((select max(issued_at) from refresh_tokens where session = sessions.id), created_at), expires_at
		from sessions where account = $1 and revoked_at is null and expires_at > $2
		order by created_at desc, id desc limit $3`, account, s.now(), maxSessions)
	live, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l Session, err error) {
		err = row.Scan(&l.ID, &l.CreatedAt, &l.RefreshedAt, &l.ExpiresAt)
		l.CreatedAt, l.RefreshedAt, l.ExpiresAt = l.CreatedAt.UTC(), l.RefreshedAt.UTC(), l.ExpiresAt.UTC()
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("list the sessions of %s: %w", account, err)
	}
	return live, nil
}

// EndSession ends a session of an account. It changes nothing if the session has ended
// already. It returns events.ErrNotFound if the session is unknown or belongs to another
// account. A session is unknown some time after its end.
func (s *Service) EndSession(ctx context.Context, account, session uuid.UUID) error {
	err := s.store.Write(ctx, func(tx *events.Tx) error {
		locked, err := s.lockSession(ctx, tx, session)
		switch {
		case errors.Is(err, ErrRefreshToken), err == nil && locked.account != account:
			return events.ErrNotFound
		case err != nil || !locked.live:
			return err
		}
		return s.endSession(ctx, tx, locked, events.AccountSignedOut{Session: session})
	})
	if err != nil {
		return fmt.Errorf("end a session: %w", err)
	}
	s.ended.add(session)
	return nil
}
