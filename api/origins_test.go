package api_test

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"colophon/api"
)

// TestOnlyListedOriginsAreAllowed sends the requests of pages of other origins. Only
// pages of listed origins may send writes and read the answers.
//
// security: ASVS 3.4.2, ASVS 3.5.1, ASVS 3.5.2
func TestOnlyListedOriginsAreAllowed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, k := range map[string]struct {
		allowed  []string
		origin   string
		site     string
		method   string
		status   int
		sayAllow string
	}{
		"no browser":                        {nil, "", "", "POST", 202, ""},
		"a page of our own":                 {nil, "http://example.com", "same-origin", "POST", 202, ""},
		"a page of our own, an old browser": {nil, "http://example.com", "", "POST", 202, ""},
		"an empty list":                     {nil, "https://a.example", "cross-site", "POST", 403, ""},
		"an empty list, an old browser":     {nil, "https://a.example", "", "POST", 403, ""},
		"a page of the same site":           {nil, "http://other.example.com", "same-site", "POST", 403, ""},
		"a page that hides its origin":      {nil, "null", "cross-site", "POST", 403, ""},
		"a read by another page":            {nil, "https://a.example", "cross-site", "GET", 200, ""},
		"on the list":                       {[]string{"https://a.example"}, "https://a.example", "cross-site", "POST", 202, "https://a.example"},
		"on the list, a read":               {[]string{"https://a.example"}, "https://a.example", "cross-site", "GET", 200, "https://a.example"},
		"not on the list":                   {[]string{"https://a.example"}, "https://b.example", "cross-site", "POST", 403, ""},
		"another port":                      {[]string{"https://a.example"}, "https://a.example:444", "cross-site", "POST", 403, ""},
		"another scheme":                    {[]string{"https://a.example"}, "http://a.example", "cross-site", "POST", 403, ""},
		"the listed name as a prefix":       {[]string{"https://a.example"}, "https://a.example.evil.test", "cross-site", "POST", 403, ""},
		"the listed name as a suffix":       {[]string{"https://a.example"}, "https://evila.example", "cross-site", "POST", 403, ""},
		"null with a list":                  {[]string{"https://a.example"}, "null", "cross-site", "POST", 403, ""},
		"no browser, with a list":           {[]string{"https://a.example"}, "", "", "POST", 202, ""},
		"our own page, with a list":         {[]string{"https://a.example"}, "http://example.com", "same-origin", "POST", 202, ""},
		"cross-site without origin":         {[]string{"https://a.example"}, "", "cross-site", "POST", 403, ""},
		"a subdomain of a pattern":          {[]string{"https://*.a.example"}, "https://x.a.example", "cross-site", "POST", 202, "https://x.a.example"},
		"the pattern's own domain":          {[]string{"https://*.a.example"}, "https://a.example", "cross-site", "POST", 403, ""},
		"any origin":                        {[]string{"*"}, "https://a.example", "cross-site", "POST", 202, "*"},
		"a page without TLS that is listed": {[]string{"http://a.example"}, "http://a.example", "cross-site", "POST", 202, "http://a.example"},
		"a local page that is listed":       {[]string{"http://localhost:5173"}, "http://localhost:5173", "cross-site", "POST", 202, "http://localhost:5173"},
		"a local page on an unlisted port":  {[]string{"http://localhost:5173"}, "http://localhost:5174", "cross-site", "POST", 403, ""},
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
				t.Errorf("preflight of an unlisted header: %d", w.Code)
			}
			if w := ask("OPTIONS", "Access-Control-Request-Method", "PURGE"); w.Code != 403 {
				t.Errorf("preflight of an unlisted method: %d", w.Code)
			}
			// Pages of listed origins must be able to read errors and their headers too.
			w = ask("GET")
			if exposed := strings.ToLower(w.Header().Get("Access-Control-Expose-Headers")); w.Code != 401 || !strings.Contains(exposed, "retry-after") || !strings.Contains(exposed, "location") {
				t.Errorf("%d exposes %q", w.Code, exposed)
			}
		})
	}
	for _, bad := range []string{"", "null", "a.example", "https://", "https://*", "https://*.com", "https://a.example/", "https://a.example:443", "https://é.example", "https://a.*"} {
		if err := api.CheckOrigins([]string{bad}); err == nil {
			t.Errorf("%q is accepted as an origin", bad)
		}
	}
}
