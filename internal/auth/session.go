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
	"github.com/lestrrat-go/jwx/v2/jwk"

	"colophon/events"
)

// Grace is how long after its exchange a refresh token may be presented again.
const Grace = 10 * time.Second

// refreshPrefix tells refresh tokens from other secrets, for people and for
// programs that look for secrets where none should be.
const refreshPrefix = "crt_"

// Tokens is what a client gets for its credentials.
type Tokens struct {
	AccessToken  string
	RefreshToken string        // for one call of Refresh, or for Revoke
	ExpiresIn    time.Duration // how long the access token is valid
}

// newRefreshToken returns 32 random bytes as text, and their SHA-256.
func newRefreshToken() (text string, hash []byte) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	sum := sha256.Sum256(secret[:])
	return refreshPrefix + base64.RawURLEncoding.EncodeToString(secret[:]), sum[:]
}

// refreshHash returns what the database has of a refresh token, if the text has
// the form of one.
func refreshHash(text string) (hash []byte, ok bool) {
	encoded, ok := strings.CutPrefix(text, refreshPrefix)
	if !ok || len(encoded) != base64.RawURLEncoding.EncodedLen(32) {
		return nil, false
	}
	secret, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(secret) != 32 { // line breaks count for nothing
		return nil, false
	}
	sum := sha256.Sum256(secret)
	return sum[:], true
}

// begin makes a session, and clears away those of the account that have run out.
func (s *Service) begin(ctx context.Context, tx *events.Tx, signer jwk.Key, account uuid.UUID) (Tokens, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Tokens{}, err
	}
	now := s.now()
	if _, err := tx.Exec(ctx, `delete from sessions where account = $1 and expires_at < $2`, account, now); err != nil {
		return Tokens{}, err
	}
	if _, err := tx.Exec(ctx, `insert into sessions (id, account, created_at, expires_at) values ($1, $2, $3, $4)`,
		id, account, now, now.Add(s.options.RefreshTTL)); err != nil {
		return Tokens{}, err
	}
	tokens, err := s.issue(ctx, tx, signer, account, id, now.Add(s.options.RefreshTTL))
	if err != nil {
		return Tokens{}, err
	}
	return tokens, tx.AppendAccount(ctx, account, events.AccountSignedIn{Session: id})
}

// issue gives a session new tokens. Its access tokens do not outlive it.
func (s *Service) issue(ctx context.Context, tx *events.Tx, signer jwk.Key, account, session uuid.UUID, end time.Time) (Tokens, error) {
	text, hash := newRefreshToken()
	if _, err := tx.Exec(ctx, `insert into refresh_tokens (hash, session) values ($1, $2)`, hash, session); err != nil {
		return Tokens{}, err
	}
	valid := min(s.options.AccessTTL, end.Sub(s.now()))
	access, err := s.sign(signer, account, session, s.now().Add(valid))
	if err != nil {
		return Tokens{}, err
	}
	return Tokens{AccessToken: access, RefreshToken: text, ExpiresIn: valid}, nil
}

// presented is a refresh token that a client has shown, and its session.
type presented struct {
	session   uuid.UUID
	account   uuid.UUID
	live      bool // the session has not ended, nor the account been disabled
	expires   time.Time
	exchanged *time.Time
}

// present finds a refresh token and locks its session, so that those who
// present tokens of one session take turns. It returns ErrRefreshToken if there
// is no such token.
func (s *Service) present(ctx context.Context, tx *events.Tx, hash []byte) (presented, error) {
	var session uuid.UUID
	err := tx.QueryRow(ctx, `select session from refresh_tokens where hash = $1`, hash).Scan(&session)
	if errors.Is(err, pgx.ErrNoRows) {
		return presented{}, ErrRefreshToken
	}
	if err != nil {
		return presented{}, err
	}
	p, err := s.hold(ctx, tx, session)
	if err != nil {
		return p, err
	}
	// A statement of its own: it must see what happened before the lock was had.
	err = tx.QueryRow(ctx, `select exchanged_at from refresh_tokens where hash = $1`, hash).Scan(&p.exchanged)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, ErrRefreshToken
	}
	return p, err
}

// hold locks a session. It returns ErrRefreshToken if there is none.
func (s *Service) hold(ctx context.Context, tx *events.Tx, session uuid.UUID) (presented, error) {
	p := presented{session: session}
	err := tx.QueryRow(ctx, `
		select s.account, s.revoked_at is null and s.expires_at > $2 and a.disabled_at is null, s.expires_at
		from sessions s join accounts a on a.id = s.account
		where s.id = $1 for update of s`, session, s.now()).Scan(&p.account, &p.live, &p.expires)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, ErrRefreshToken
	}
	return p, err
}

// end ends a session and records why. A session ends once.
func (s *Service) end(ctx context.Context, tx *events.Tx, p presented, why events.Fact) error {
	if _, err := tx.Exec(ctx, `update sessions set revoked_at = $2 where id = $1`, p.session, s.now()); err != nil {
		return err
	}
	return tx.AppendAccount(ctx, p.account, why)
}

// Refresh exchanges a refresh token for new tokens of the same session, or
// returns ErrRefreshToken.
func (s *Service) Refresh(ctx context.Context, refreshToken string) (Tokens, error) {
	hash, ok := refreshHash(refreshToken)
	if !ok {
		return Tokens{}, ErrRefreshToken
	}
	signer := s.keys.fresh(ctx).signer(s.now()) // not inside, where it would need a second connection
	var tokens Tokens
	reused, session := false, uuid.UUID{}
	err := s.store.Write(ctx, func(tx *events.Tx) error {
		p, err := s.present(ctx, tx, hash)
		if err != nil {
			return err
		}
		if !p.live {
			return ErrRefreshToken
		}
		if p.exchanged != nil && s.now().Sub(*p.exchanged) > Grace {
			reused, session = true, p.session // an error from here would undo the end of the session
			return s.end(ctx, tx, p, events.AccountTokenReuseDetected{Session: p.session})
		}
		if p.exchanged == nil {
			if _, err := tx.Exec(ctx, `update refresh_tokens set exchanged_at = $2 where hash = $1`, hash, s.now()); err != nil {
				return err
			}
		}
		tokens, err = s.issue(ctx, tx, signer, p.account, p.session, p.expires)
		return err
	})
	if reused && err == nil {
		s.ended.add(session)
	}
	if reused && err == nil || errors.Is(err, ErrRefreshToken) {
		return Tokens{}, ErrRefreshToken
	}
	if err != nil {
		return Tokens{}, fmt.Errorf("refresh a session: %w", err)
	}
	return tokens, nil
}

// Revoke ends the session of a refresh token, exchanged or not, or of an access
// token. A token that is unknown, or that has expired, or whose session has
// ended is not an error (RFC 7009, section 2.2).
func (s *Service) Revoke(ctx context.Context, token string) error {
	hash, ok := refreshHash(token)
	var session uuid.UUID
	if !ok {
		id, err := s.Verify(ctx, token)
		if errors.Is(err, ErrAccessToken) {
			return nil
		}
		if err != nil {
			return err
		}
		session = id.Session
	}
	err := s.store.Write(ctx, func(tx *events.Tx) error {
		var p presented
		var err error
		if ok {
			p, err = s.present(ctx, tx, hash)
		} else {
			p, err = s.hold(ctx, tx, session)
		}
		session = p.session
		if err != nil || !p.live {
			return err
		}
		return s.end(ctx, tx, p, events.AccountSignedOut{Session: p.session})
	})
	if errors.Is(err, ErrRefreshToken) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end a session: %w", err)
	}
	s.ended.add(session)
	return nil
}
