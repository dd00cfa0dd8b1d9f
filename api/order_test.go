package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"colophon/api"
	"colophon/test/apitest"
)

// TestRefusalsKeepTheirOrder sends requests with several faults. The answer must name the
// fault that is checked first. The expected limit must count the request, and the log
// must have the expected route.
//
// security: ASVS 2.4.1, ASVS 3.4.2, ASVS 16.2.1
func TestRefusalsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	const allowed, foreign = "https://allowed.example", "https://foreign.example"
	f := newFixture(t)
	type observed struct {
		route  string
		status int
	}
	seen := make(chan observed, 100)
	serve := func(most uint64) apitest.Client {
		return f.another(t, func(o *api.Options) {
			o.Local, o.CORSOrigins, o.Limits = true, []string{allowed}, inMemory(t, most)
			o.Observe = func(route string, status int, _ time.Duration) { seen <- observed{route, status} }
			o.Store = nil // a request that reaches a handler fails with 500
		})
	}
	roomy, full := serve(1000), serve(1)
	full.As("").Do("GET", "/docs", "").Must(t, 200) // this request uses up the limit of the network
	<-seen
	rebound := []string{"Host", "rebound.example"}
	page := []string{"Origin", allowed, "Sec-Fetch-Site", "cross-site"}
	other := []string{"Origin", foreign, "Sec-Fetch-Site", "cross-site"}
	preflight := []string{"Origin", allowed, "Access-Control-Request-Method", "POST"}
	foreignPreflight := []string{"Origin", foreign, "Access-Control-Request-Method", "POST"}
	xml := []string{"Content-Type", "text/xml"}
	no, user := "", f.Access
	for _, k := range []struct {
		method, path, as, body string
		headers                [][]string
		status                 int
		code, limit, route     string
	}{
		// The Host is checked before the origin, the origin before the path, and the path
		// before the method.
		{"POST", "/nowhere", no, "{}", [][]string{rebound, other}, 421, "misdirected", "anonymous", "unknown"},
		{"POST", "/jobs", user, "{}", [][]string{rebound, other}, 421, "misdirected", "anonymous", "unknown"},
		{"GET", "/history", user, "", [][]string{rebound, page}, 421, "misdirected", "anonymous", "unknown"},
		{"GET", "/docs", no, "", [][]string{rebound}, 421, "misdirected", "anonymous", "unknown"},
		{"OPTIONS", "/jobs", no, "", [][]string{rebound, preflight}, 421, "misdirected", "anonymous", "unknown"},
		{"OPTIONS", "/jobs", no, "", [][]string{rebound, foreignPreflight}, 421, "misdirected", "anonymous", "unknown"},
		{"POST", "/nowhere", no, "{}", [][]string{other}, 403, "cross_origin", "anonymous", "unknown"},
		{"POST", "/docs", no, "{}", [][]string{other}, 403, "cross_origin", "anonymous", "unknown"},
		{"POST", "//jobs", user, "{}", [][]string{other}, 403, "cross_origin", "anonymous", "unknown"},
		{"POST", "/jobs", no, "<x/>", [][]string{other, xml}, 403, "cross_origin", "anonymous", "unknown"},
		{"OPTIONS", "/jobs", no, "", [][]string{foreignPreflight}, 403, "cross_origin", "anonymous", "unknown"},
		{"OPTIONS", "/jobs", no, "", [][]string{preflight}, 204, "", "anonymous", "preflight"},
		{"OPTIONS", "//jobs", no, "", [][]string{preflight}, 204, "", "anonymous", "preflight"},
		{"OPTIONS", "/nowhere", no, "", [][]string{preflight}, 204, "", "anonymous", "preflight"},
		{"OPTIONS", "/jobs", no, "", nil, 405, "method_not_allowed", "anonymous", "unknown"},
		{"DELETE", "//jobs", no, "", [][]string{page}, 404, "no_such_route", "anonymous", "unknown"},
		{"DELETE", "/jobs", no, "", [][]string{page}, 405, "method_not_allowed", "anonymous", "unknown"},
		{"GET", "/docs", no, "", [][]string{page}, 200, "", "anonymous", "GET /docs"},
		{"GET", "/history", user, "", [][]string{page}, 500, "internal", "calls", "GET /history"},
		// In an operation, the caller is checked first. The limit, the role, the media
		// type and the parameters follow in this order.
		{"POST", "/jobs?x=%zz", no, "<x/>", [][]string{page, xml}, 401, "missing_access_token", "anonymous", "POST /jobs"},
		{"POST", "/jobs?x=%zz", "forged", "<x/>", [][]string{page, xml}, 401, "invalid_access_token", "anonymous", "POST /jobs"},
		{"GET", "/users?limit=", user, "", [][]string{page}, 403, "forbidden", "calls", "GET /users"},
		{"POST", "/jobs?x=%zz", user, "<x/>", [][]string{page, xml}, 415, "unsupported_media_type", "jobs", "POST /jobs"},
		{"POST", "/jobs?x=%zz", user, "{", [][]string{page}, 422, "invalid_request", "jobs", "POST /jobs"},
		{"POST", "/jobs", user, "{", [][]string{page}, 400, "invalid_request", "jobs", "POST /jobs"},
	} {
		headers := slices.Concat(k.headers...)
		what := fmt.Sprintf("%s %s %v", k.method, k.path, headers)
		check := func(c apitest.Client, status int, code, limit, route string) {
			t.Helper()
			a := c.As(k.as).Do(k.method, k.path, k.body, headers...)
			if status >= 400 {
				a.Refused(t, status, code)
			} else if a.Status != status {
				t.Errorf("%s: %d, want %d", what, a.Status, status)
			}
			if got, _, _ := strings.Cut(a.Header.Get("RateLimit-Policy"), ";"); got != limit && got != `"`+limit+`"` {
				t.Errorf("%s: counted under %s, want %q", what, got, limit)
			}
			// A page of a listed origin must be able to read every answer. Caches must
			// keep the answers for different origins apart.
			want := ""
			if slices.Contains(headers, allowed) {
				want = allowed
			}
			if got := a.Header.Get("Access-Control-Allow-Origin"); got != want || !slices.Contains(a.Header["Vary"], "Origin") {
				t.Errorf("%s: Access-Control-Allow-Origin %q and Vary %q, want %q", what, got, a.Header["Vary"], want)
			}
			if got := <-seen; got != (observed{route, status}) {
				t.Errorf("%s: observed as %v, want %s %d", what, got, route, status)
			}
			if strings.Contains(route, " ") {
				route = strconv.Quote(route)
			}
			if line := f.line("request", a); !strings.Contains(line, fmt.Sprintf(" route=%s status=%d ", route, status)) {
				t.Errorf("%s: logged as %s", what, line)
			}
		}
		check(roomy, k.status, k.code, k.limit, k.route)
		switch {
		case k.limit == "anonymous" && strings.Contains(k.route, "jobs"):
			check(full, http.StatusTooManyRequests, "rate_limit_exceeded", "anonymous", k.route)
		case k.limit == "anonymous":
			check(full, http.StatusTooManyRequests, "rate_limit_exceeded", "anonymous", "unknown")
		}
	}
	full.Do("GET", "/users", "").Refused(t, 403, "forbidden")
	full.Do("GET", "/users?limit=", "").Refused(t, 429, "rate_limit_exceeded")
	full.Do("POST", "/jobs", "<x/>", xml...).Refused(t, 415, "unsupported_media_type")
	full.Do("POST", "/jobs", "<x/>", xml...).Refused(t, 429, "rate_limit_exceeded")
}
