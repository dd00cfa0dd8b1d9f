package auth

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/lestrrat-go/jwx/v2/jwt"

	"colophon/internal/strictjson"
)

const (
	// maxAccessToken is the maximum length of an access token, in bytes. A token of
	// this service has about 500 bytes.
	maxAccessToken = 8 << 10

	// maxSkew is the tolerated difference between the clocks of two processes.
	maxSkew = 5 * time.Second

	// accessTokenType is the header typ of access tokens, from RFC 9068.
	accessTokenType = "at+jwt"
)

// Identity is the account that an access token or an API key authenticates.
type Identity struct {
	Account uuid.UUID
	Session uuid.UUID // the session of the access token, or zero for an API key
	Key     *APIKey   // the API key, or nil for an access token; must not be changed
	Expires time.Time // the time when the access token or the key expires; zero for a key that does not expire
}

// credential returns the id of what ends the identity: the API key or the session.
func (id Identity) credential() uuid.UUID {
	if id.Key != nil {
		return id.Key.ID
	}
	return id.Session
}

// sign returns a signed access token that is valid until the given time.
func (s *Service) sign(key jwk.Key, account, session uuid.UUID, expires time.Time) (string, error) {
	now := s.now()
	token, err := jwt.NewBuilder().
		Issuer(s.options.Issuer).
		Audience([]string{s.options.Audience}).
		Subject(account.String()).
		JwtID(uuid.NewString()).
		Claim("sid", session.String()).
		IssuedAt(now).
		NotBefore(now).
		Expiration(expires).
		Build()
	if err != nil {
		return "", fmt.Errorf("build an access token: %w", err)
	}
	token.Options().Enable(jwt.FlattenAudience)
	headers := jws.NewHeaders()
	if err := headers.Set(jws.TypeKey, accessTokenType); err != nil {
		return "", fmt.Errorf("build an access token: %w", err)
	}
	signed, err := jwt.Sign(token, jwt.WithKey(jwa.EdDSA, key, jws.WithProtectedHeaders(headers)))
	if err != nil {
		return "", fmt.Errorf("sign an access token: %w", err)
	}
	return string(signed), nil
}

// Verify returns the identity that an access token authenticates, or
// ErrAccessToken. It accepts only the exact form that this service issues. Before the
// signature check, Verify reads only the token's size, form and key id.
//
// Verify queries the database in two cases only: the key is new to this process, or
// the last successful poll for ended sessions is too old. Any error other than
// ErrAccessToken means that such a query has failed.
func (s *Service) Verify(ctx context.Context, accessToken string) (Identity, error) {
	kid, err := readHeader(accessToken)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrAccessToken, err)
	}
	key, err := s.keys.lookup(ctx, kid)
	if err != nil {
		return Identity{}, err
	}
	payload, err := jws.Verify([]byte(accessToken), jws.WithKey(jwa.EdDSA, key), jws.WithCompact())
	if err != nil {
		return Identity{}, fmt.Errorf("%w: the signature is wrong", ErrAccessToken)
	}
	identity, err := s.readClaims(payload)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrAccessToken, err)
	}
	if err := s.ended.check(ctx, identity.Session); err != nil {
		return Identity{}, err
	}
	return identity, nil
}

// The parser of the jws package is as lenient as RFC 7515 allows. Package encoding/json
// accepts repeated members, names in another case, and text after the object. Tokens
// that this service signs have none of these, so the functions below refuse them.

// readHeader checks the form of a token and returns the id of its key.
func readHeader(accessToken string) (kid string, err error) {
	if len(accessToken) > maxAccessToken {
		return "", errors.New("it is too long")
	}
	parts := bytes.Split([]byte(accessToken), []byte("."))
	if len(parts) != 3 {
		return "", errors.New("it does not have three parts")
	}
	var header []byte
	for i, part := range parts {
		// DecodeString skips line breaks, so they need a check of their own.
		raw, err := base64.RawURLEncoding.Strict().DecodeString(string(part))
		if err != nil || bytes.ContainsAny(part, "\r\n") {
			return "", errors.New("it is not base64url")
		}
		if i == 0 {
			header = raw
		}
	}
	members, err := readObject(header)
	if err != nil {
		return "", fmt.Errorf("the header: %w", err)
	}
	var alg, typ string
	if err := members.read("alg", &alg); err != nil {
		return "", err
	}
	if err := members.read("typ", &typ); err != nil {
		return "", err
	}
	if err := members.read("kid", &kid); err != nil {
		return "", err
	}
	// A fourth member could only request an unsupported feature. The members jwk, jku,
	// x5u and x5c supply a key. The members crit and b64 change how a token is verified.
	if alg != jwa.EdDSA.String() || typ != accessTokenType || len(members) != 3 {
		return "", errors.New("the header is not one of this service")
	}
	return kid, nil
}

// readClaims checks the claims of a token whose signature is valid.
func (s *Service) readClaims(payload []byte) (Identity, error) {
	members, err := readObject(payload)
	if err != nil {
		return Identity{}, fmt.Errorf("the payload: %w", err)
	}
	var c struct {
		iss, aud, sub, sid, jti string
		iat, nbf, exp           int64
	}
	for name, dst := range map[string]any{
		"iss": &c.iss, "aud": &c.aud, "sub": &c.sub, "sid": &c.sid, "jti": &c.jti,
		"iat": &c.iat, "nbf": &c.nbf, "exp": &c.exp,
	} {
		if err := members.read(name, dst); err != nil {
			return Identity{}, err
		}
	}
	now, skew := s.now().Unix(), int64(maxSkew/time.Second)
	account, badSub := uuid.Parse(c.sub)
	session, badSid := uuid.Parse(c.sid)
	switch {
	case c.iss != s.options.Issuer:
		return Identity{}, errors.New("it was issued by another service")
	case c.aud != s.options.Audience:
		return Identity{}, errors.New("it is for another service")
	case now-skew >= c.exp:
		return Identity{}, errors.New("it has expired")
	case now+skew < c.nbf || now+skew < c.iat:
		return Identity{}, errors.New("it is not valid yet")
	case badSub != nil || account.String() != c.sub || account == unknownAccount:
		return Identity{}, errors.New("sub is not an account")
	case badSid != nil || session.String() != c.sid:
		return Identity{}, errors.New("sid is not a session")
	case c.jti == "":
		return Identity{}, errors.New("jti is empty")
	}
	return Identity{Account: account, Session: session, Expires: time.Unix(c.exp, 0).UTC()}, nil
}

// object is a JSON object whose members are not decoded yet.
type object map[string]json.RawMessage

// readObject reads a JSON object by the rules of package strictjson.
func readObject(raw []byte) (object, error) {
	members := object{}
	return members, strictjson.Object(bytes.NewReader(raw), func(name string, value []byte) error {
		members[name] = bytes.Clone(value)
		return nil
	})
}

// read decodes a member. It returns an error if the member is missing or null.
func (o object) read(name string, dst any) error {
	raw, ok := o[name]
	if !ok || string(raw) == "null" {
		return fmt.Errorf("%s is missing", name)
	}
	if err := json.Unmarshal(raw, dst); err != nil {
		return fmt.Errorf("%s has the wrong type", name)
	}
	return nil
}
