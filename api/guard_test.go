package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"colophon/test/apitest"
)

// guarded serves a mux behind the guard.
func guarded(t *testing.T, log *apitest.Log, mux *http.ServeMux) *httptest.Server {
	t.Helper()
	origins, err := newOrigins(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Options: Options{Log: slog.New(slog.NewTextHandler(log, nil))}, origins: origins, counted: map[string]bool{}}
	srv := httptest.NewUnstartedServer(s.guard(mux))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

// TestAPanicInAnAnswerCutsIt looks that nobody takes half an answer for a whole
// one, over both protocols.
func TestAPanicInAnAnswerCutsIt(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for name, fail := range map[string]any{"a mistake": "canary", "an end that was meant": http.ErrAbortHandler} {
			t.Run(fmt.Sprint(name, ", HTTP/2: ", h2), func(t *testing.T) {
				var log apitest.Log
				mux := http.NewServeMux()
				mux.HandleFunc("GET /half", func(w http.ResponseWriter, _ *http.Request) {
					_, _ = io.WriteString(w, "half of it")
					_ = http.NewResponseController(w).Flush()
					panic(fail)
				})
				srv := guarded(t, &log, mux)
				client := srv.Client()
				client.Transport.(*http.Transport).ForceAttemptHTTP2 = h2
				if !h2 {
					client.Transport.(*http.Transport).TLSClientConfig.NextProtos = []string{"http/1.1"}
				}
				resp, err := client.Get(srv.URL + "/half")
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				if err == nil || resp.StatusCode != 200 || (resp.ProtoMajor == 2) != h2 {
					t.Errorf("%s %s: %q and then %v", resp.Proto, resp.Status, got, err)
				}
				srv.Close() // everything is in the log
				if lines := log.String(); !strings.Contains(lines, `route="GET /half" status=200`) || strings.Contains(lines, "canary") != (fail == "canary") {
					t.Errorf("%s", lines)
				}
			})
		}
	}
}

// TestUncleanPathsReachNoHandler asks for paths that lead somewhere else than
// they look.
func TestUncleanPathsReachNoHandler(t *testing.T) {
	var log apitest.Log
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s reached the handler", r.URL) })
	mux.HandleFunc("GET /jobs/{id}", func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s reached the handler", r.URL) })
	srv := guarded(t, &log, mux)
	c := apitest.Client{T: t, URL: srv.URL, Transport: srv.Client().Transport}
	for _, path := range []string{"/jobs/%2e%2e", "/jobs/..", "/jobs/%2e", "/jobs//x", "//jobs", "/jobs/x/%2e%2e/y"} {
		c.Do("GET", path, "").Refused(t, 404, "no_such_route")
	}
}

// TestWhoseFaultAnInterruptionIs looks which interruptions are put on record.
func TestWhoseFaultAnInterruptionIs(t *testing.T) {
	left, leave := context.WithCancel(t.Context())
	leave()
	for name, k := range map[string]struct {
		ctx    context.Context
		err    error
		status int
		log    string
	}{
		"the client has left":                    {left, fmt.Errorf("read: %w", context.Canceled), 503, ""},
		"it left while we ran out of time":       {left, fmt.Errorf("read: %w", context.DeadlineExceeded), 503, ""},
		"we ran out of time":                     {t.Context(), fmt.Errorf("canary: %w", context.DeadlineExceeded), 503, "level=WARN"},
		"a mistake of ours":                      {t.Context(), errors.New("canary"), 500, "level=ERROR"},
		"a mistake of ours, and the client left": {left, errors.New("canary"), 500, "level=ERROR"},
	} {
		var log apitest.Log
		p := problemOf(k.ctx, slog.New(slog.NewTextHandler(&log, nil)), k.err)
		lines := log.String()
		if p.Status != k.status || (lines == "") != (k.log == "") || !strings.Contains(lines, k.log) || k.log != "" && !strings.Contains(lines, "canary") {
			t.Errorf("%s: %d and in the log %q", name, p.Status, lines)
		}
		if strings.Contains(p.Detail, "canary") {
			t.Errorf("%s: %s", name, p.Detail)
		}
	}
}

// TestRedirect asks a plain listener beside HTTPS, as whatever it is known.
func TestRedirect(t *testing.T) {
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
			t.Errorf("%q on the way to %s: %d to %q, want %q", k.host, k.port, w.Code, got, k.location)
		}
		r = httptest.NewRequest("GET", "/jobs/x/events?after=1&ticket=cst_x", nil)
		w = httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		apitest.Answer{Status: w.Code, Header: w.Header(), Body: w.Body.Bytes()}.Refused(t, 403, "https_required")
	}
}
