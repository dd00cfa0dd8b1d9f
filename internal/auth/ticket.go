package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"colophon/events"
)

const (
	// TicketTTL is the lifetime of a ticket.
	TicketTTL = 30 * time.Second

	// maxTickets is the maximum number of unused tickets of a session. One more ticket
	// replaces the oldest ticket.
	maxTickets = 32

	// ticketPrefix distinguishes tickets from other secrets.
	ticketPrefix = "cst_"
)

// hashTicket returns the hash under which a ticket is stored.
func hashTicket(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

// Ticket returns a secret for clients that cannot set headers. The secret authenticates
// the identity once, at the given path, within TicketTTL. If the session has ended,
// Ticket returns ErrAccessToken.
func (s *Service) Ticket(ctx context.Context, id Identity, path string) (string, error) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // rand.Read never returns an error
	text := ticketPrefix + base64.RawURLEncoding.EncodeToString(secret[:])
	now := s.now()
	err := s.store.Write(ctx, func(tx *events.Tx) error {
		_, err := tx.Exec(ctx, `
			delete from tickets where hash in (
				select hash from tickets where session = $1 order by expires_at desc offset $2)`, id.Session, maxTickets-1)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			insert into tickets (hash, session, path, expires_at, access_until)
			select $1, id, $3, $4, $5 from sessions where id = $2 and revoked_at is null`,
			hashTicket(text), id.Session, path, now.Add(TicketTTL), id.Expires)
		if err == nil && tag.RowsAffected() == 0 {
			err = errSessionEnded
		}
		return err
	})
	if errors.Is(err, ErrAccessToken) {
		return "", err
	}
	if err != nil {
		return "", fmt.Errorf("create a ticket: %w", err)
	}
	return text, nil
}

// Redeem removes a ticket and returns the ticket's identity, or ErrAccessToken. A ticket
// that is presented at a wrong path is removed too.
func (s *Service) Redeem(ctx context.Context, ticket, path string) (Identity, error) {
	if len(ticket) != len(ticketPrefix)+43 || !strings.HasPrefix(ticket, ticketPrefix) {
		return Identity{}, fmt.Errorf("%w: it is not a ticket", ErrAccessToken)
	}
	var id Identity
	var bound string // the path for which the ticket was created
	var expires time.Time
	var live bool
	err := s.pool.QueryRow(ctx, `
		delete from tickets t using sessions s where t.hash = $1 and s.id = t.session
		returning s.account, s.id, s.revoked_at is null, t.path, t.expires_at, t.access_until`, hashTicket(ticket)).
		Scan(&id.Account, &id.Session, &live, &bound, &expires, &id.Expires)
	if errors.Is(err, pgx.ErrNoRows) {
		return Identity{}, fmt.Errorf("%w: the ticket is unknown or was used", ErrAccessToken)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("redeem a ticket: %w", err)
	}
	if now := s.now(); !live || bound != path || !now.Before(expires) || !now.Before(id.Expires) {
		return Identity{}, fmt.Errorf("%w: the ticket has expired or is for something else", ErrAccessToken)
	}
	id.Expires = id.Expires.UTC()
	return id, nil
}
