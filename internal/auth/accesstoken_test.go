package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// TestAccessTokenHasTheDocumentedForm decodes a signed access token. Its header and
// claims must be exactly those that the documentation lists.
//
// security: ASVS 9.2.3
func TestAccessTokenHasTheDocumentedForm(t *testing.T) {
	t.Parallel()
	s := offline(t)
	account, session := uuid.New(), uuid.New()
	token, err := s.sign(s.keys.current.Load().signer(s.now()), account, session, s.now().Add(DefaultAccessTTL))
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	var header, claims map[string]any
	for i, dst := range []any{&header, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, dst); err != nil {
			t.Fatal(err)
		}
	}
	if jti, _ := claims["jti"].(string); uuid.Validate(jti) != nil {
		t.Errorf("jti %q", jti)
	}
	delete(claims, "jti")
	now := float64(s.now().Unix())
	public, _ := privateKey(t, s).Public().(ed25519.PublicKey)
	thumbprint := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + b64(string(public)) + `"}`)) // RFC 7638 and RFC 8037 define this input
	want := []members{
		{"alg": "EdDSA", "typ": "at+jwt", "kid": b64(string(thumbprint[:]))},
		{
			"iss": "https://colophon.test", "aud": "colophon", "sub": account.String(), "sid": session.String(),
			"iat": now, "nbf": now, "exp": now + 1800,
		},
	}
	if diff := cmp.Diff(want, []members{header, claims}); diff != "" {
		t.Error(diff)
	}
	got, err := s.Verify(t.Context(), token)
	if want := (Identity{Account: account, Session: session, Expires: s.now().Add(30 * time.Minute)}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	// The standard library's package ed25519 must accept the signature too.
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || !ed25519.Verify(public, []byte(parts[0]+"."+parts[1]), signature) {
		t.Error("the signature is wrong")
	}
}

// TestAccessTokenTimesAreChecked verifies access tokens whose times are close to the
// limits. A time may be off by the permitted difference between clocks, but not by more.
//
// security: ASVS 9.2.1
func TestAccessTokenTimesAreChecked(t *testing.T) {
	t.Parallel()
	s := offline(t)
	f := newForger(t, s)
	now := f.now.Unix()
	for _, c := range []struct {
		what   string
		claims members
		good   bool
	}{
		{"expires now", members{"exp": now}, true}, // accepted, because clocks may differ by maxSkew
		{"expired within the skew", members{"exp": now - 4}, true},
		{"expired", members{"exp": now - 5}, false},
		{"valid after one skew", members{"nbf": now + 5}, true},
		{"not valid yet", members{"nbf": now + 6}, false},
		{"issued one skew from now", members{"iat": now + 5}, true},
		{"issued in the future", members{"iat": now + 6}, false},
	} {
		_, err := s.Verify(t.Context(), f.with(nil, c.claims))
		if (err == nil) != c.good || err != nil && !errors.Is(err, ErrAccessToken) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// hostile returns tokens that must be refused, keyed by their defect. Most of these tokens
// are signed with the service's own key, although no attacker has this key.
func hostile(t testing.TB, f forger, url string) map[string]string {
	good := f.with(nil, nil)
	part := strings.Split(good, ".")
	thief := f
	_, thief.private, _ = ed25519.GenerateKey(rand.Reader)
	public, _ := f.private.Public().(ed25519.PublicKey)
	thiefPublic, _ := thief.private.Public().(ed25519.PublicKey)
	thiefJWK := members{"kty": "OKP", "crv": "Ed25519", "kid": f.kid, "x": b64(string(thiefPublic))}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	unsigned := func(header members) string {
		return b64(encode(change(f.header(), header))) + "." + part[1]
	}
	hs256 := func(secret []byte) string {
		input := unsigned(members{"alg": "HS256"})
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(input))
		return input + "." + b64(string(mac.Sum(nil)))
	}

	tokens := map[string]string{
		// The following texts are not tokens.
		"empty":           "",
		"a dot":           ".",
		"two dots":        "..",
		"three dots":      "...",
		"garbage":         "garbage",
		"garbage parts":   "a.b.c",
		"binary":          "\x00\xff\xfe.\x80.\x00",
		"1 MB":            strings.Repeat("A", 1<<20),
		"1 MB of dots":    strings.Repeat(".", 1<<20),
		"1 MB of claims":  f.with(nil, members{"pad": strings.Repeat("A", 1<<20)}),
		"8 KiB and more":  f.with(nil, members{"pad": strings.Repeat("A", 6<<10)}),
		"deep claims":     f.raw(encode(f.header()), strings.Repeat("[", 5000)),
		"refresh token":   refreshPrefix + strings.Repeat("A", 43),
		"with its scheme": "Bearer " + good,
		"space before":    " " + good,
		"space after":     good + " ",
		"line break":      good + "\n",
		"break inside":    part[0] + ".\n" + part[1] + "." + part[2],
		"NUL after":       good + "\x00",
		"two parts":       part[0] + "." + part[1],
		"four parts":      good + "." + part[2],
		"five parts":      good + "." + part[2] + "." + part[2],
		"padded":          part[0] + "." + part[1] + "." + part[2] + "==",
		"standard base64": part[0] + "." + part[1] + "." + strings.Repeat("+/", 43),
		"JSON, flattened": encode(members{"protected": part[0], "payload": part[1], "signature": part[2]}),
		"JSON, general":   encode(members{"payload": part[1], "signatures": []members{{"protected": part[0], "signature": part[2]}}}),
		"nested":          f.raw(encode(change(f.header(), members{"cty": "JWT"})), good),
		"unsigned claims": encode(f.claims()),

		// The following tokens have wrong signatures.
		"no signature":        part[0] + "." + part[1] + ".",
		"signature of zeros":  part[0] + "." + part[1] + "." + b64(strings.Repeat("\x00", 64)),
		"signature truncated": good[:len(good)-2],
		"signature longer":    good + "AA",
		"other unused bits":   good[:len(good)-1] + string(good[len(good)-1]+1),
		"signature replaced":  part[0] + "." + part[1] + "." + strings.Split(f.with(nil, members{"jti": "other"}), ".")[2],
		"claims replaced":     part[0] + "." + b64(encode(change(f.claims(), members{"sub": uuid.NewString()}))) + "." + part[2],
		"another key":         thief.with(nil, nil),
		"another key and kid": thief.with(members{"kid": "other"}, nil),
		"HS256, public key":   hs256(public),
		"HS256, PEM":          hs256(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"HS256, DER":          hs256(der),
		"HS256, JWK":          hs256([]byte(encode(publicJWK(t, f)))),
		"HS256, empty":        hs256(nil),
		"HS256, a default":    hs256([]byte("your-secret-key")),
		"HS256, private seed": hs256(f.private.Seed()),
		"RS256":               rs256(t, unsigned(members{"alg": "RS256"})),
		"PS256":               rs256(t, unsigned(members{"alg": "PS256"})),
		"ES256":               es256(t, unsigned(members{"alg": "ES256"})),
		"ES256, empty":        unsigned(members{"alg": "ES256"}) + "." + b64(strings.Repeat("\x00", 64)),
		"no alg":              f.with(members{"alg": absent{}}, nil),
		"alg null":            f.with(members{"alg": nil}, nil),
		"alg in lower case":   f.with(members{"alg": "eddsa"}, nil),
		"alg Ed25519":         f.with(members{"alg": "Ed25519"}, nil),
		"alg unlisted":        f.with(members{"alg": "XX999"}, nil),
		"alg a list":          f.with(members{"alg": []string{"EdDSA"}}, nil),
		"alg a number":        f.with(members{"alg": 1}, nil),

		// The following tokens supply a key for their own verification.
		"jwk":          thief.with(members{"jwk": thiefJWK}, nil),
		"jwk, signed":  f.with(members{"jwk": thiefJWK}, nil),
		"jwk, no kid":  thief.with(members{"jwk": thiefJWK, "kid": absent{}}, nil),
		"jku":          thief.with(members{"jku": url}, nil),
		"jku, signed":  f.with(members{"jku": url}, nil),
		"x5u":          thief.with(members{"x5u": url}, nil),
		"x5u, signed":  f.with(members{"x5u": url}, nil),
		"x5c":          thief.with(members{"x5c": []string{base64.StdEncoding.EncodeToString(der)}}, nil),
		"x5t":          f.with(members{"x5t": "AAAA"}, nil),
		"crit":         f.with(members{"crit": []string{"exp"}}, nil),
		"crit, b64":    f.with(members{"crit": []string{"b64"}, "b64": false}, nil),
		"b64":          f.with(members{"b64": false}, nil),
		"zip":          f.with(members{"zip": "DEF"}, nil),
		"enc":          f.with(members{"enc": "A128GCM", "alg": "dir"}, nil),
		"no kid":       f.with(members{"kid": absent{}}, nil),
		"kid empty":    f.with(members{"kid": ""}, nil),
		"kid unknown":  f.with(members{"kid": uuid.NewString()}, nil),
		"kid a path":   f.with(members{"kid": "../../../../dev/null"}, nil),
		"kid SQL":      f.with(members{"kid": "x' or retired_at is null --"}, nil),
		"kid a URL":    f.with(members{"kid": url}, nil),
		"kid NUL":      f.with(members{"kid": f.kid + "\x00"}, nil),
		"kid a list":   f.with(members{"kid": []string{f.kid}}, nil),
		"kid a number": f.with(members{"kid": 0}, nil),
		"kid null":     f.with(members{"kid": nil}, nil),
		"kid long":     f.with(members{"kid": strings.Repeat("k", 4000)}, nil),

		// The following tokens are of another kind or were made for another service.
		"typ JWT":          f.with(members{"typ": "JWT"}, nil),
		"no typ":           f.with(members{"typ": absent{}}, nil),
		"typ id token":     f.with(members{"typ": "id+jwt"}, nil),
		"typ a number":     f.with(members{"typ": 1}, nil),
		"cty":              f.with(members{"cty": "JWT"}, nil),
		"another iss":      f.with(nil, members{"iss": "https://colophon.example"}),
		"iss with a slash": f.with(nil, members{"iss": "https://colophon.test/"}),
		"no iss":           f.with(nil, members{"iss": absent{}}),
		"another aud":      f.with(nil, members{"aud": "other"}),
		"aud empty":        f.with(nil, members{"aud": ""}),
		"aud a list":       f.with(nil, members{"aud": []string{"other", "colophon"}}),
		"no aud":           f.with(nil, members{"aud": absent{}}),
		"no sub":           f.with(nil, members{"sub": absent{}}),
		"sub empty":        f.with(nil, members{"sub": ""}),
		"sub a name":       f.with(nil, members{"sub": "isaac"}),
		"sub a number":     f.with(nil, members{"sub": 1}),
		"sub an URN":       f.with(nil, members{"sub": "urn:uuid:" + uuid.NewString()}),
		"sub zero":         f.with(nil, members{"sub": unknownAccount.String()}),
		"no sid":           f.with(nil, members{"sid": absent{}}),
		"sid a list":       f.with(nil, members{"sid": []string{}}),
		"sid not an id":    f.with(nil, members{"sid": "1"}),
		"no jti":           f.with(nil, members{"jti": absent{}}),
		"jti empty":        f.with(nil, members{"jti": ""}),

		// The following tokens have wrong times.
		"expired":           f.with(nil, members{"exp": f.now.Add(-time.Hour).Unix()}),
		"exp 0":             f.with(nil, members{"exp": 0}),
		"exp negative":      f.with(nil, members{"exp": -1}),
		"exp text":          f.with(nil, members{"exp": fmt.Sprint(f.now.Add(time.Hour).Unix())}),
		"exp a date":        f.with(nil, members{"exp": f.now.Add(time.Hour)}),
		"exp a fraction":    f.with(nil, members{"exp": float64(f.now.Unix()) + 100.5}),
		"exp huge":          f.with(nil, members{"exp": 1e300}),
		"exp over 64 bits":  f.raw(encode(f.header()), strings.Replace(encode(f.claims()), `"exp":`, `"exp":99999999999`, 1)),
		"exp true":          f.with(nil, members{"exp": true}),
		"exp null":          f.with(nil, members{"exp": nil}),
		"exp a list":        f.with(nil, members{"exp": []int64{f.now.Add(time.Hour).Unix()}}),
		"no exp":            f.with(nil, members{"exp": absent{}}),
		"nbf in the future": f.with(nil, members{"nbf": f.now.Add(time.Hour).Unix()}),
		"nbf text":          f.with(nil, members{"nbf": "0"}),
		"no nbf":            f.with(nil, members{"nbf": absent{}}),
		"iat in the future": f.with(nil, members{"iat": f.now.Add(time.Hour).Unix()}),
		"no iat":            f.with(nil, members{"iat": absent{}}),
		"exp in other case": f.with(nil, members{"exp": absent{}, "EXP": f.now.Add(time.Hour).Unix()}),
		"sub in other case": f.with(nil, members{"sub": absent{}, "Sub": uuid.NewString()}),
		"alg in other case": f.with(members{"alg": absent{}, "Alg": "EdDSA"}, nil),
		"claims empty":      f.raw(encode(f.header()), `{}`),

		// The following tokens have JSON that two parsers may read differently.
		"alg twice":           f.raw(`{"alg":"none",`+encode(f.header())[1:], encode(f.claims())),
		"kid twice":           f.raw(`{"kid":"other",`+encode(f.header())[1:], encode(f.claims())),
		"alg twice, escaped":  f.raw(`{"\u0061lg":"none",`+encode(f.header())[1:], encode(f.claims())),
		"sub twice":           f.raw(encode(f.header()), `{"sub":"`+uuid.NewString()+`",`+encode(f.claims())[1:]),
		"exp twice":           f.raw(encode(f.header()), `{"exp":1,`+encode(f.claims())[1:]),
		"object after claims": f.raw(encode(f.header()), encode(f.claims())+`{}`),
		"letter after claims": f.raw(encode(f.header()), encode(f.claims())+`x`),
		"object after header": f.raw(encode(f.header())+encode(f.header()), encode(f.claims())),
		"a comma at the end":  f.raw(encode(f.header()), strings.TrimSuffix(encode(f.claims()), "}")+",}"),
		"not closed":          f.raw(encode(f.header()), strings.TrimSuffix(encode(f.claims()), "}")),
		"header not closed":   f.raw(strings.TrimSuffix(encode(f.header()), "}"), encode(f.claims())),
		"a list of claims":    f.raw(encode(f.header()), "["+encode(f.claims())+"]"),
		"null for claims":     f.raw(encode(f.header()), "null"),
		"null for a header":   f.raw("null", encode(f.claims())),
		"no claims":           f.raw(encode(f.header()), ""),
		"no header":           f.raw("", encode(f.claims())),
		"a byte order mark":   f.raw(encode(f.header()), "\ufeff"+encode(f.claims())),
		"claims not UTF-8":    f.raw(encode(f.header()), strings.Replace(encode(f.claims()), "an id", "an \xff", 1)),
	}
	for _, none := range []string{"none", "None", "NONE", "nOnE", "none ", "", "null"} {
		tokens[fmt.Sprintf("alg %q", none)] = unsigned(members{"alg": none}) + "."
		tokens[fmt.Sprintf("alg %q, no third part", none)] = unsigned(members{"alg": none})
		tokens[fmt.Sprintf("alg %q, old signature", none)] = unsigned(members{"alg": none}) + "." + part[2]
		tokens[fmt.Sprintf("alg %q, signed", none)] = f.with(members{"alg": none}, nil)
	}
	return tokens
}

// rsaKey generates an RSA key at its first call only, because the generation is slow.
var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func rs256(t testing.TB, input string) string {
	key, err := rsaKey()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(input))
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + b64(string(signature))
}

func es256(t testing.TB, input string) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + b64(string(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)))
}

// TestHostileAccessTokensAreRefused verifies forged and malformed access tokens. Verify
// must refuse each token and must not request any URL that a token contains.
//
// security: ASVS 7.2.1, ASVS 9.1.1, ASVS 9.1.2, ASVS 9.1.3, ASVS 9.2.2, ASVS 9.2.3, API2:2023
func TestHostileAccessTokensAreRefused(t *testing.T) {
	t.Parallel()
	called := 0
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called++ }))
	defer server.Close()
	s := offline(t)
	for what, token := range hostile(t, newForger(t, s), server.URL) {
		t.Run(what, func(t *testing.T) {
			identity, err := s.Verify(t.Context(), token)
			if !errors.Is(err, ErrAccessToken) || identity != (Identity{}) {
				t.Fatalf("%.200q: %+v, %v", token, identity, err)
			}
			t.Log(err)
		})
	}
	if called > 0 {
		t.Errorf("%d requests to the URLs in the tokens", called)
	}
}

// FuzzVerify passes arbitrary texts to Verify. Verify must accept no text except the exact
// bytes of a signed token.
func FuzzVerify(f *testing.F) {
	s := offline(f)
	good := newForger(f, s).with(nil, nil)
	f.Add(good)
	for _, token := range hostile(f, newForger(f, s), "http://127.0.0.1:1") {
		if len(token) < 4000 {
			f.Add(token)
		}
	}
	f.Fuzz(func(t *testing.T, token string) {
		_, err := s.Verify(t.Context(), token)
		if (err == nil) != (token == good) || err != nil && !errors.Is(err, ErrAccessToken) {
			t.Fatalf("%q: %v", token, err)
		}
	})
}

// FuzzVerifySigned signs fuzzed headers and claims, because a fuzzer cannot find a valid
// signature. The claims of each accepted token must be right. Another JSON parser must
// read the same claims.
func FuzzVerifySigned(f *testing.F) {
	s := offline(f)
	forger := newForger(f, s)
	f.Add(encode(forger.header()), encode(forger.claims()))
	for _, token := range hostile(f, newForger(f, s), "http://127.0.0.1:1") {
		parts := strings.Split(token, ".")
		if len(token) > 4000 || len(parts) != 3 {
			continue
		}
		header, _ := base64.RawURLEncoding.DecodeString(parts[0])
		payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
		f.Add(string(header), string(payload))
	}
	f.Fuzz(func(t *testing.T, header, payload string) {
		identity, err := s.Verify(t.Context(), forger.raw(header, payload))
		if err != nil {
			if !errors.Is(err, ErrAccessToken) {
				t.Fatalf("%q, %q: %v", header, payload, err)
			}
			return
		}
		var h, c map[string]any
		if err := errors.Join(json.Unmarshal([]byte(header), &h), json.Unmarshal([]byte(payload), &c)); err != nil {
			t.Fatalf("%q, %q: %v", header, payload, err)
		}
		if diff := cmp.Diff(forger.header(), h); diff != "" {
			t.Fatal(diff)
		}
		if c["iss"] != testOptions.Issuer || c["aud"] != testOptions.Audience ||
			c["sub"] != identity.Account.String() || c["sid"] != identity.Session.String() ||
			c["exp"] != float64(identity.Expires.Unix()) || identity.Expires.Before(s.now().Add(-maxSkew)) {
			t.Fatalf("%q: %+v", payload, identity)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	s := offline(b)
	token := newForger(b, s).with(nil, nil)
	for b.Loop() {
		if _, err := s.Verify(b.Context(), token); err != nil {
			b.Fatal(err)
		}
	}
}
