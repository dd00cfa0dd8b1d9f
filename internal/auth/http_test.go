package auth_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"colophon/api"
	"colophon/events"
	"colophon/internal/auth"
	"colophon/internal/policy"
	"colophon/jobs"
	"colophon/test/apitest"
)

// serve runs the whole API over a service and its store, and returns its URL.
func serve(t *testing.T, f *auth.Fixture, s *auth.Service, store *events.Store, log *slog.Logger) string {
	t.Helper()
	model := jobs.Model{Name: "fake", Context: 1000, Vocab: 300, Encode: func(text string) []int { return make([]int, len(text)) }}
	queue, err := jobs.NewQueue(f.DB().App, store, model, policy.Default, jobs.Limits{}, log)
	if err != nil {
		t.Fatal(err)
	}
	stopping, stop := context.WithCancel(context.Background())
	ready := func(ctx context.Context) ([]string, error) { return nil, f.DB().App.Ping(ctx) }
	handler, err := api.New(api.Options{Stopping: stopping, Store: store, Queue: queue, Auth: s, Ready: ready, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Config.MaxHeaderBytes = 4 << 20 // large, so that overlong headers reach the API and are refused there
	server.Start()
	t.Cleanup(server.Close)
	t.Cleanup(stop) // cleanups run in reverse order, so stop runs before server.Close
	return server.URL
}

// newClient returns a client with a transport of its own. It does not use the default
// transport, because trap replaces that to catch the requests of libraries.
func newClient(t *testing.T, url string) apitest.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	return apitest.Client{T: t, URL: url, Transport: transport}
}

// call sends a request with a body of JSON or a form, and the given Authorization header.
func call(c apitest.Client, method, path, body, authorization string) (apitest.Answer, error) {
	var headers []string
	if body != "" && !strings.HasPrefix(body, "{") {
		headers = append(headers, "Content-Type", apitest.FormType)
	}
	if authorization != "" {
		headers = append(headers, "Authorization", authorization)
	}
	return c.Send(c.T.Context(), method, path, body, headers...)
}

// sendable reports whether a text stays unchanged in an HTTP header.
func sendable(text string) bool {
	return text == strings.TrimSpace(text) && text != "" && strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) < 0
}

// trap makes the test fail if the program itself sends a request through the default
// HTTP transport or looks up a name.
func trap(t *testing.T) {
	t.Helper()
	client, resolver := http.DefaultTransport, net.DefaultResolver
	t.Cleanup(func() { http.DefaultTransport, net.DefaultResolver = client, resolver })
	http.DefaultTransport = roundTrip(func(r *http.Request) (*http.Response, error) {
		t.Errorf("unexpected request to %s", r.URL)
		return nil, io.ErrUnexpectedEOF
	})
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, address string) (net.Conn, error) {
		t.Errorf("unexpected name lookup at %s %s", network, address)
		return nil, io.ErrUnexpectedEOF
	}}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestHostileAccessTokensAreRefusedOverHTTP sends forged and revoked tokens to the whole
// API. Each token must be refused.
//
// security: ASVS 9.1.2, ASVS 9.1.3, API2:2023
func TestHostileAccessTokensAreRefusedOverHTTP(t *testing.T) {
	f := auth.NewFixture(t)
	f.MustRegister(t)
	var log apitest.Log
	s, store := f.Process(t, false)
	client := newClient(t, serve(t, f, s, store, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	trap(t)
	called := 0
	bait := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called++ }))
	defer bait.Close()

	ask := func(t *testing.T, method, path, body, authorization string) apitest.Answer {
		t.Helper()
		a, err := call(client, method, path, body, authorization)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	signIn := func(t *testing.T, user string) auth.Tokens {
		t.Helper()
		tokens, err := s.SignIn(t.Context(), user, auth.Password, "")
		if err != nil {
			t.Fatal(err)
		}
		return tokens
	}
	good := func(t *testing.T, authorization string) {
		t.Helper()
		if a := ask(t, "GET", "/history", "", authorization); a.Status != http.StatusOK {
			t.Errorf("a valid token is refused: %s", a.Body)
		}
	}
	const want = `{"title":"Unauthorized","status":401,"detail":"the access token is invalid, expired or revoked: get a new one from POST /token",` +
		`"instance":"urn:uuid:%s","error":{"message":"the access token is invalid, expired or revoked: get a new one from POST /token",` +
		`"type":"authentication_error","param":null,"code":"invalid_access_token"}}`
	// refused sends a token that must be refused. The response must not reveal the reason.
	refused := func(t *testing.T, token string) {
		t.Helper()
		for _, r := range []struct{ method, path, body string }{{"GET", "/history", ""}, {"POST", "/jobs", `{"prompt":"The nature of light"}`}} {
			a := ask(t, r.method, r.path, r.body, "Bearer "+token)
			if want := fmt.Sprintf(want, a.Header.Get("X-Request-Id")); a.Status != http.StatusUnauthorized || strings.TrimSpace(string(a.Body)) != want {
				t.Errorf("%s %s: %d\n%s, want\n%s", r.method, r.path, a.Status, a.Body, want)
			}
			if got := a.Header.Get("WWW-Authenticate"); got != `Bearer realm="colophon", error="invalid_token"` {
				t.Errorf("WWW-Authenticate: %s", got)
			}
		}
	}

	id, err := s.Verify(t.Context(), signIn(t, auth.Name).AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	forger := auth.NewForger(t, s, id)
	now := forger.Now().Unix()
	skew := int64(auth.MaxSkew / time.Second)
	for what, claims := range map[string]auth.Members{
		"as issued":             nil,
		"expired just now":      {"exp": now - skew + 1},
		"valid in a moment":     {"nbf": now + skew},
		"issued in a moment":    {"iat": now + skew},
		"unknown claims":        {"role": "admin", "scope": []string{"*"}},
		"longer than most":      {"pad": strings.Repeat("A", 5<<10)},
		"valid for a long time": {"exp": now + 1<<32},
	} {
		t.Run("good/"+what, func(t *testing.T) { good(t, "Bearer "+forger.With(nil, claims)) })
	}
	for _, scheme := range []string{"bearer ", "BEARER ", "Bearer  "} {
		good(t, scheme+forger.With(nil, nil))
	}

	tokens := auth.Hostile(t, forger, bait.URL)
	for what, claims := range map[string]auth.Members{
		"expired by a second":      {"exp": now - skew},
		"valid a second too late":  {"nbf": now + skew + 1},
		"issued a second too late": {"iat": now + skew + 1},
		"exp negative, 33 bits":    {"exp": -(now + 1<<32)},
	} {
		tokens[what] = forger.With(nil, claims)
	}
	sent := 0
	for what, token := range tokens {
		if !sendable(token) { // TestHostileAccessTokensAreRefused covers this token
			continue
		}
		sent++
		t.Run("forged/"+what, func(t *testing.T) {
			refused(t, token)
			if len(token) <= 8<<10 { // a forged token must revoke no session
				if a := ask(t, "POST", "/revoke", url.Values{"token": {token}}.Encode(), ""); a.Status != http.StatusOK || len(a.Body) > 0 {
					t.Errorf("revoke: %d %s", a.Status, a.Body)
				}
			}
		})
	}
	if sent < 140 {
		t.Errorf("only %d tokens sent", sent)
	}
	t.Logf("%d forged tokens", sent)
	good(t, "Bearer "+forger.With(nil, nil)) // the forged tokens must have ended no session

	// Each of the following tokens was valid until the event that its name describes.
	revoke := func(token string) func(*testing.T, string, auth.Tokens, auth.Identity) {
		return func(t *testing.T, _ string, tokens auth.Tokens, _ auth.Identity) {
			values := url.Values{"token": {tokens.RefreshToken}}
			if token == "access_token" {
				values = url.Values{"token": {tokens.AccessToken}, "token_type_hint": {token}}
			}
			ask(t, "POST", "/revoke", values.Encode(), "").Must(t, http.StatusOK)
		}
	}
	for i, c := range []struct {
		what string
		soon bool // true if the token is refused after the next poll and not at once
		end  func(*testing.T, string, auth.Tokens, auth.Identity)
	}{
		{"revoked", false, revoke("refresh_token")},
		{"revoked itself", false, revoke("access_token")},
		{"refresh token reused", false, func(t *testing.T, _ string, tokens auth.Tokens, _ auth.Identity) {
			refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens.RefreshToken}}.Encode()
			ask(t, "POST", "/token", refresh, "").Must(t, http.StatusOK)
			f.Advance(auth.Grace + time.Second)
			ask(t, "POST", "/token", refresh, "").Must(t, http.StatusUnauthorized)
		}},
		{"signed out everywhere", false, func(t *testing.T, _ string, tokens auth.Tokens, _ auth.Identity) {
			ask(t, "DELETE", "/users/me/sessions", "", "Bearer "+tokens.AccessToken).Must(t, http.StatusNoContent)
		}},
		{"password changed in another session", false, func(t *testing.T, user string, _ auth.Tokens, _ auth.Identity) {
			other := signIn(t, user)
			body := fmt.Sprintf(`{"current_password":%q,"new_password":"another long sentence"}`, auth.Password)
			ask(t, "PUT", "/users/me/password", body, "Bearer "+other.AccessToken).Must(t, http.StatusNoContent)
			good(t, "Bearer "+other.AccessToken)
		}},
		{"erased", false, func(t *testing.T, _ string, tokens auth.Tokens, _ auth.Identity) {
			ask(t, "DELETE", "/users/me", fmt.Sprintf(`{"password":%q}`, auth.Password), "Bearer "+tokens.AccessToken).Must(t, http.StatusNoContent)
		}},
		{"disabled", true, func(t *testing.T, _ string, _ auth.Tokens, id auth.Identity) {
			f.Exec(t, `update accounts set disabled_at = now() where id = $1`, id.Account)
		}},
		{"session removed", true, func(t *testing.T, _ string, _ auth.Tokens, id auth.Identity) {
			f.Exec(t, `delete from sessions where id = $1`, id.Session)
		}},
		{"account removed", true, func(t *testing.T, _ string, _ auth.Tokens, id auth.Identity) {
			f.Exec(t, `delete from accounts where id = $1`, id.Account)
		}},
		{"expired in time", false, func(t *testing.T, _ string, tokens auth.Tokens, _ auth.Identity) {
			f.Advance(tokens.ExpiresIn + auth.MaxSkew + time.Second)
		}},
		{"signed with a leaked key", true, func(t *testing.T, _ string, _ auth.Tokens, _ auth.Identity) {
			if _, err := s.Rotate(t.Context(), true); err != nil {
				t.Fatal(err)
			}
			f.Advance(time.Minute)
		}},
	} {
		t.Run("once good/"+c.what, func(t *testing.T) {
			user := fmt.Sprintf("once-good-%d", i)
			if _, err := f.Register(t.Context(), user, auth.Password); err != nil {
				t.Fatal(err)
			}
			tokens := signIn(t, user)
			good(t, "Bearer "+tokens.AccessToken)
			id, err := s.Verify(t.Context(), tokens.AccessToken)
			if err != nil {
				t.Fatal(err)
			}
			c.end(t, user, tokens, id)
			for begin := time.Now(); c.soon && time.Since(begin) < 20*time.Second; time.Sleep(10 * time.Millisecond) {
				if a := ask(t, "GET", "/history", "", "Bearer "+tokens.AccessToken); a.Status != http.StatusOK {
					break
				}
			}
			refused(t, tokens.AccessToken)
		})
	}
	if called > 0 {
		t.Errorf("%d requests to the URLs in the tokens", called)
	}
	if text := log.String(); strings.Contains(text, "panic") || strings.Contains(text, "eyJ") || strings.Contains(text, "level=ERROR") {
		t.Errorf("the log holds a panic, an error or a token:\n%.5000s", text)
	}
}
