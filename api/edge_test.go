package api_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/api"
	"colophon/test/apitest"
)

// everyAnswer is what every response has to say, whatever it answers.
var everyAnswer = map[string]string{
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
	"Referrer-Policy":              "no-referrer",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=()",
}

// caching says who may keep an answer to a request: nobody, but for these.
func caching(path string, status int) string {
	_, job := strings.CutPrefix(path, "/jobs/")
	switch {
	case status != 200 && status != 304:
	case strings.HasPrefix(path, "/assets/") || strings.HasPrefix(path, "/docs/assets/"):
		return "no-cache"
	case path == "/.well-known/jwks.json":
		return "public, max-age=60"
	case job && strings.Count(path, "/") == 2:
		return "private, no-cache"
	}
	return "no-store"
}

func checkHeaders(t *testing.T, what string, h http.Header, caching string, overTLS bool) {
	t.Helper()
	for name, want := range everyAnswer {
		if got := h.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %s %q, want %q", what, name, got, want)
		}
	}
	if _, err := uuid.Parse(h.Get("X-Request-Id")); err != nil {
		t.Errorf("%s: X-Request-Id %q", what, h.Get("X-Request-Id"))
	}
	policy := h.Values("Content-Security-Policy")
	if len(policy) != 1 || !strings.HasPrefix(policy[0], "default-src 'none'") || !strings.Contains(policy[0], "frame-ancestors 'none'") ||
		strings.Contains(policy[0], "unsafe") || strings.Contains(policy[0], "*") || strings.Contains(policy[0], "http") {
		t.Errorf("%s: Content-Security-Policy %q", what, policy)
	}
	if got := h.Values("Cache-Control"); len(got) != 1 || got[0] != caching {
		t.Errorf("%s: Cache-Control %q, want %q", what, got, caching)
	}
	want := ""
	if overTLS {
		want = "max-age=31536000"
	}
	if got := h.Get("Strict-Transport-Security"); got != want {
		t.Errorf("%s: Strict-Transport-Security %q, want %q", what, got, want)
	}
	for _, name := range []string{"Server", "X-Powered-By", "Set-Cookie"} {
		if got := h.Get(name); got != "" {
			t.Errorf("%s: %s: %s", what, name, got)
		}
	}
}

// TestEveryAnswerIsSecured asks for every route and for every kind of error, over
// plain HTTP and over TLS.
//
// security: ASVS 3.2.1, ASVS 3.4.3, ASVS 3.4.4, ASVS 3.4.5, ASVS 3.4.6, ASVS 14.2.2, ASVS 14.3.2, API8:2023
func TestEveryAnswerIsSecured(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.api.CORSOrigins = []string{"https://allowed.example"}
	})
	const bearer = "Authorization"
	access := "Bearer " + f.Access
	type request struct {
		route, body string
		headers     []string
		status      int // 0 is any
	}
	broken, panics := func() error { return errors.New("no database") }, func() error { panic("at the handler") }
	id := f.Submit(prompt)
	requests := []request{
		{"GET /history", "", []string{bearer, access}, 200},
		{"GET /history", "", nil, 401},
		{"GET /history", "", []string{bearer, "Bearer x"}, 401},
		{"GET /nowhere", "", nil, 404},
		{"GET /jobs/" + uuid.NewString(), "", []string{bearer, access}, 404},
		{"DELETE /history", "", nil, 405},
		{"OPTIONS /history", "", nil, 405},
		{"OPTIONS /jobs", "", []string{"Origin", "https://allowed.example", "Access-Control-Request-Method", "POST"}, 204},
		{"OPTIONS /jobs", "", []string{"Origin", "https://other.example", "Access-Control-Request-Method", "POST"}, 403},
		{"POST /jobs", prompt, []string{bearer, access, "Sec-Fetch-Site", "cross-site"}, 403},
		{"POST /users", `{"username":"Somebody","password":"a long sentence"}`, nil, 409},
		{"POST /users", `{`, nil, 400},
		{"POST /users", `{}`, nil, 422},
		{"POST /users", `<x/>`, []string{"Content-Type", "text/xml"}, 415},
		{"POST /users", `{"username":"` + strings.Repeat("x", 1<<17), nil, 413},
		{"GET /jobs/" + id, "", []string{bearer, access}, 200},
		{"GET /jobs/" + id, "", []string{bearer, access, "If-None-Match", "*"}, 304},
		{"GET /.well-known/jwks.json", "", nil, 200},
		{"GET /.well-known/jwks.json", "", []string{"If-None-Match", "*"}, 304},
		{"GET /jobs/" + id + "/events", "", []string{bearer, access}, 200},
		{"GET /jobs/" + id + "/events", "", []string{bearer, access, "Accept", "text/event-stream"}, 200},
		{"GET /readyz", "", nil, 200},
		{"BREW /jobs", "", nil, 405},
	}
	for _, route := range elsewhere {
		requests = append(requests, request{route: route})
	}
	for route := range f.operations() {
		method, path, _ := strings.Cut(route, " ")
		requests = append(requests,
			request{method + " " + concrete(path), "", nil, 0},
			request{"HEAD " + concrete(path), "", []string{bearer, access}, 0},
			request{"OPTIONS " + concrete(path), "", nil, 405},
		)
	}
	for _, over := range []string{"http", "https"} {
		t.Run(over, func(t *testing.T) {
			serve := func(o api.Options) apitest.Client {
				handler, err := api.New(o)
				if err != nil {
					t.Fatal(err)
				}
				srv := httptest.NewUnstartedServer(handler)
				srv.EnableHTTP2 = true
				if over == "https" {
					srv.StartTLS()
				} else {
					srv.Start()
				}
				t.Cleanup(srv.Close)
				return apitest.Client{URL: srv.URL, Transport: srv.Client().Transport}
			}
			c := serve(f.api)
			seen, kept := map[int]int{}, map[string]bool{}
			ask := func(c apitest.Client, r request) {
				t.Helper()
				method, path, _ := strings.Cut(r.route, " ")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel() // a stream as well
				resp, err := c.Open(ctx, method, path, r.body, r.headers...)
				if err != nil {
					t.Fatalf("%s: %v", r.route, err)
				}
				defer resp.Body.Close()
				seen[resp.StatusCode]++
				what := fmt.Sprintf("%s %v: %d", r.route, r.headers, resp.StatusCode)
				if path, _, _ = strings.Cut(path, "?"); resp.StatusCode == 200 || resp.StatusCode == 304 {
					kept[path] = true
				}
				checkHeaders(t, what, resp.Header, caching(path, resp.StatusCode), over == "https")
				if r.status != 0 && resp.StatusCode != r.status {
					t.Errorf("%s, want %d", what, r.status)
				}
				if media := resp.Header.Get("Content-Type"); resp.StatusCode >= 400 && media != "application/problem+json" {
					t.Errorf("%s: an error as %q", what, media)
				}
			}
			for _, r := range requests {
				ask(c, r)
			}
			for status, ready := range map[int]func() error{503: broken, 500: panics} {
				o := f.api
				o.Ready = func(context.Context) error { return ready() }
				ask(serve(o), request{"GET /readyz", "", nil, status})
			}
			local := f.api
			local.Local = true
			ask(serve(local), request{"GET /docs", "", nil, 200})
			ask(serve(local), request{"GET /docs", "", []string{"Host", "rebound.example"}, 421})
			limited := f.api
			limited.Limits = inMemory(t, 1)
			l := serve(limited)
			ask(l, request{"GET /nowhere", "", nil, 404})
			ask(l, request{"GET /nowhere", "", nil, 429})
			ask(l, request{"GET /docs", "", nil, 429})
			tag := f.Do("GET", "/assets/favicon.svg", "").Header.Get("ETag")
			ask(c, request{"GET /assets/favicon.svg", "", []string{"If-None-Match", tag}, 304})
			ask(c, request{"GET /assets/favicon.svg", "", []string{"Range", "bytes=0-3"}, 200})
			ask(c, request{"GET /assets/favicon.svg", "", []string{"Range", "bytes=999999-"}, 200})
			ask(c, request{"GET /assets/favicon.svg", "", []string{"If-Match", `"another"`}, 200})
			ask(c, request{"GET /assets/favicon.svg", "", []string{"If-Unmodified-Since", "Mon, 02 Jan 2006 15:04:05 GMT"}, 200})
			for _, status := range []int{200, 204, 304, 400, 401, 403, 404, 405, 409, 413, 415, 421, 422, 429, 500, 503} {
				if seen[status] == 0 {
					t.Errorf("no answer was %d: %v", status, seen)
				}
			}
			for _, path := range []string{"/", "/docs", "/openapi.json", "/assets/favicon.svg", "/docs/assets/docs-init.js", "/.well-known/jwks.json", "/jobs/" + id, "/jobs/" + id + "/events", "/history"} {
				if !kept[path] {
					t.Errorf("%s was not looked at", path)
				}
			}
		})
	}
}

// TestOtherOrigins looks what browsers are told for pages of other origins.
//
// security: ASVS 3.4.2, ASVS 3.5.1, ASVS 3.5.2
func TestOtherOrigins(t *testing.T) {
	f := newFixture(t)
	for name, k := range map[string]struct {
		allowed  []string
		origin   string
		site     string
		method   string
		status   int
		sayAllow string
	}{
		"no browser":                         {nil, "", "", "POST", 202, ""},
		"a page of our own":                  {nil, "http://example.com", "same-origin", "POST", 202, ""},
		"a page of our own, an old browser":  {nil, "http://example.com", "", "POST", 202, ""},
		"nobody is on the list":              {nil, "https://a.example", "cross-site", "POST", 403, ""},
		"nobody, an old browser":             {nil, "https://a.example", "", "POST", 403, ""},
		"a page of the same site":            {nil, "http://other.example.com", "same-site", "POST", 403, ""},
		"a page that hides its origin":       {nil, "null", "cross-site", "POST", 403, ""},
		"a read by another page":             {nil, "https://a.example", "cross-site", "GET", 200, ""},
		"on the list":                        {[]string{"https://a.example"}, "https://a.example", "cross-site", "POST", 202, "https://a.example"},
		"on the list, a read":                {[]string{"https://a.example"}, "https://a.example", "cross-site", "GET", 200, "https://a.example"},
		"not on the list":                    {[]string{"https://a.example"}, "https://b.example", "cross-site", "POST", 403, ""},
		"another port":                       {[]string{"https://a.example"}, "https://a.example:444", "cross-site", "POST", 403, ""},
		"another scheme":                     {[]string{"https://a.example"}, "http://a.example", "cross-site", "POST", 403, ""},
		"the listed name as a prefix":        {[]string{"https://a.example"}, "https://a.example.evil.test", "cross-site", "POST", 403, ""},
		"the listed name as a suffix":        {[]string{"https://a.example"}, "https://evila.example", "cross-site", "POST", 403, ""},
		"null with a list":                   {[]string{"https://a.example"}, "null", "cross-site", "POST", 403, ""},
		"no browser, with a list":            {[]string{"https://a.example"}, "", "", "POST", 202, ""},
		"our own page, with a list":          {[]string{"https://a.example"}, "http://example.com", "same-origin", "POST", 202, ""},
		"cross-site without origin":          {[]string{"https://a.example"}, "", "cross-site", "POST", 403, ""},
		"a subdomain of a pattern":           {[]string{"https://*.a.example"}, "https://x.a.example", "cross-site", "POST", 202, "https://x.a.example"},
		"the pattern's own domain":           {[]string{"https://*.a.example"}, "https://a.example", "cross-site", "POST", 403, ""},
		"everybody":                          {[]string{"*"}, "https://a.example", "cross-site", "POST", 202, "*"},
		"a page without TLS that is listed":  {[]string{"http://a.example"}, "http://a.example", "cross-site", "POST", 202, "http://a.example"},
		"a local page that is listed":        {[]string{"http://localhost:5173"}, "http://localhost:5173", "cross-site", "POST", 202, "http://localhost:5173"},
		"a local page on a port that is not": {[]string{"http://localhost:5173"}, "http://localhost:5174", "cross-site", "POST", 403, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := f.api
			o.CORSOrigins = k.allowed
			handler, err := api.New(o)
			if err != nil {
				t.Fatal(err)
			}
			ask := func(method string, headers ...string) *httptest.ResponseRecorder {
				path, body := "/jobs", prompt
				if method == "GET" {
					path, body = "/history", ""
				}
				r := httptest.NewRequest(method, path, strings.NewReader(body))
				if k.origin != "" {
					r.Header.Set("Origin", k.origin)
				}
				if k.site != "" {
					r.Header.Set("Sec-Fetch-Site", k.site)
				}
				for i := 0; i < len(headers); i += 2 {
					r.Header.Set(headers[i], headers[i+1])
				}
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, r)
				if got := w.Header().Get("Access-Control-Allow-Credentials"); got != "" {
					t.Errorf("credentials: %s", got)
				}
				return w
			}
			w := ask(k.method, "Content-Type", "application/json", "Authorization", "Bearer "+f.Access)
			if got := w.Header().Get("Access-Control-Allow-Origin"); w.Code != k.status || got != k.sayAllow {
				t.Errorf("%d and Access-Control-Allow-Origin %q, want %d and %q", w.Code, got, k.status, k.sayAllow)
			}
			if k.allowed != nil && k.allowed[0] != "*" && !slices.Contains(w.Header()["Vary"], "Origin") {
				t.Errorf("Vary %q", w.Header()["Vary"])
			}
			if k.origin == "" {
				return
			}
			w = ask("OPTIONS", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type,idempotency-key,prefer")
			if got := w.Header().Get("Access-Control-Allow-Origin"); got != k.sayAllow || (w.Code == 204) != (k.sayAllow != "") {
				t.Errorf("preflight: %d and Access-Control-Allow-Origin %q, want %q", w.Code, got, k.sayAllow)
			}
			if k.sayAllow == "" {
				return
			}
			if w := ask("OPTIONS", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "x-anything"); w.Code != 403 {
				t.Errorf("preflight of a header that is not on the list: %d", w.Code)
			}
			if w := ask("OPTIONS", "Access-Control-Request-Method", "PATCH"); w.Code != 403 {
				t.Errorf("preflight of a method that is not on the list: %d", w.Code)
			}
			// Errors can be read as well.
			w = ask("GET")
			if exposed := strings.ToLower(w.Header().Get("Access-Control-Expose-Headers")); w.Code != 401 || !strings.Contains(exposed, "retry-after") || !strings.Contains(exposed, "location") {
				t.Errorf("%d exposes %q", w.Code, exposed)
			}
		})
	}
	for _, bad := range []string{"", "null", "a.example", "https://", "https://*", "https://*.com", "https://a.example/", "https://a.example:443", "https://é.example", "https://a.*"} {
		if err := api.CheckOrigins([]string{bad}); err == nil {
			t.Errorf("%q passes for an origin", bad)
		}
	}
}

// TestAStreamOverHTTP2 holds a stream open for longer than any deadline of a write.
func TestAStreamOverHTTP2(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	handler, err := api.New(f.api)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(handler)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	id := f.Submit(prompt)
	c := apitest.Client{URL: srv.URL, Access: f.Access, Transport: srv.Client().Transport}
	resp, err := c.Open(t.Context(), "GET", "/jobs/"+id+"/events", "", "Accept", "text/event-stream")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.TLS.NegotiatedProtocol != "h2" || resp.TLS.Version < tls.VersionTLS12 {
		t.Fatalf("%s over %x", resp.Proto, resp.TLS.Version)
	}
	beats := 0
	for m, err := range apitest.Messages(resp.Body) {
		if err != nil {
			t.Error(err)
		}
		if m == (apitest.Message{}) {
			if beats++; beats == 1 { // ten seconds of silence have passed
				f.Do("POST", "/jobs/"+id+"/cancel", "").Must(t, 200)
			}
		}
	}
	if beats == 0 {
		t.Error("the stream ended without a heartbeat")
	}
}

// TestBodiesThatTakeTooLong sends bodies one byte at a time, to routes that read
// them and routes that do not, and looks when the connection is given up.
//
// security: API4:2023
func TestBodiesThatTakeTooLong(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, route := range []string{"POST /users", "POST /nowhere", "GET /history", "GET /docs"} {
		t.Run(route, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, f.URL)
			fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", route)
			begin := time.Now()
			go func() { // as slowly as it gets away with
				for {
					if _, err := conn.Write([]byte(" ")); err != nil {
						return
					}
					select {
					case <-t.Context().Done():
						return
					case <-time.After(500 * time.Millisecond):
					}
				}
			}()
			got, err := io.ReadAll(conn)
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("given up after %s", took)
			}
			if !strings.HasPrefix(string(got), "HTTP/1.1 4") && !strings.HasPrefix(string(got), "HTTP/1.1 200") {
				t.Errorf("%.100q, %v", got, err)
			}
			if route == "POST /users" && !strings.HasPrefix(string(got), "HTTP/1.1 408") {
				t.Errorf("%.100q", got)
			}
		})
	}
}

func dial(t *testing.T, url string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
