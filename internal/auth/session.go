package auth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"colophon/events"
)

// Grace is the time after its exchange during which a refresh token may be presented
// again.
const Grace = 10 * time.Second

const (
	// maxSessions is the maximum number of live sessions of an account. One more
	// sign-in ends the oldest session.
	maxSessions = 100

	// maxRefreshTokens is the maximum number of refresh tokens stored per session.
	// Tokens exchanged more than Grace ago are not stored. If a session exceeds the
	// limit, its oldest tokens are deleted and count as exchanged more than Grace ago.
	maxRefreshTokens = 100
)

// Tokens are the result of a sign-in or a refresh.
type Tokens struct {
	AccessToken  string
	RefreshToken string        // for one call of Refresh, or for Revoke
	ExpiresIn    time.Duration // remaining lifetime of the access token
}

// beginSession creates a session of an account whose row is locked. If the account then
// has more than maxSessions, beginSession ends the oldest sessions and returns their ids.
func (s *Service) beginSession(ctx context.Context, tx *events.Tx, signer jwk.Key, account uuid.UUID) (Tokens, []uuid.UUID, error) {
	id := s.store.NewID()
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
	text, refresh := s.newRefreshToken(id)
	if err := s.storeToken(ctx, tx, refresh); err != nil {
		return Tokens{}, nil, err
	}
	tokens, err := s.issueTokens(signer, account, id, text, now.Add(s.options.RefreshTTL))
	if err != nil {
		return Tokens{}, nil, err
	}
	var facts []events.Fact
	for _, session := range ended {
		facts = append(facts, events.AccountSignedOut{Session: session})
	}
	return tokens, ended, tx.AppendAccount(ctx, account, append(facts, events.AccountSignedIn{Session: id})...)
}

// storeToken stores a refresh token, unless it is stored already.
func (s *Service) storeToken(ctx context.Context, tx *events.Tx, t refreshToken) error {
	_, err := tx.Exec(ctx, `insert into refresh_tokens (hash, session, issued_at) values ($1, $2, $3) on conflict do nothing`,
		t.hash, t.session, s.now())
	return err
}

// issueTokens returns a new access token of a session together with a stored refresh
// token. The access token does not outlive the session.
func (s *Service) issueTokens(signer jwk.Key, account, session uuid.UUID, refresh string, end time.Time) (Tokens, error) {
	valid := min(s.options.AccessTTL, end.Sub(s.now()))
	access, err := s.sign(signer, account, session, s.now().Add(valid))
	if err != nil {
		return Tokens{}, err
	}
	return Tokens{AccessToken: access, RefreshToken: refresh, ExpiresIn: valid}, nil
}

// lockedSession is a session whose row is locked, and the state of the refresh token
// that a client has presented.
type lockedSession struct {
	session   uuid.UUID
	account   uuid.UUID
	live      bool // true if the session has not ended
	expires   time.Time
	exchanged bool // true if the refresh token has been exchanged
	reused    bool // true if the refresh token was exchanged more than Grace ago
}

// lockByToken locks the session of a refresh token and reads the token's state. The
// lock serializes requests that present tokens of the same session. If the session does
// not exist, lockByToken returns ErrRefreshToken.
func (s *Service) lockByToken(ctx context.Context, tx *events.Tx, t refreshToken) (lockedSession, error) {
	locked, err := s.lockSession(ctx, tx, t.session)
	if err != nil {
		return locked, err
	}
	// This query is a separate statement, so that it sees everything that was committed
	// before the session was locked.
	var exchanged *time.Time
	err = tx.QueryRow(ctx, `select exchanged_at from refresh_tokens where hash = $1`, t.hash).Scan(&exchanged)
	switch {
	case errors.Is(err, pgx.ErrNoRows): // the row was deleted after the exchange
		locked.exchanged, locked.reused = true, true
		return locked, nil
	case exchanged != nil:
		locked.exchanged, locked.reused = true, s.now().Sub(*exchanged) > Grace
	}
	return locked, err
}

// lockSession locks a session. If the session does not exist, it returns ErrRefreshToken.
// lockSession need not check the account, because a database trigger ends the sessions of
// an account in the transaction that disables the account.
func (s *Service) lockSession(ctx context.Context, tx *events.Tx, session uuid.UUID) (lockedSession, error) {
	locked := lockedSession{session: session}
	err := tx.QueryRow(ctx, `
		select account, revoked_at is null and expires_at > $2, expires_at from sessions where id = $1 for update`,
		session, s.now()).Scan(&locked.account, &locked.live, &locked.expires)
	if errors.Is(err, pgx.ErrNoRows) {
		return locked, ErrRefreshToken
	}
	return locked, err
}

// endSession ends a live session and appends the event with the reason.
func (s *Service) endSession(ctx context.Context, tx *events.Tx, locked lockedSession, why events.Fact) error {
	if _, err := tx.Exec(ctx, `update sessions set revoked_at = $2 where id = $1`, locked.session, s.now()); err != nil {
		return err
	}
	return tx.AppendAccount(ctx, locked.account, why)
}

// Refresh exchanges a refresh token for new tokens of the same session, or
// returns ErrRefreshToken. A call repeated within Grace returns the same refresh token
// again, so that a session has one current refresh token.
func (s *Service) Refresh(ctx context.Context, text string) (Tokens, error) {
	token, ok := s.readRefreshToken(text)
	if !ok {
		return Tokens{}, ErrRefreshToken
	}
	signer := s.keys.fresh(ctx).signer(s.now()) // not read inside the transaction, because such a read would need a second connection
	var tokens Tokens
	reused, session := false, uuid.UUID{}
	err := s.store.Write(ctx, func(tx *events.Tx) error {
		locked, err := s.lockByToken(ctx, tx, token)
		if err != nil {
			return err
		}
		if !locked.live {
			return ErrRefreshToken
		}
		if locked.reused {
			reused, session = true, locked.session // the reuse is not returned as an error, because an error would roll back the end of the session
			return s.endSession(ctx, tx, locked, events.AccountTokenReuseDetected{Session: locked.session})
		}
		text, err := s.exchange(ctx, tx, token, locked.exchanged)
		if err != nil {
			return err
		}
		tokens, err = s.issueTokens(signer, locked.account, locked.session, text, locked.expires)
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

// exchange stores and returns the successor of a refresh token. Unless the token has been
// exchanged before, exchange also records the exchange.
func (s *Service) exchange(ctx context.Context, tx *events.Tx, token refreshToken, before bool) (string, error) {
	if !before {
		if _, err := tx.Exec(ctx, `update refresh_tokens set exchanged_at = $2 where hash = $1`, token.hash, s.now()); err != nil {
			return "", err
		}
	}
	if err := s.pruneTokens(ctx, tx, token.session); err != nil {
		return "", err
	}
	text, next := s.successor(token)
	return text, s.storeToken(ctx, tx, next)
}

// pruneTokens deletes the refresh tokens of a session that were exchanged more than Grace
// ago. It also deletes the oldest tokens, so that one more token does not exceed
// maxRefreshTokens.
func (s *Service) pruneTokens(ctx context.Context, tx *events.Tx, session uuid.UUID) error {
	_, err := tx.Exec(ctx, `
		delete from refresh_tokens where session = $1 and (exchanged_at < $2 or hash in (
			select hash from refresh_tokens where session = $1 order by issued_at desc, hash offset $3))`,
		session, s.now().Add(-Grace), maxRefreshTokens-1)
	return err
}

// Revoke ends the session of an access token or of a refresh token, or revokes an API key.
// The refresh token may have been exchanged. Revoke returns no error if the token is unknown
// or expired, or if its session has ended already (RFC 7009, section 2.2).
func (s *Service) Revoke(ctx context.Context, text string) error {
	if IsAPIKey(text) {
		return s.revokePresented(ctx, text)
	}
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
		locked, err := s.lockSession(ctx, tx, session)
		if err != nil || !locked.live {
			return err
		}
		return s.endSession(ctx, tx, locked, events.AccountSignedOut{Session: locked.session})
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
