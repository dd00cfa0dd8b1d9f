package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/api"
	"colophon/internal/limit"
	"colophon/internal/pg"
	"colophon/migrations"
	"colophon/test/apitest"
)

// inMemory returns limits in memory, which all have the same rate.
func inMemory(t testing.TB, requests uint64) api.Limits {
	t.Helper()
	var l api.Limits
	for name, at := range map[string]**limit.Limit{
		"users": &l.Users, "token": &l.Token, "generate": &l.Generate, "jobs": &l.Jobs, "detect": &l.Detect, "keys": &l.Keys, "calls": &l.Calls, "anonymous": &l.Anonymous, "log": &l.Log, "webhooks": &l.Webhooks,
	} {
		var err error
		if *at, err = limit.InMemory(name, limit.Rate{Requests: requests, Per: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// operations returns the operations in the OpenAPI description, such as "GET /jobs/{id}".
// Each value says whether the operation needs an access token.
func (f *fixture) operations() map[string]bool {
	f.T.Helper()
	var description struct {
		Paths map[string]map[string]json.RawMessage
	}
	f.Do("GET", "/openapi.json", "").Must(f.T, 200).Into(f.T, &description)
	private := map[string]bool{}
	for path, item := range description.Paths {
		for method, raw := range item {
			var op struct{ Security []any }
			if err := json.Unmarshal(raw, &op); err != nil {
				f.T.Fatal(err)
			}
			private[strings.ToUpper(method)+" "+path] = len(op.Security) > 0
		}
	}
	if len(private) < 9 {
		f.T.Fatalf("only %d operations", len(private))
	}
	return private
}

// concrete replaces the parameters in the pattern of a path with values.
func concrete(path string) string {
	for strings.Contains(path, "{") {
		before, rest, _ := strings.Cut(path, "{")
		_, after, _ := strings.Cut(rest, "}")
		path = before + uuid.NewString() + after
	}
	return path
}

// elsewhere lists routes that are not operations, and requests that match no route.
var elsewhere = []string{
	"GET /", "GET /verify", "GET /docs", "GET /openapi.json", "GET /openapi.yaml", "GET /assets/favicon.svg", "GET /assets/none", "GET /assets/",
	"HEAD /", "HEAD /docs", "HEAD /assets/favicon.svg", "GET /nowhere", "DELETE /generate", "OPTIONS /jobs", "GET //", "GET /docs/", "POST /docs",
	"GET /docs/assets/docs-init.js", "TRACE /", "PROPFIND /history", "GET /jobs/../history", "GET //history", "POST /./jobs", "GET /assets", "HEAD /nowhere",
}

// TestEveryRouteHasALimit requests every route, with and without an access token. The
// RateLimit headers must name the limit that counts it. Requests that make no text are calls.
//
// security: ASVS 2.4.1, API4:2023, API6:2023
func TestEveryRouteHasALimit(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) { f.api.Limits = inMemory(f.T, 1000) })
	own := map[string]string{"POST /users": "users", "POST /token": "token", "POST /generate": "generate", "POST /jobs": "jobs", "POST /jobs/{id}/logprobs": "jobs", "POST /detect": "detect",
		"PUT /users/me/password": "token", "DELETE /users/me": "token", "POST /keys": "token",
		"POST /webhooks": "webhooks", "PATCH /webhooks/{id}": "webhooks", "POST /webhooks/{id}/rotate": "webhooks", "POST /webhooks/{id}/ping": "webhooks",
		"POST /webhooks/{id}/deliveries/{delivery}/resend": "webhooks"}
	// Orchestrators probe these routes from any address, and a probe costs nothing.
	uncounted := map[string]bool{"GET /healthz": true, "GET /readyz": true}
	check := func(route, access, want string, headers ...string) {
		t.Helper()
		method, path, _ := strings.Cut(route, " ")
		body := `{"prompt":17}`
		if len(headers) > 0 {
			body = headers[0]
		}
		a := f.Do(method, concrete(path), body, append([]string{"Authorization", access}, headers[min(1, len(headers)):]...)...)
		if want == "" {
			if a.Header.Get("RateLimit-Policy") != "" || a.Header.Get("RateLimit") != "" {
				t.Errorf("%s: %v", route, a.Header)
			}
			return
		}
		if got := a.Header.Get("RateLimit-Policy"); got != fmt.Sprintf("%q;q=1000;w=3600", want) {
			t.Errorf("%s: %d under the limit %s, want %s", route, a.Status, got, want)
		}
		if got := a.Header.Get("RateLimit"); !strings.HasPrefix(got, fmt.Sprintf("%q;r=", want)) {
			t.Errorf("%s: RateLimit %q", route, got)
		}
	}
	for route, private := range f.operations() {
		stranger, user := "anonymous", "anonymous"
		if uncounted[route] {
			stranger, user = "", ""
			check(strings.Replace(route, "GET", "HEAD", 1), "", "")
			check(strings.Replace(route, "GET", "POST", 1), "", "anonymous")
		}
		if private {
			user = "calls"
		}
		if name := own[route]; name != "" {
			user = name
			if !private {
				stranger = name
			}
		}
		if strings.HasPrefix(route, "GET /log/") {
			stranger, user = "log", "log"
		}
		access := f.Access
		if route == "DELETE /users/me/sessions" {
			_, access = f.user("signs-out")
		}
		check(route, "", stranger)
		check(route, "Bearer nonsense", stranger)
		check(route, "Bearer "+access, user)
	}
	for _, tile := range []string{"GET /log/tile/0/000", "GET /log/tile/nonsense/000", "HEAD /log/tile/entries/x001/000"} {
		check(tile, "", "log")
		check(tile, "Bearer "+f.Access, "log")
	}
	for _, route := range elsewhere {
		check(route, "", "anonymous")
		check(route, "Bearer "+f.Access, "anonymous")
	}
	for route := range f.operations() { // requests from a page of another origin count as anonymous
		if method, _, _ := strings.Cut(route, " "); method != "GET" {
			check(route, "", "anonymous", "", "Sec-Fetch-Site", "cross-site")
			check(route, "Bearer "+f.Access, "anonymous", "", "Sec-Fetch-Site", "cross-site")
		}
	}
	const form = "Content-Type"
	for body, want := range map[string]string{
		"grant_type=refresh_token&refresh_token=x":                            "anonymous",
		"refresh_token=x&grant_type=refresh_token":                            "anonymous",
		"grant_type=password&refresh_token=x&username=u":                      "token",
		"grant_type=password&grant_type=refresh_token&username=u&password=pp": "token",
		"GRANT_TYPE=refresh_token&username=u&password=pp":                     "token",
		"x=%zz&grant_type=refresh_token&username=u&password=pp":               "token",
		"grant_type=refresh_token;username=u":                                 "token",
		"username=u&password=pp":                                              "token",
		"":                                                                    "token",
	} {
		check("POST /token", "", want, body, form, apitest.FormType)
	}
	// As a form, this body has the grant type refresh_token. Its media type is not
	// that of a form, so it must count as a sign-in and not as a refresh.
	const both = `{"username":"u","password":"pp","scope":"&grant_type=refresh_token&"}`
	check("POST /token", "", "token", both, form, "application/json")
	check("POST /token", "", "token", both, form, "")
	job := f.Submit(prompt)
	var ticket struct{ URL string }
	f.Do("POST", "/jobs/"+job+"/ticket", "").Must(t, 200).Into(t, &ticket)
	f.Do("POST", "/jobs/"+job+"/cancel", "").Must(t, 200)
	check("GET "+ticket.URL, "", "anonymous", "", "Accept", "text/event-stream")
	check("GET "+ticket.URL, "", "anonymous", "", "Accept", "text/event-stream") // the request above has used up the ticket
}

// TestWrongSignInsDoNotBlockRefreshes has two users behind one address. The first user
// types wrong passwords until the limit refuses more. The second user must still be able
// to refresh.
func TestWrongSignInsDoNotBlockRefreshes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tokens := f.SignIn("somebody", "a long sentence")
	c := f.another(t, func(o *api.Options) {
		o.Limits = inMemory(t, 1000)
		var err error
		if o.Limits.Token, err = limit.InMemory("token", limit.Rate{Requests: 2, Per: time.Hour}); err != nil {
			t.Fatal(err)
		}
	})
	for range 2 {
		c.Form("/token", "username", "nobody", "password", "wrong password").Refused(t, 401, "invalid_credentials")
	}
	c.Form("/token", "username", "somebody", "password", "a long sentence").Refused(t, 429, "rate_limit_exceeded")
	for range 5 {
		c.Form("/token", "grant_type", "refresh_token", "refresh_token", tokens.Refresh).Must(t, 200).Into(t, &tokens)
	}
}

// TestFloodOfTicketsCostsNoStatement removes the table of tickets, so that every
// statement on the table fails. Requests beyond the limit must get 429 and not the error
// of a statement.
//
// security: API4:2023
func TestFloodOfTicketsCostsNoStatement(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := f.db.Owner.Exec(t.Context(), `alter table tickets rename to taken_away`); err != nil {
		t.Fatal(err)
	}
	c := f.another(t, func(o *api.Options) { o.Limits = inMemory(t, 2) }).As("")
	path := "/jobs/" + uuid.NewString() + "/events?ticket=cst_" + strings.Repeat("A", 43)
	for range 2 {
		c.Do("GET", path, "", "Accept", "text/event-stream").Refused(t, 500, "internal")
	}
	for range 3 {
		c.Do("GET", path, "", "Accept", "text/event-stream").Refused(t, 429, "rate_limit_exceeded")
	}
}

// TestProbesAreCheapAndNotLimited sends health probes from an address that has used up
// its limit. Every probe must succeed. Together, the probes may cause at most one query
// per second.
func TestProbesAreCheapAndNotLimited(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var queries atomic.Int32
	var broken atomic.Bool
	c := f.another(t, func(o *api.Options) {
		o.Limits = inMemory(t, 1)
		o.Ready = func(context.Context) ([]string, error) {
			queries.Add(1)
			if broken.Load() {
				return nil, errors.New("no database")
			}
			return nil, nil
		}
	})
	c.Do("GET", "/docs", "")
	c.Do("GET", "/docs", "").Refused(t, 429, "")
	begin := time.Now()
	const probes = 50
	var wg sync.WaitGroup
	for range probes {
		wg.Go(func() {
			c := c
			c.T = apitest.Beside(t)
			c.Do("GET", "/healthz", "").Must(c.T, 200)
			c.Do("GET", "/readyz", "").Must(c.T, 200)
		})
	}
	wg.Wait()
	if most := int32(time.Since(begin)/time.Second) + 1; queries.Load() > most {
		t.Errorf("%d probes queried the database %d times, want at most %d", probes, queries.Load(), most)
	}
	// The probes must soon show a change of readiness.
	for _, now := range []bool{true, false} {
		broken.Store(now)
		for want := map[bool]int{true: 503, false: 200}[now]; c.Do("GET", "/readyz", "").Status != want; {
			if time.Since(begin) > time.Minute {
				t.Fatalf("broken %v, but /readyz does not say so", now)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// TestExcessRequestsAreRefused exhausts each kind of limit. A limit of a user must refuse
// that user at every address, and no other user. A limit of a network must refuse no
// other network.
//
// security: ASVS 2.4.1, ASVS 6.3.1
func TestExcessRequestsAreRefused(t *testing.T) {
	t.Parallel()
	const most = 3
	f := newFixture(t)
	_, other := f.user("somebody-else")
	f.api.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")}
	for name, k := range map[string]struct {
		route, body, access string
		byUser              bool
	}{
		"invalid registrations": {route: "POST /users", body: `{}`},
		"invalid sign-ins":      {route: "POST /token", body: `{}`},
		"no body":               {route: "POST /users"},
		"no access token":       {route: "GET /history"},
		"a forged access token": {route: "GET /history", access: "Bearer eyJhbGciOiJub25lIn0.e30."},
		"a body and no token":   {route: "POST /generate", body: `{"prompt":17}`},
		"unknown routes":        {route: "GET /nowhere"},
		"pages":                 {route: "GET /docs"},
		"the history":           {route: "GET /history", access: "Bearer " + f.Access, byUser: true},
		"unknown jobs":          {route: "GET /jobs/" + uuid.NewString(), access: "Bearer " + f.Access, byUser: true},
		"jobs":                  {route: "POST /jobs", body: `{"prompt":"hi"}`, access: "Bearer " + f.Access, byUser: true},
		"invalid jobs":          {route: "POST /jobs", body: `{"prompt":17}`, access: "Bearer " + f.Access, byUser: true},
	} {
		t.Run(name, func(t *testing.T) {
			o := f.api
			o.Limits = inMemory(t, most)
			handler, err := api.New(o)
			if err != nil {
				t.Fatal(err)
			}
			ask := func(from, access string) *httptest.ResponseRecorder {
				method, path, _ := strings.Cut(k.route, " ")
				r := httptest.NewRequest(method, path, strings.NewReader(k.body))
				r.RemoteAddr = "127.0.0.1:1"
				r.Header.Set("X-Forwarded-For", "203.0.113.200, "+from+", 192.0.2.1")
				if r.Header.Set("Content-Type", "application/json"); path == "/token" {
					r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				}
				if access != "" {
					r.Header.Set("Authorization", access)
				}
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, r)
				return w
			}
			var first int
			for i := range most {
				w := ask("203.0.113.1", k.access)
				if first = w.Code; w.Code == 429 {
					t.Fatalf("request %d of %d: 429", i+1, most)
				}
			}
			w := ask("203.0.113.1", k.access)
			a := apitest.Answer{Status: w.Code, Header: w.Header(), Body: w.Body.Bytes()}
			a.Refused(t, 429, "rate_limit_exceeded")
			if seconds, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || seconds < 60 || seconds > 3600 {
				t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
			}
			if again := ask("203.0.113.2", k.access).Code; (again == 429) != k.byUser || again != 429 && again != first {
				t.Errorf("another address: %d", again)
			}
			if k.byUser {
				if again := ask("203.0.113.1", "Bearer "+other).Code; again != first {
					t.Errorf("another user: %d, the first one got %d", again, first)
				}
				return
			}
			// All networks of an IPv6 site together may send 16 times as many requests.
			const networks = 16
			for i := range networks * most {
				if code := ask(fmt.Sprintf("2001:db8:1:%d::1", i/most), k.access).Code; code != first {
					t.Fatalf("request %d of %d of a site: %d", i+1, networks*most, code)
				}
			}
			if code := ask("2001:db8:1:ffff::1", k.access).Code; code != 429 {
				t.Errorf("one more network of the site: %d", code)
			}
			if code := ask("2001:db8:2::1", k.access).Code; code != first {
				t.Errorf("another site: %d", code)
			}
		})
	}
}

// TestTwoProcessesShareALimit sends requests to two APIs over one database. Together, the
// APIs must accept exactly as many requests as the limit allows.
//
// security: ASVS 2.4.1
func TestTwoProcessesShareALimit(t *testing.T) {
	t.Parallel()
	const most, requests = 7, 40
	f := newFixture(t)
	var handlers []http.Handler
	for range 2 {
		pool, err := pg.Connect(t.Context(), f.db.URL, migrations.AppRole)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		o := f.api
		o.Limits.Jobs = limit.Shared(pool, "jobs", limit.Rate{Requests: most, Per: time.Hour})
		handler, err := api.New(o)
		if err != nil {
			t.Fatal(err)
		}
		handlers = append(handlers, handler)
	}
	var wg sync.WaitGroup
	var accepted, refused atomic.Int32
	for i := range requests {
		wg.Go(func() {
			r := httptest.NewRequest("POST", "/jobs", strings.NewReader(`{"prompt":"hi"}`))
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer "+f.Access)
			w := httptest.NewRecorder()
			handlers[i%2].ServeHTTP(w, r)
			switch w.Code {
			case 202:
				accepted.Add(1)
			case 429:
				refused.Add(1)
			default:
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	wg.Wait()
	if accepted.Load() != most || refused.Load() != requests-most {
		t.Errorf("together they accepted %d and refused %d, want %d and %d", accepted.Load(), refused.Load(), most, requests-most)
	}
}

// TestUnreachableLimitRefuses counts requests in a database that cannot be reached.
// Requests must get 503.
//
// security: ASVS 16.5.3
func TestUnreachableLimitRefuses(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/nothing")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	f := newFixture(t, func(f *fixture) {
		f.api.Limits.Jobs = limit.Shared(pool, "jobs", limit.Rate{Requests: 1, Per: time.Hour})
	})
	a := f.Do("POST", "/jobs", `{"prompt":"hi"}`)
	a.Refused(t, 503, "unavailable")
	if a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

// BenchmarkLimit compares a cheap read with and without a limit in memory.
func BenchmarkLimit(b *testing.B) {
	for name, limits := range map[string]api.Limits{"none": {}, "memory": inMemory(b, 1<<40)} {
		handler, err := api.New(api.Options{Limits: limits, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest("GET", "/docs", nil)
			for b.Loop() {
				handler.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
}
