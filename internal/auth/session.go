package auth

import (
	"context"
	"crypto/hmac"
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

const (
	// maxSessions is how many sessions of an account may be live; another sign-in
	// ends the oldest.
	maxSessions = 100

	// maxRefreshTokens is how many refresh tokens of a session are remembered:
	// those that have not been exchanged, or less than Grace ago. Beyond that the
	// oldest are taken for ones that were exchanged long ago.
	maxRefreshTokens = 100
)

const (
	// refreshPrefix tells refresh tokens from other secrets, for people and for
	// programs that look for secrets where none should be.
	refreshPrefix = "crt_"

	// A refresh token is its session's id, a secret, and a MAC of both: so it says
	// where it belongs also when nothing is stored of it any longer.
	refreshSecretSize = 32
	refreshMACSize    = 16
	refreshSize       = len(uuid.UUID{}) + refreshSecretSize + refreshMACSize
)

// Tokens is what a client gets for its credentials.
type Tokens struct {
	AccessToken  string
	RefreshToken string        // for one call of Refresh, or for Revoke
	ExpiresIn    time.Duration // how long the access token is valid
}

// refreshToken is a refresh token as the database knows it.
type refreshToken struct {
	session uuid.UUID
	hash    []byte // SHA-256
}

// newRefreshToken returns a refresh token of a session, and as what it is stored.
func (s *Service) newRefreshToken(session uuid.UUID) (text string, t refreshToken) {
	raw := make([]byte, len(session)+refreshSecretSize, refreshSize)
	_, _ = rand.Read(raw[copy(raw, session[:]):]) // never fails
	raw = append(raw, s.refreshMAC(raw)...)
	sum := sha256.Sum256(raw)
	return refreshPrefix + base64.RawURLEncoding.EncodeToString(raw), refreshToken{session, sum[:]}
}

func (s *Service) refreshMAC(of []byte) []byte {
	return s.vault.Digest("refresh token", string(of))[:refreshMACSize]
}

// readRefreshToken returns as what a refresh token is stored, or was, if the text
// is one that this service has made.
func (s *Service) readRefreshToken(text string) (t refreshToken, ok bool) {
	encoded, ok := strings.CutPrefix(text, refreshPrefix)
	if !ok || len(encoded) != base64.RawURLEncoding.EncodedLen(refreshSize) {
		return t, false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(raw) != refreshSize { // line breaks count for nothing
		return t, false
	}
	of, mac := raw[:refreshSize-refreshMACSize], raw[refreshSize-refreshMACSize:]
	if !hmac.Equal(mac, s.refreshMAC(of)) {
		return t, false
	}
	sum := sha256.Sum256(raw)
	return refreshToken{uuid.UUID(raw[:len(t.session)]), sum[:]}, true
}

// begin makes a session of an account whose row is locked, and returns the ones
// that it ends to make room.
func (s *Service) begin(ctx context.Context, tx *events.Tx, signer jwk.Key, account uuid.UUID) (Tokens, []uuid.UUID, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Tokens{}, nil, err
	}
	now := s.now()
	rows, _ := tx.Query(ctx, `
		update sessions set revoked_at = $2 where id in (
			select id from sessions where account = $1 and revoked_at is null order by expires_at desc, id desc offset $3)
		returning id`, account, now, maxSessions-1)
	ended, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return Tokens{}, nil, err
	}
	if _, err := tx.Exec(ctx, `insert into sessions (id, account, created_at, expires_at) values ($1, $2, $3, $4)`,
		id, account, now, now.Add(s.options.RefreshTTL)); err != nil {
		return Tokens{}, nil, err
	}
	tokens, err := s.issue(ctx, tx, signer, account, id, now.Add(s.options.RefreshTTL))
	if err != nil {
		return Tokens{}, nil, err
	}
	var facts []events.Fact
	for _, session := range ended {
		facts = append(facts, events.AccountSignedOut{Session: session})
	}
	return tokens, ended, tx.AppendAccount(ctx, account, append(facts, events.AccountSignedIn{Session: id})...)
}

// issue gives a session new tokens. Its access tokens do not outlive it.
func (s *Service) issue(ctx context.Context, tx *events.Tx, signer jwk.Key, account, session uuid.UUID, end time.Time) (Tokens, error) {
	text, token := s.newRefreshToken(session)
	if _, err := tx.Exec(ctx, `insert into refresh_tokens (hash, session, issued_at) values ($1, $2, $3)`, token.hash, session, s.now()); err != nil {
		return Tokens{}, err
	}
	valid := min(s.options.AccessTTL, end.Sub(s.now()))
	access, err := s.sign(signer, account, session, s.now().Add(valid))
	if err != nil {
		return Tokens{}, err
	}
	return Tokens{AccessToken: access, RefreshToken: text, ExpiresIn: valid}, nil
}

// presented is a token that a client has shown, and its session.
type presented struct {
	session   uuid.UUID
	account   uuid.UUID
	live      bool // the session has not ended
	expires   time.Time
	exchanged bool // it is a refresh token, and has been exchanged
	reused    bool // longer than Grace ago
}

// present finds a refresh token and locks its session, so that those who
// present tokens of one session take turns. It returns ErrRefreshToken if there
// is no such session.
func (s *Service) present(ctx context.Context, tx *events.Tx, t refreshToken) (presented, error) {
	p, err := s.hold(ctx, tx, t.session)
	if err != nil {
		return p, err
	}
	// A statement of its own: it must see what happened before the lock was had.
	var exchanged *time.Time
	err = tx.QueryRow(ctx, `select exchanged_at from refresh_tokens where hash = $1`, t.hash).Scan(&exchanged)
	switch {
	case errors.Is(err, pgx.ErrNoRows): // it has been forgotten since
		p.exchanged, p.reused = true, true
		return p, nil
	case exchanged != nil:
		p.exchanged, p.reused = true, s.now().Sub(*exchanged) > Grace
	}
	return p, err
}

// hold locks a session. It returns ErrRefreshToken if there is none. That its
// account may have been disabled is not asked: that has ended the session, in
// the same transaction, for which the database's trigger answers.
func (s *Service) hold(ctx context.Context, tx *events.Tx, session uuid.UUID) (presented, error) {
	p := presented{session: session}
	err := tx.QueryRow(ctx, `
		select account, revoked_at is null and expires_at > $2, expires_at from sessions where id = $1 for update`,
		session, s.now()).Scan(&p.account, &p.live, &p.expires)
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
func (s *Service) Refresh(ctx context.Context, text string) (Tokens, error) {
	token, ok := s.readRefreshToken(text)
	if !ok {
		return Tokens{}, ErrRefreshToken
	}
	signer := s.keys.fresh(ctx).signer(s.now()) // not inside, where it would need a second connection
	var tokens Tokens
	reused, session := false, uuid.UUID{}
	err := s.store.Write(ctx, func(tx *events.Tx) error {
		p, err := s.present(ctx, tx, token)
		if err != nil {
			return err
		}
		if !p.live {
			return ErrRefreshToken
		}
		if p.reused {
			reused, session = true, p.session // an error from here would undo the end of the session
			return s.end(ctx, tx, p, events.AccountTokenReuseDetected{Session: p.session})
		}
		if !p.exchanged {
			if _, err := tx.Exec(ctx, `update refresh_tokens set exchanged_at = $2 where hash = $1`, token.hash, s.now()); err != nil {
				return err
			}
		}
		if err := s.forget(ctx, tx, p.session); err != nil {
			return err
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

// forget removes the refresh tokens of a session that are known for exchanged
// ones without being stored, and makes room for one more.
func (s *Service) forget(ctx context.Context, tx *events.Tx, session uuid.UUID) error {
	_, err := tx.Exec(ctx, `
		delete from refresh_tokens where session = $1 and (exchanged_at < $2 or hash in (
			select hash from refresh_tokens where session = $1 order by issued_at desc, hash offset $3))`,
		session, s.now().Add(-Grace), maxRefreshTokens-1)
	return err
}

// Revoke ends the session of a refresh token, exchanged or not, or of an access
// token. A token that is unknown, or that has expired, or whose session has
// ended is not an error (RFC 7009, section 2.2).
func (s *Service) Revoke(ctx context.Context, text string) error {
	token, ok := s.readRefreshToken(text)
	session := token.session
	if !ok {
		id, err := s.Verify(ctx, text)
		if errors.Is(err, ErrAccessToken) {
			return nil
		}
		if err != nil {
			return err
		}
		session = id.Session
	}
	err := s.store.Write(ctx, func(tx *events.Tx) error {
		p, err := s.hold(ctx, tx, session)
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
