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

// refreshToken is the stored form of a refresh token.
type refreshToken struct {
	session uuid.UUID
	hash    []byte // SHA-256 of the token
}

// newRefreshToken returns a refresh token of a session, and the token's stored form.
func (s *Service) newRefreshToken(session uuid.UUID) (text string, t refreshToken) {
	raw := make([]byte, len(session)+refreshSecretSize, refreshSize)
	_, _ = rand.Read(raw[copy(raw, session[:]):]) // rand.Read never returns an error
	raw = append(raw, s.refreshMAC(raw)...)
	sum := sha256.Sum256(raw)
	return refreshPrefix + base64.RawURLEncoding.EncodeToString(raw), refreshToken{session, sum[:]}
}

// refreshMAC returns the MAC of a refresh token's session id and secret.
func (s *Service) refreshMAC(content []byte) []byte {
	return s.vault.Digest("refresh token", string(content))[:refreshMACSize]
}

// readRefreshToken returns the stored form of a refresh token. The result ok reports
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
	return refreshToken{uuid.UUID(raw[:len(t.session)]), sum[:]}, true
}
