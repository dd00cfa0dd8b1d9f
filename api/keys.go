package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"colophon/internal/auth"
)

// JWKSet is public keys as RFC 7517 has them.
type JWKSet struct {
	Keys []JWK `json:"keys" doc:"The newest first. One that has not signed yet will; one that does not sign any longer has."`
}

// JWK is the public part of an Ed25519 key (RFC 8037).
type JWK struct {
	KeyType   string `json:"kty" enum:"OKP"`
	Curve     string `json:"crv" enum:"Ed25519"`
	Algorithm string `json:"alg" enum:"EdDSA"`
	Use       string `json:"use" enum:"sig"`
	ID        string `json:"kid" doc:"As in the header of the access tokens that it signs: its RFC 7638 thumbprint."`
	X         string `json:"x" doc:"The key, in base64url."`
}

type jwksInput struct {
	IfNoneMatch string `header:"If-None-Match" maxLength:"1000" doc:"Entity tags of answers that the client has: if nothing has changed since, the answer is 304."`
}

type jwksOutput struct {
	Status       int
	CacheControl string `header:"Cache-Control" doc:"For how long the answer holds."`
	ETag         string `header:"ETag" doc:"Changes when a key does."`
	Body         JWKSet
}

func (s *server) keys() {
	register(s, huma.Operation{
		OperationID: "jwks", Method: http.MethodGet, Path: "/.well-known/jwks.json", Tags: []string{"accounts"},
		Summary: "The keys that verify access tokens",
		Description: "A JWK set (RFC 7517). A key is here for longer than an answer may be cached before it signs its first access token, " +
			"and until the last one that it has signed has expired: who goes by max-age never meets a valid token without its key.",
		Responses: map[string]*huma.Response{"304": {Description: "Nothing has changed."}},
	}, s.jwks)
}

func (s *server) jwks(ctx context.Context, in *jwksInput) (*jwksOutput, error) {
	out := &jwksOutput{Status: http.StatusOK, CacheControl: fmt.Sprintf("public, max-age=%.0f", auth.JWKSFor.Seconds())}
	if err := json.Unmarshal(s.Auth.JWKS(ctx), &out.Body); err != nil {
		return nil, fmt.Errorf("read the public keys: %w", err)
	}
	var err error
	if out.ETag, err = etagOf(out.Body); err != nil {
		return nil, err
	}
	if matches(in.IfNoneMatch, out.ETag) {
		out.Status = http.StatusNotModified
	}
	return out, nil
}
