package client

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// TestKeyReplacesAccessTokens calls the service with an API key. The client must never ask
// for tokens, and a sign-in must replace the key.
func TestKeyReplacesAccessTokens(t *testing.T) {
	s := newSessions(t)
	keyed := 0
	s.HandleFunc("GET /y", func(w http.ResponseWriter, r *http.Request) {
		keyed++
		if r.Header.Get("Authorization") != "Bearer sk-colophon-1" {
			t.Errorf("sent %v", r.Header)
		}
		problem(401, "invalid_api_key")(w, r)
	})
	c := s.client(Options{APIKey: "sk-colophon-1"})
	if _, err := c.Do(t.Context(), &Request{Path: "/y"}); code(err) != "invalid_api_key" || keyed != 1 || s.n != 0 {
		t.Errorf("%v after %d requests, and %d sign-ins", err, keyed, s.n)
	}
	if err := c.SignIn(t.Context(), "isaac", "opticks-1704"); err != nil {
		t.Fatal(err)
	}
	if err := s.get(c); err != nil {
		t.Error(err)
	}
	if _, err := New("http://service.example", Options{APIKey: "k", Tokens: Tokens{Access: "a"}}); err == nil {
		t.Error("both tokens and an API key are accepted")
	}
}

func TestKeysAreCreatedListedAndRevoked(t *testing.T) {
	s := newService(t)
	s.HandleFunc("POST /keys", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) != `{"name":"night","scopes":["read"],"expires_at":"2026-12-01T00:00:00Z"}` {
			t.Errorf("sent %s", body)
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"id":"i","name":"night","prefix":"sk-colophon-q7Xz","scopes":["read"],"created_at":"2026-11-23T00:00:00Z","key":"secret"}`)
	})
	s.HandleFunc("GET /keys", text(`[{"id":"i","name":"night","prefix":"sk-colophon-q7Xz","scopes":["read"],"created_at":"2026-11-23T00:00:00Z","last_used_at":"2026-11-24T00:00:00Z"}]`))
	s.HandleFunc("DELETE /keys/{id}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != "i/j" {
			t.Errorf("revokes %q", r.PathValue("id"))
		}
		w.WriteHeader(http.StatusNoContent)
	})
	c := s.client(Options{Tokens: Tokens{Access: "a"}})
	key, secret, err := c.CreateKey(t.Context(), KeyRequest{Name: "night", Scopes: []string{ScopeRead}, ExpiresAt: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)})
	if err != nil || secret != "secret" || key.ID != "i" || key.Prefix != "sk-colophon-q7Xz" || !key.ExpiresAt.IsZero() {
		t.Errorf("%+v, %q, %v", key, secret, err)
	}
	keys, err := c.Keys(t.Context())
	if err != nil || len(keys) != 1 || keys[0].LastUsedAt.IsZero() {
		t.Errorf("%+v, %v", keys, err)
	}
	if err := c.RevokeKey(t.Context(), "i/j"); err != nil {
		t.Error(err)
	}
}

// TestCreateKeyIsSentOnce loses the answer to the creation of a key. A second request would
// leave a key that nobody has.
func TestCreateKeyIsSentOnce(t *testing.T) {
	s := newService(t)
	s.HandleFunc("POST /keys", problem(503, "unavailable"))
	c := s.over(Options{Tokens: Tokens{Access: "a"}})
	if _, _, err := c.CreateKey(t.Context(), KeyRequest{Name: "a"}); code(err) != "unavailable" {
		t.Error(err)
	}
	if n := len(s.requests()); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}
