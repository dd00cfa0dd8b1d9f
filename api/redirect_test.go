package api

import (
	"log/slog"
	"net/http/httptest"
	"testing"

	"colophon/test/apitest"
)

// TestRedirectKeepsHostAndPath sends requests with different Host headers to a plain
// listener beside a TLS listener. The redirect must keep the host and the path. A Host
// header without a valid host must be refused.
func TestRedirectKeepsHostAndPath(t *testing.T) {
	for _, k := range []struct{ port, host, path, location string }{
		{"443", "a.example", "/docs?x=1", "https://a.example/docs?x=1"},
		{"443", "a.example:80", "/", "https://a.example/"},
		{"8443", "a.example:80", "/", "https://a.example:8443/"},
		{"443", "192.0.2.1:80", "/", "https://192.0.2.1/"},
		{"443", "[2001:db8::1]:80", "/", "https://[2001:db8::1]/"},
		{"443", "[2001:db8::1]", "/a%2fb", "https://[2001:db8::1]/a%2fb"},
		{"8443", "[2001:db8::1]:80", "/", "https://[2001:db8::1]:8443/"},
		{"8443", "[2001:db8::1]", "/", "https://[2001:db8::1]:8443/"},
		{"443", "", "/", ""},
		{"443", ":80", "/", ""},
		{"443", "[]:80", "/", ""},
		{"443", "2001:db8::1", "/", ""},
		{"443", "a.example:x", "/", ""},
		{"443", "a@b.example", "/", ""},
		{"443", "a.example/x", "/", ""},
		{"443", "a.example?x", "/", ""},
		{"443", "a.example#x", "/", ""},
	} {
		handler, err := NewRedirect(Options{Log: slog.New(slog.DiscardHandler)}, k.port, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("GET", k.path, nil)
		r.Host = k.host
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		a := apitest.Answer{Status: w.Code, Header: w.Header(), Body: w.Body.Bytes()}
		if k.location == "" {
			a.Refused(t, 400, "no_host")
		}
		if got := w.Header().Get("Location"); got != k.location || k.location != "" && w.Code != 308 {
			t.Errorf("%q with the TLS port %s: %d to %q, want %q", k.host, k.port, w.Code, got, k.location)
		}
		r = httptest.NewRequest("GET", "/jobs/x/events?after=1&ticket=cst_x", nil)
		w = httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		apitest.Answer{Status: w.Code, Header: w.Header(), Body: w.Body.Bytes()}.Refused(t, 403, "https_required")
	}
}
