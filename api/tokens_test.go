package api_test

import (
	"bytes"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// logBuffer is a log that is written from many sides.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

const form = "application/x-www-form-urlencoded"

// signIn returns new tokens of the fixture's user.
func (f *fixture) signIn() (access, refresh string) {
	f.t.Helper()
	var tokens struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
	}
	f.do("POST", "/token", "username=somebody&password=a+long+sentence", "Content-Type", form).must(f.t, 200).into(f.t, &tokens)
	return tokens.AccessToken, tokens.RefreshToken
}

func TestPublishedKeys(t *testing.T) {
	f := newFixture(t)
	f.access = ""
	a := f.do("GET", "/.well-known/jwks.json", "").must(t, 200)
	var set struct{ Keys []map[string]string }
	a.into(t, &set)
	if len(set.Keys) != 1 {
		t.Fatalf("%s", a.body)
	}
	delete(set.Keys[0], "kid")
	delete(set.Keys[0], "x")
	if diff := cmp.Diff(map[string]string{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig"}, set.Keys[0]); diff != "" {
		t.Error(diff) // a private part among others
	}
	if a.header.Get("Cache-Control") != "public, max-age=60" || a.header.Get("Content-Type") != "application/json" || a.header.Get("ETag") == "" {
		t.Errorf("%v", a.header)
	}
	again := f.do("GET", "/.well-known/jwks.json", "", "If-None-Match", a.header.Get("ETag")).must(t, 304)
	if len(again.body) > 0 || again.header.Get("ETag") != a.header.Get("ETag") {
		t.Errorf("%q %v", again.body, again.header)
	}
}

func TestSigningOut(t *testing.T) {
	f := newFixture(t)
	revoke := func(values url.Values) answer {
		t.Helper()
		return f.do("POST", "/revoke", values.Encode(), "Content-Type", form, "Authorization", "")
	}
	for what, hint := range map[string]string{"access token": "access_token", "refresh token": "refresh_token", "wrong hint": "refresh_token", "no hint": ""} {
		access, refresh := f.signIn()
		values := url.Values{"token": {access}}
		if what == "refresh token" {
			values.Set("token", refresh)
		}
		if hint != "" {
			values.Set("token_type_hint", hint)
		}
		for range 2 { // it is the same whether there is something to end
			if a := revoke(values).must(t, 200); len(a.body) > 0 {
				t.Errorf("%s: %s", what, a.body)
			}
		}
		f.do("GET", "/history", "", "Authorization", "Bearer "+access).refused(t, 401, "invalid_access_token")
		f.do("POST", "/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}.Encode(), "Content-Type", form).
			refused(t, 401, "invalid_refresh_token")
	}
	for _, unknown := range []string{"x", "crt_" + strings.Repeat("A", 43), "a.b.c", strings.Repeat("A", 8192), "%00\x00"} {
		revoke(url.Values{"token": {unknown}}).must(t, 200)
	}
	revoke(url.Values{}).must(t, 400)
	revoke(url.Values{"token_type_hint": {"access_token"}}).must(t, 422)
	revoke(url.Values{"token": {""}}).must(t, 422)
	revoke(url.Values{"token": {strings.Repeat("A", 8193)}}).must(t, 422)
	f.do("POST", "/revoke", `{"token":"x"}`).must(t, 415)
	f.do("GET", "/revoke?token=x", "").must(t, 405)
	f.do("GET", "/history", "").must(t, 200) // another session
}
