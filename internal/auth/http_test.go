package auth_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"colophon/api"
	"colophon/events"
	"colophon/internal/auth"
	"colophon/internal/policy"
	"colophon/jobs"
)

// serve runs the whole API over a service and its store, as one process would.
func serve(t *testing.T, f *auth.Fixture, s *auth.Service, store *events.Store, log *slog.Logger) string {
	t.Helper()
	model := jobs.Model{Name: "fake", Context: 1000, Encode: func(text string) []int { return make([]int, len(text)) }}
	queue, err := jobs.NewQueue(f.DB().App, store, model, policy.Default, jobs.Limits{}, log)
	if err != nil {
		t.Fatal(err)
	}
	stopping, stop := context.WithCancel(context.Background())
	handler, err := api.New(api.Options{Stopping: stopping, Store: store, Queue: queue, Auth: s, Ready: f.DB().App.Ping, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Config.MaxHeaderBytes = 4 << 20 // so that what is too long gets as far as the API
	server.Start()
	t.Cleanup(server.Close)
	t.Cleanup(stop) // first
	return server.URL
}

// client is what the tests call with; its transport is not the one that a
// library would use by itself.
func newClient(t *testing.T) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

type answer struct {
	status int
	header http.Header
	body   string
}

func call(t testing.TB, c *http.Client, method, url, body, authorization string) (answer, error) {
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if authorization != "" {
		req.Header["Authorization"] = []string{authorization}
	}
	switch {
	case strings.HasPrefix(body, "{"):
		req.Header.Set("Content-Type", "application/json")
	case body != "":
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(got)}, err
}

// sendable reports whether HTTP carries a text in a header as it is.
func sendable(text string) bool {
	return text == strings.TrimSpace(text) && text != "" && strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) < 0
}

// trap makes every call that the program makes by itself fail the test: those
// through the default HTTP client, and names that are looked up.
func trap(t *testing.T) {
	t.Helper()
	client, resolver := http.DefaultTransport, net.DefaultResolver
	t.Cleanup(func() { http.DefaultTransport, net.DefaultResolver = client, resolver })
	http.DefaultTransport = roundTrip(func(r *http.Request) (*http.Response, error) {
		t.Errorf("a call to %s", r.URL)
		return nil, io.ErrUnexpectedEOF
	})
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, address string) (net.Conn, error) {
		t.Errorf("a name was looked up at %s %s", network, address)
		return nil, io.ErrUnexpectedEOF
	}}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// logBuffer is a log that may be written from many sides.
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

// TestHostileAccessTokensOverHTTP sends what an attacker may to the whole API.
//
// security: ASVS 9.1.2, ASVS 9.1.3, API2:2023
func TestHostileAccessTokensOverHTTP(t *testing.T) {
	f := auth.NewFixture(t)
	f.MustRegister(t)
	var log logBuffer
	s, store := f.Process(t, false)
	base := serve(t, f, s, store, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	client := newClient(t)
	trap(t)
	called := 0
	bait := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called++ }))
	defer bait.Close()

	ask := func(t *testing.T, method, path, body, authorization string) answer {
		t.Helper()
		a, err := call(t, client, method, base+path, body, authorization)
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
		if a := ask(t, "GET", "/history", "", authorization); a.status != http.StatusOK {
			t.Errorf("a good one is refused: %s", a.body)
		}
	}
	// refused checks that the answer says nothing of what is wrong.
	const want = `{"title":"Unauthorized","status":401,"detail":"the access token is not valid, or no longer: get a new one from POST /token",` +
		`"instance":"urn:uuid:%s","error":{"message":"the access token is not valid, or no longer: get a new one from POST /token",` +
		`"type":"authentication_error","param":null,"code":"invalid_access_token"}}`
	refused := func(t *testing.T, token string) {
		t.Helper()
		for _, r := range []struct{ method, path, body string }{{"GET", "/history", ""}, {"POST", "/jobs", `{"prompt":"The nature of light"}`}} {
			a := ask(t, r.method, r.path, r.body, "Bearer "+token)
			if want := fmt.Sprintf(want, a.header.Get("X-Request-Id")); a.status != http.StatusUnauthorized || strings.TrimSpace(a.body) != want {
				t.Errorf("%s %s: %d\n%s, want\n%s", r.method, r.path, a.status, a.body, want)
			}
			if got := a.header.Get("WWW-Authenticate"); got != `Bearer realm="colophon", error="invalid_token"` {
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
		"claims nobody knows":   {"role": "admin", "scope": []string{"*"}},
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
		"expired by a second":     {"exp": now - skew},
		"not valid by a second":   {"nbf": now + skew + 1},
		"not issued by a second":  {"iat": now + skew + 1},
		"exp over 32 bits, minus": {"exp": -(now + 1<<32)},
	} {
		tokens[what] = forger.With(nil, claims)
	}
	sent := 0
	for what, token := range tokens {
		if !sendable(token) { // Verify is tested with it; HTTP would trim or refuse it
			continue
		}
		sent++
		t.Run("forged/"+what, func(t *testing.T) {
			refused(t, token)
			if len(token) <= 8<<10 { // who cannot sign in with it cannot sign out with it either
				if a := ask(t, "POST", "/revoke", url.Values{"token": {token}}.Encode(), ""); a.status != http.StatusOK || a.body != "" {
					t.Errorf("revoke: %d %s", a.status, a.body)
				}
			}
		})
	}
	if sent < 140 {
		t.Errorf("only %d tokens sent", sent)
	}
	t.Logf("%d forged tokens", sent)
	good(t, "Bearer "+forger.With(nil, nil)) // no session has ended of all that

	// What was good once.
	revoke := func(token string) func(*testing.T, string, auth.Tokens, auth.Identity) {
		return func(t *testing.T, _ string, tokens auth.Tokens, _ auth.Identity) {
			values := url.Values{"token": {tokens.RefreshToken}}
			if token == "access_token" {
				values = url.Values{"token": {tokens.AccessToken}, "token_type_hint": {token}}
			}
			if a := ask(t, "POST", "/revoke", values.Encode(), ""); a.status != http.StatusOK {
				t.Error(a.body)
			}
		}
	}
	for i, c := range []struct {
		what string
		soon bool // and not at once: this process has to hear of it
		end  func(*testing.T, string, auth.Tokens, auth.Identity)
	}{
		{"revoked", false, revoke("refresh_token")},
		{"revoked itself", false, revoke("access_token")},
		{"refresh token reused", false, func(t *testing.T, _ string, tokens auth.Tokens, _ auth.Identity) {
			refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens.RefreshToken}}.Encode()
			if a := ask(t, "POST", "/token", refresh, ""); a.status != http.StatusOK {
				t.Error(a.body)
			}
			f.Advance(auth.Grace + time.Second)
			if a := ask(t, "POST", "/token", refresh, ""); a.status != http.StatusUnauthorized {
				t.Error(a.body)
			}
		}},
		{"signed out everywhere", false, func(t *testing.T, _ string, tokens auth.Tokens, _ auth.Identity) {
			if a := ask(t, "DELETE", "/users/me/sessions", "", "Bearer "+tokens.AccessToken); a.status != http.StatusNoContent {
				t.Error(a.body)
			}
		}},
		{"password changed in another session", false, func(t *testing.T, user string, _ auth.Tokens, _ auth.Identity) {
			other := signIn(t, user)
			body := fmt.Sprintf(`{"current_password":%q,"new_password":"another long sentence"}`, auth.Password)
			if a := ask(t, "PUT", "/users/me/password", body, "Bearer "+other.AccessToken); a.status != http.StatusNoContent {
				t.Error(a.body)
			}
			good(t, "Bearer "+other.AccessToken)
		}},
		{"erased", false, func(t *testing.T, _ string, tokens auth.Tokens, _ auth.Identity) {
			if a := ask(t, "DELETE", "/users/me", fmt.Sprintf(`{"password":%q}`, auth.Password), "Bearer "+tokens.AccessToken); a.status != http.StatusNoContent {
				t.Error(a.body)
			}
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
				if a := ask(t, "GET", "/history", "", "Bearer "+tokens.AccessToken); a.status != http.StatusOK {
					break
				}
			}
			refused(t, tokens.AccessToken)
		})
	}
	if called > 0 {
		t.Errorf("%d calls to where the tokens pointed", called)
	}
	if text := log.String(); strings.Contains(text, "panic") || strings.Contains(text, "eyJ") || strings.Contains(text, "level=ERROR") {
		t.Errorf("the log has a panic, an error or a token:\n%.5000s", text)
	}
}

// TestKeysRotateUnderLoad has clients sign in, refresh and call at two processes
// in turn, while the keys rotate. COLOPHON_TEST_ROTATIONS sets how often.
func TestKeysRotateUnderLoad(t *testing.T) {
	rotations := 3
	if text := os.Getenv("COLOPHON_TEST_ROTATIONS"); text != "" {
		var err error
		if rotations, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	f := auth.NewFixture(t)
	f.MustRegister(t)
	log := slog.New(slog.DiscardHandler)
	var bases [2]string
	var services [2]*auth.Service
	for i := range bases {
		s, store := f.Process(t, true)
		services[i], bases[i] = s, serve(t, f, s, store, log)
	}
	client := newClient(t)
	var requests, failures atomic.Int64
	ask := func(ctx context.Context, method, path, body, authorization string) string {
		a, err := call(t, client, method, bases[rand.IntN(len(bases))]+path, body, authorization)
		requests.Add(1)
		if ctx.Err() == nil && (err != nil || a.status != http.StatusOK) {
			failures.Add(1)
			t.Errorf("%s %s: %d %s %v", method, path, a.status, a.body, err)
		}
		return a.body
	}
	type pair struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
	}
	ctx, done := context.WithCancel(t.Context())
	defer done()
	signed := make(chan string, 1000) // the keys of the access tokens, as they come
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				var now pair
				_ = json.Unmarshal([]byte(ask(ctx, "POST", "/token", url.Values{"username": {auth.Name}, "password": {auth.Password}}.Encode(), "")), &now)
				for range 5 {
					for range 3 {
						ask(ctx, "GET", "/history", "", "Bearer "+now.AccessToken)
					}
					ask(ctx, "GET", "/.well-known/jwks.json", "", "")
					if ctx.Err() != nil || now.AccessToken == "" {
						return
					}
					signed <- auth.KID(t, now.AccessToken)
					refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {now.RefreshToken}}.Encode()
					_ = json.Unmarshal([]byte(ask(ctx, "POST", "/token", refresh, "")), &now)
					time.Sleep(20 * time.Millisecond) // tests run beside
				}
			}
		})
	}
	go func() { wg.Wait(); close(signed) }()
	seen := map[string]bool{}
	for kid := range signed { // before the first rotation, there has been some load
		seen[kid] = true
		if requests.Load() > 50 {
			break
		}
	}
	for i := range rotations {
		r, err := services[i%2].Rotate(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		for kid := range signed { // until it signs
			if seen[kid] = true; kid == r.Key {
				break
			}
		}
	}
	for range 100 { // and everybody has met it
		seen[<-signed] = true
	}
	done()
	for kid := range signed {
		seen[kid] = true
	}
	if len(seen) != rotations+1 {
		t.Errorf("%d keys have signed, want %d", len(seen), rotations+1)
	}
	t.Logf("%d requests, %d rotations, %d failures", requests.Load(), rotations, failures.Load())
}

// TestAStreamEndsWithItsSession ends sessions at one process while streams and
// waiting requests of theirs are open at another.
//
// security: ASVS 7.4.1, ASVS 8.3.2
func TestAStreamEndsWithItsSession(t *testing.T) {
	f := auth.NewFixture(t)
	f.MustRegister(t)
	log := slog.New(slog.DiscardHandler)
	s, store := f.Process(t, true)
	here := serve(t, f, s, store, log)
	s, store = f.Process(t, true)
	there := serve(t, f, s, store, log)
	client := newClient(t)
	for what, end := range map[string]func(user string, tokens auth.Tokens) error{
		"signed-out": func(_ string, tokens auth.Tokens) error {
			a, err := call(t, client, "POST", here+"/revoke", url.Values{"token": {tokens.RefreshToken}}.Encode(), "")
			if err == nil && a.status != http.StatusOK {
				t.Errorf("revoke: %d %s", a.status, a.body)
			}
			return err
		},
		"disabled": func(user string, _ auth.Tokens) error {
			_, err := f.DB().Owner.Exec(t.Context(), `update accounts set disabled_at = now() where username = $1`, user)
			return err
		},
		"erased": func(_ string, tokens auth.Tokens) error {
			a, err := call(t, client, "DELETE", here+"/users/me", fmt.Sprintf(`{"password":%q}`, auth.Password), "Bearer "+tokens.AccessToken)
			if err == nil && a.status != http.StatusNoContent {
				t.Errorf("erase: %d %s", a.status, a.body)
			}
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			if _, err := f.Register(t.Context(), what, auth.Password); err != nil {
				t.Fatal(err)
			}
			tokens, err := f.SignIn(t.Context(), what, auth.Password)
			if err != nil {
				t.Fatal(err)
			}
			bearer := "Bearer " + tokens.AccessToken
			var job struct{ ID string }
			a, err := call(t, client, "POST", there+"/jobs", `{"prompt":"The nature of light"}`, bearer)
			if err != nil || json.Unmarshal([]byte(a.body), &job) != nil || job.ID == "" {
				t.Fatalf("%s, %v", a.body, err)
			}
			req, err := http.NewRequestWithContext(t.Context(), "GET", there+"/jobs/"+job.ID+"/events", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", bearer)
			req.Header.Set("Accept", "text/event-stream")
			stream, err := client.Do(req)
			if err != nil || stream.StatusCode != http.StatusOK {
				t.Fatal(err)
			}
			defer stream.Body.Close()
			waits := make(chan answer, 1)
			go func() {
				a, err := call(t, client, "POST", there+"/generate", `{"prompt":"The nature of light"}`, bearer)
				if err != nil {
					t.Error(err)
				}
				waits <- a
			}()
			patience := time.Now().Add(time.Minute)
			for n := 0; n < 2; time.Sleep(5 * time.Millisecond) { // until it waits as well
				if time.Now().After(patience) {
					t.Fatal("the waiting request has made no job")
				}
				if err := f.DB().Owner.QueryRow(t.Context(), `select count(*) from history where created_at >= (select created_at from history where job = $1)`, job.ID).Scan(&n); err != nil {
					t.Fatal(err)
				}
			}
			if err := end(what, tokens); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			text, err := io.ReadAll(stream.Body)
			if err != nil || !strings.Contains(string(text), "event: job.accepted") || strings.Contains(string(text), "retry:") {
				t.Errorf("%q, %v", text, err)
			}
			// With the account, its jobs end; which of the two comes first is open.
			if a := <-waits; !strings.Contains(a.body, "invalid_access_token") && (what != "erased" || !strings.Contains(a.body, "job_cancelled")) {
				t.Errorf("who waits is answered %d %s", a.status, a.body)
			}
			took := time.Since(begin)
			t.Logf("both are over after %v", took)
			if took > 8*time.Second { // 1, where there is time; a heartbeat would come after 10
				t.Errorf("the stream and the waiting request lasted %v", took)
			}
			state, want := "", "queued"
			if what == "erased" {
				want = "cancelled"
			}
			if err := f.DB().Owner.QueryRow(t.Context(), `select state from history order by job desc limit 1`).Scan(&state); err != nil || state != want {
				t.Errorf("the job that was waited for is %s, want %s, %v", state, want, err)
			}
		})
	}
}
