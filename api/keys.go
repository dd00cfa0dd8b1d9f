package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"colophon/internal/auth"
)

// JWKSet is a set of public keys (RFC 7517).
type JWKSet struct {
	Keys []JWK `json:"keys" doc:"The newest first. It includes keys that will sign and keys that no longer sign."`
}

// JWK is the public part of an Ed25519 key (RFC 8037).
type JWK struct {
	KeyType   string `json:"kty" enum:"OKP" doc:"The type of the key."`
	Curve     string `json:"crv" enum:"Ed25519" doc:"The curve of the key."`
	Algorithm string `json:"alg" enum:"EdDSA" doc:"The algorithm of the signatures."`
	Use       string `json:"use" enum:"sig" doc:"The use of the key: signatures."`
	ID        string `json:"kid" doc:"The key's RFC 7638 thumbprint. The access tokens that it signs have it in their header."`
	X         string `json:"x" doc:"The public key in base64url."`
}

type jwksInput struct {
	IfNoneMatch string `header:"If-None-Match" maxLength:"8192" doc:"Entity tags of answers that the client has. If one still holds, the answer is 304."`
}

type jwksOutput struct {
	Status       int
	CacheControl string `header:"Cache-Control" doc:"How long the answer may be cached."`
	ETag         string `header:"ETag" doc:"Changes when the set of keys does."`
	Body         JWKSet
}

func (s *server) keys() {
	register(s, huma.Operation{
		OperationID: "jwks", Method: http.MethodGet, Path: "/.well-known/jwks.json", Tags: []string{"accounts"},
		Summary: "Get the keys that verify access tokens",
		Description: "A JWK set (RFC 7517). A key is published for longer than max-age before it signs its first access token, " +
			"and until the last access token that it signed has expired. A verifier that observes max-age has the key of every valid access token.",
		Responses: map[string]*huma.Response{"304": {Description: "Nothing has changed."}},
	}, s.jwks)
}

func (s *server) jwks(ctx context.Context, in *jwksInput) (*jwksOutput, error) {
	out := &jwksOutput{CacheControl: fmt.Sprintf("public, max-age=%.0f", auth.JWKSMaxAge.Seconds())}
	if err := json.Unmarshal(s.Auth.JWKS(ctx), &out.Body); err != nil {
		return nil, fmt.Errorf("read the public keys: %w", err)
	}
	var err error
	if out.ETag, out.Status, err = conditional(out.Body, in.IfNoneMatch); err != nil {
		return nil, err
	}
	return out, nil
}
