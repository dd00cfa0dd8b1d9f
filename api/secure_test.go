package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"colophon/api"
	"colophon/test/apitest"
)

// everyAnswer lists headers that every answer has.
var everyAnswer = map[string]string{
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
	"Referrer-Policy":              "no-referrer",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=()",
}

// caching returns the Cache-Control that an answer must have.
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

// TestEveryAnswerIsSecured requests every route and every kind of error, over plain HTTP
// and over TLS. Every answer must have the security headers.
//
// security: ASVS 3.2.1, ASVS 3.4.3, ASVS 3.4.4, ASVS 3.4.5, ASVS 3.4.6, ASVS 14.2.2, ASVS 14.3.2, API8:2023
func TestEveryAnswerIsSecured(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) {
		f.api.CORSOrigins = []string{"https://allowed.example"}
	})
	const bearer = "Authorization"
	access := "Bearer " + f.Access
	type request struct {
		route, body string
		headers     []string
		status      int // the expected status; 0 means any status
	}
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
			serve := func(o api.Options) apitest.Client { return serve(t, o, over == "https") }
			c := serve(f.api)
			seen, kept := map[int]int{}, map[string]bool{}
			ask := func(c apitest.Client, r request) {
				t.Helper()
				method, path, _ := strings.Cut(r.route, " ")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel() // ends the request even if the answer is a stream
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
					t.Errorf("%s: an error has the media type %q", what, media)
				}
			}
			for _, r := range requests {
				ask(c, r)
			}
			broken := f.api
			broken.Ready = func(context.Context) ([]string, error) { return nil, errors.New("no database") }
			ask(serve(broken), request{"GET /readyz", "", nil, 503})
			panics := f.api
			panics.Store = nil
			ask(serve(panics), request{"GET /history", "", []string{bearer, access}, 500})
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
					t.Errorf("%s was not requested", path)
				}
			}
		})
	}
}
