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

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/events"
)

const (
	// TicketTTL is the lifetime of a ticket that nobody redeems.
	TicketTTL = 30 * time.Second

	// ResumeTTL is the longest time for which a redeemed ticket opens its stream again.
	ResumeTTL = time.Hour

	// maxTickets is the maximum number of unused tickets of a session or an API key. One more
	// ticket replaces the oldest ticket.
	maxTickets = 32

	// maxResumptions is the maximum number of redeemed tickets of a session or an API key. One
	// more replaces the oldest.
	maxResumptions = 1000

	// ticketPrefix distinguishes tickets from other secrets.
	ticketPrefix = "cst_"

	ticketLength = len(ticketPrefix) + 43 // 32 bytes in base64
	proofLength  = 22                     // 16 bytes in base64
)

// errNoTicket occurs when a ticket cannot be redeemed or reopened, for any reason.
var errNoTicket = fmt.Errorf("%w: the ticket is unknown, used or expired, or is for something else", ErrAccessToken)

func isTicket(text string) bool {
	return len(text) == ticketLength && strings.HasPrefix(text, ticketPrefix)
}

// random returns n random bytes in base64.
func random(n int) string {
	secret := make([]byte, n)
	_, _ = rand.Read(secret) // rand.Read never returns an error
	return base64.RawURLEncoding.EncodeToString(secret)
}

// hashTicket returns the hash under which a ticket is stored, or a ticket with its proof.
func hashTicket(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

// Ticket returns a secret for clients that cannot set headers. The secret authenticates
// the identity once, at the given path, within TicketTTL; see Redeem. If the session has ended,
// Ticket returns ErrAccessToken. If the API key has ended, it returns ErrAPIKey.
func (s *Service) Ticket(ctx context.Context, id Identity, path string) (string, error) {
	text := ticketPrefix + random(32)
	now := s.now()
	err := s.store.Write(ctx, func(tx *events.Tx) error {
		_, err := tx.Exec(ctx, `
			delete from tickets where hash in (
				select hash from tickets where session = $1 or api_key = $1 order by expires_at desc offset $2)`, id.credential(), maxTickets-1)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			insert into tickets (hash, session, api_key, path, expires_at, access_until)
			select $1, session, api_key, $3, $4, $5 from (
				select id as session, null::uuid as api_key from sessions where id = $2 and revoked_at is null
				union all select null, id from api_keys where id = $2 and revoked_at is null) as live`,
			hashTicket(text), id.credential(), path, now.Add(TicketTTL), nullTime(id.Expires))
		if err == nil && tag.RowsAffected() == 0 {
			err = errSessionEnded
			if id.Key != nil {
				err = errKeyEnded
			}
		}
		return err
	})
	if errors.Is(err, ErrAccessToken) || errors.Is(err, ErrAPIKey) {
		return "", err
	}
	if err != nil {
		return "", fmt.Errorf("create a ticket: %w", err)
	}
	return text, nil
}

// Redeem removes a ticket and returns the ticket's identity, or ErrAccessToken. A ticket
// that is presented at a wrong path is removed too. The identity expires when its session or
// API key does, and after ResumeTTL at the latest. That of a ticket which an API key requested
// has that key with its id and the scope read only.
//
// Redeem also returns a proof, with which Reopen accepts the ticket again. The caller must give
// it to the client apart from the URL, so that readers of URLs do not learn it.
func (s *Service) Redeem(ctx context.Context, ticket, path string) (id Identity, proof string, err error) {
	if !isTicket(ticket) {
		return Identity{}, "", errNoTicket
	}
	proof = random(16)
	now := s.now()
	// Of two calls at once, only one deletes the row. Its row in resumptions is not among those
	// that the same statement counts, so one less may stay.
	id, err = s.opened(s.pool.QueryRow(ctx, `
		with taken as (delete from tickets where hash = $1 returning *),
		kept as (
			insert into resumptions (hash, session, api_key, path, expires_at)
			select $2, t.session, t.api_key, t.path, least(s.expires_at, k.expires_at, $5)
			from taken t left join sessions s on s.id = t.session left join api_keys k on k.id = t.api_key
			where s.revoked_at is null and k.revoked_at is null and t.path = $3 and t.expires_at > $4 and coalesce(t.access_until > $4, true)
			returning *),
		dropped as (
			delete from resumptions where hash in (
				select r.hash from resumptions r, taken t where r.session = t.session or r.api_key = t.api_key
				order by r.expires_at desc offset $6))
		select coalesce(s.account, k.account), r.session, r.api_key, r.expires_at
		from kept r left join sessions s on s.id = r.session left join api_keys k on k.id = r.api_key`,
		hashTicket(ticket), hashTicket(ticket+proof), path, now, now.Add(ResumeTTL), maxResumptions-1))
	if err != nil {
		return Identity{}, "", fmt.Errorf("redeem a ticket: %w", err)
	}
	return id, proof, nil
}

// Reopen returns the identity of a ticket that Redeem has accepted at the same path, or
// ErrAccessToken. The proof is that of Redeem. The identity is the same as before.
func (s *Service) Reopen(ctx context.Context, ticket, proof, path string) (Identity, error) {
	if !isTicket(ticket) || len(proof) != proofLength {
		return Identity{}, errNoTicket
	}
	id, err := s.opened(s.pool.QueryRow(ctx, `
		select coalesce(s.account, k.account), r.session, r.api_key, r.expires_at
		from resumptions r left join sessions s on s.id = r.session left join api_keys k on k.id = r.api_key
		where r.hash = $1 and r.path = $2 and r.expires_at > $3 and s.revoked_at is null and k.revoked_at is null`,
		hashTicket(ticket+proof), path, s.now()))
	if err != nil {
		return Identity{}, fmt.Errorf("reopen a stream by a ticket: %w", err)
	}
	return id, nil
}

// opened reads the identity of a ticket from a row with its account, session, API key and
// expiry. Without a row, it returns ErrAccessToken.
func (s *Service) opened(row pgx.Row) (Identity, error) {
	var id Identity
	var session, key *uuid.UUID
	err := row.Scan(&id.Account, &session, &key, &id.Expires)
	if errors.Is(err, pgx.ErrNoRows) {
		return Identity{}, errNoTicket
	}
	if err != nil {
		return Identity{}, err
	}
	if session != nil {
		id.Session = *session
	}
	if key != nil {
		id.Key = &APIKey{ID: *key, Account: id.Account, KeyOptions: KeyOptions{Scopes: []Scope{ScopeRead}}}
	}
	id.Expires = id.Expires.UTC()
	return id, nil
}
