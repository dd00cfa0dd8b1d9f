package auth

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"colophon/internal/flight"
)

// offline returns a service with one signing key and no database. The service's clock
// stands still, so its keys never become stale.
func offline(t testing.TB) *Service {
	t.Helper()
	private := ed25519.NewKeyFromSeed([]byte("the seed of the key that signs.."))
	key, err := newKey(private)
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	clock := &clock{now: now}
	o := testOptions
	o.AccessTTL = DefaultAccessTTL
	s := &Service{options: o, now: clock.Now, keys: &keyring{clocks: clocks{clock.Now, clock.Now}, maxAge: keysMaxAge, reads: flight.Group[*keySet]{Timeout: keysTimeout, Keep: keysMinInterval, Now: clock.Now}}, ended: newEndedSessions(nil, o.AccessTTL, clock.Now)}
	s.ended.polled = now
	set := &keySet{read: now, sign: []signingKey{{key: key}}, verify: map[string]publicKey{key.KeyID(): {key: public}}}
	s.keys.current.Store(set)
	if _, err := s.keys.reads.Do(t.Context(), keysRead, func(context.Context) (*keySet, error) { return set, nil }); err != nil {
		t.Fatal(err)
	}
	return s
}

func privateKey(t testing.TB, s *Service) ed25519.PrivateKey {
	t.Helper()
	var private ed25519.PrivateKey
	if err := s.keys.current.Load().signer(s.now()).Raw(&private); err != nil {
		t.Fatal(err)
	}
	return private
}

func publicJWK(t testing.TB, f forger) jwk.Key {
	t.Helper()
	key, err := newKey(f.private)
	if err != nil {
		t.Fatal(err)
	}
	if key, err = key.PublicKey(); err != nil {
		t.Fatal(err)
	}
	return key
}

type members = map[string]any

// forger makes access tokens without the service. By default the tokens are valid.
type forger struct {
	private  ed25519.PrivateKey
	kid      string
	now      time.Time
	identity Identity // the account and the session that the tokens name
}

func newForger(t testing.TB, s *Service) forger {
	return forger{
		privateKey(t, s), s.keys.current.Load().signer(s.now()).KeyID(), s.now(),
		Identity{Account: uuid.MustParse("0198c5a2-6b8e-7cc0-9d3e-0a1b2c3d4e5f"), Session: uuid.MustParse("0198c5a2-6b8e-7cc0-9d3e-0a1b2c3d4e60")},
	}
}

func (f forger) header() members {
	return members{"alg": "EdDSA", "typ": "at+jwt", "kid": f.kid}
}

func (f forger) claims() members {
	return members{
		"iss": "https://colophon.test", "aud": "colophon", "jti": "an id",
		"sub": f.identity.Account.String(), "sid": f.identity.Session.String(),
		"iat": f.now.Unix(), "nbf": f.now.Unix(), "exp": f.now.Unix() + 1800,
	}
}

// raw returns a token with the given header and payload, signed as they are.
func (f forger) raw(header, payload string) string {
	input := b64(header) + "." + b64(payload)
	return input + "." + b64(string(ed25519.Sign(f.private, []byte(input))))
}

// with returns a signed token whose header and claims are valid, except for the given
// members. A member with the value absent{} is removed.
func (f forger) with(header, claims members) string {
	return f.raw(encode(change(f.header(), header)), encode(change(f.claims(), claims)))
}

type absent struct{}

func change(m, changes members) members {
	maps.Copy(m, changes)
	maps.DeleteFunc(m, func(_ string, value any) bool { return value == absent{} })
	return m
}

func encode(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// TestForgerMakesGoodTokens verifies a forger's default token. The service must accept
// this token. Otherwise the refusal of changed tokens would prove nothing.
func TestForgerMakesGoodTokens(t *testing.T) {
	t.Parallel()
	s := offline(t)
	f := newForger(t, s)
	for _, token := range []string{f.with(nil, nil), f.with(nil, members{"role": []string{"unknown claims are ignored"}})} {
		got, err := s.Verify(t.Context(), token)
		want := Identity{
			Account: uuid.MustParse("0198c5a2-6b8e-7cc0-9d3e-0a1b2c3d4e5f"),
			Session: uuid.MustParse("0198c5a2-6b8e-7cc0-9d3e-0a1b2c3d4e60"),
			Expires: f.now.Add(30 * time.Minute),
		}
		if err != nil || got != want {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// claimsOf returns the payload of a token.
func claimsOf(t testing.TB, token string) []byte {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	return payload
}
