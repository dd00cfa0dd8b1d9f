package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/google/uuid"
)

const (
	// refreshPrefix lets people and secret scanners recognize refresh tokens.
	refreshPrefix = "crt_"

	// A refresh token consists of its session's id, a secret, and a MAC of both. So the
	// token identifies its session even after the token's row has been deleted.
	refreshSecretSize = 32
	refreshMACSize    = 16
	refreshSize       = len(uuid.UUID{}) + refreshSecretSize + refreshMACSize
)

// refreshToken is a decoded refresh token.
type refreshToken struct {
	session uuid.UUID
	raw     []byte // bytes of the session's id, the secret and the MAC; never stored
	hash    []byte // SHA-256 of raw, which is stored
}

// newRefreshToken returns a random refresh token of a session, as text and decoded.
func (s *Service) newRefreshToken(session uuid.UUID) (text string, t refreshToken) {
	secret := make([]byte, refreshSecretSize)
	_, _ = rand.Read(secret) // Read never fails
	return s.makeRefreshToken(session, secret)
}

// successor returns the refresh token that a client gets in exchange for t. The database
// stores only hashes of tokens. The secret of the successor is therefore derived from t,
// so that a repeated exchange gives the same successor.
func (s *Service) successor(t refreshToken) (text string, next refreshToken) {
	return s.makeRefreshToken(t.session, s.vault.Digest("refresh token successor", string(t.raw))[:refreshSecretSize])
}

func (s *Service) makeRefreshToken(session uuid.UUID, secret []byte) (text string, t refreshToken) {
	raw := append(session[:], secret...)
	raw = append(raw, s.refreshMAC(raw)...)
	sum := sha256.Sum256(raw)
	return refreshPrefix + base64.RawURLEncoding.EncodeToString(raw), refreshToken{session, raw, sum[:]}
}

// refreshMAC returns the MAC of a refresh token's session id and secret.
func (s *Service) refreshMAC(content []byte) []byte {
	return s.vault.Digest("refresh token", string(content))[:refreshMACSize]
}

// readRefreshToken decodes a refresh token. The result ok reports
// whether this service has made the token. It does not depend on the token's row, which
// may have been deleted.
func (s *Service) readRefreshToken(text string) (t refreshToken, ok bool) {
	encoded, ok := strings.CutPrefix(text, refreshPrefix)
	if !ok || len(encoded) != base64.RawURLEncoding.EncodedLen(refreshSize) {
		return t, false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(raw) != refreshSize { // raw is too short if the text has line breaks, which DecodeString skips
		return t, false
	}
	content, mac := raw[:refreshSize-refreshMACSize], raw[refreshSize-refreshMACSize:]
	if !hmac.Equal(mac, s.refreshMAC(content)) {
		return t, false
	}
	sum := sha256.Sum256(raw)
	return refreshToken{uuid.UUID(raw[:len(t.session)]), raw, sum[:]}, true
}
