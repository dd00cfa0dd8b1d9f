package monitor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"colophon/internal/monitor"
)

func TestOnlyURLsOfLogsAreOpened(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "log.example", "log.example/log", "ftp://log.example/log", "https://", "https:///log", "https://user:secret@log.example", "https://log.example/?x", "https://log.example/?", "https://log.example/#x", "http://[::1", "http://log.example/%zz"} {
		if l, err := monitor.Open(url, nil, nil); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, %v", url, l, err)
		}
	}
	for _, url := range []string{"https://log.example", "https://log.example/", "http://127.0.0.1:8000/log", "https://log.example/a/b/"} {
		if l, err := monitor.Open(url, nil, nil); err != nil || l.String() != strings.TrimSuffix(url, "/") {
			t.Errorf("%q: %v, %v", url, l, err)
		}
	}
}

// answer returns a handler that answers with a status, headers and a body.
func answer(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for header := range slices.Chunk(headers, 2) {
			w.Header().Set(header[0], header[1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// TestHostileAnswersEndTheRequest lets the server answer in ways that no log answers. Each
// request must end at once, without another attempt.
func TestHostileAnswersEndTheRequest(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the other host was asked for %s", r.URL)
	}))
	defer elsewhere.Close()
	for name, c := range map[string]struct {
		handler  http.HandlerFunc
		requests int
		want     string
	}{
		"endless body": {func(w http.ResponseWriter, _ *http.Request) {
			for b := make([]byte, 64<<10); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}, 1, "the answer has more than 65536 bytes"},
		"web page":        {answer(200, "<!DOCTYPE html><p>Sign in", "Content-Type", "text/html; charset=utf-8"), 1, "the server answers with a web page, not with a file of a log"},
		"circle":          {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, 4, "it redirects more than 3 times"},
		"other host":      {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, 1, "it redirects to another host"},
		"no HTTP":         {answer(302, "", "Location", "file:///etc/passwd"), 1, `it redirects to another host, ""`},
		"no Location":     {answer(302, ""), 1, "the server answers 302 Found"},
		"not found":       {answer(404, ""), 1, "it does not exist there: the server answers 404 Not Found"},
		"forbidden":       {answer(403, ""), 1, "the server answers 403 Forbidden"},
		"no content":      {answer(204, ""), 1, "the server answers 204 No Content"},
		"control letters": {answer(404, "\x1b[2J", "X-Reason", "x"), 1, "404 Not Found"},
	} {
		var requests atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			c.handler(w, r)
		}))
		text, err := open(t, server.URL+"/log", nil).Checkpoint(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "fetch "+server.URL+"/log/checkpoint: ") || text != "" {
			t.Errorf("%s: %q, %v, want %q", name, text, err, c.want)
		}
		if n := int(requests.Load()); n != c.requests {
			t.Errorf("%s: %d requests, want %d", name, n, c.requests)
		}
		server.Close()
	}
}

// TestRedirectsOfTheSameHostAreFollowed expects that a log may move on its host.
func TestRedirectsOfTheSameHostAreFollowed(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/log/checkpoint" {
			http.Redirect(w, r, "/new/checkpoint", http.StatusMovedPermanently)
			return
		}
		fmt.Fprint(w, r.URL.Path)
	}))
	defer server.Close()
	if text, err := open(t, server.URL+"/log", nil).Checkpoint(t.Context()); err != nil || text != "/new/checkpoint" {
		t.Errorf("%q, %v", text, err)
	}
}

// TestCertificateOfAnUnknownAuthorityIsRefused asks a server whose certificate nobody trusts.
func TestCertificateOfAnUnknownAuthorityIsRefused(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(answer(200, ""))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	if _, err := open(t, server.URL, nil).Checkpoint(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") || strings.Contains(err.Error(), "attempts") {
		t.Errorf("%v", err)
	}
}

// TestTemporaryFailuresAreRepeated lets the first requests fail. The time is that of synctest.
func TestTemporaryFailuresAreRepeated(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, c := range map[string]struct {
		failures    []http.HandlerFunc
		least, most time.Duration
		want        string // in the error, which is nil if this is empty
	}{
		"none":             {nil, 0, 0, ""},
		"503":              {slices.Repeat([]http.HandlerFunc{answer(503, "")}, 5), 7 * time.Second, 16 * time.Second, ""},
		"503 for ever":     {slices.Repeat([]http.HandlerFunc{answer(503, "")}, 50), 7 * time.Second, 16 * time.Second, "6 attempts failed, the last one with: the server answers 503 Service Unavailable"},
		"429 with seconds": {[]http.HandlerFunc{answer(429, "", "Retry-After", "20")}, 20 * time.Second, 20 * time.Second, ""},
		"429 with a date": {[]http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			answer(429, "", "Retry-After", time.Now().Add(40*time.Second).UTC().Format(http.TimeFormat))(w, r)
		}}, 39 * time.Second, 40 * time.Second, ""},
		"429 for long":      {[]http.HandlerFunc{answer(429, "", "Retry-After", "7200")}, time.Minute, time.Minute, ""},
		"429 with nonsense": {[]http.HandlerFunc{answer(429, "", "Retry-After", "-1")}, 0, time.Second, ""},
		"silence":           {[]http.HandlerFunc{hang}, 30 * time.Second, 31 * time.Second, ""},
		"silence for ever":  {slices.Repeat([]http.HandlerFunc{hang}, 50), 180 * time.Second, 200 * time.Second, "6 attempts failed, the last one with: no complete answer within 30s"},
	} {
		synctest.Test(t, func(t *testing.T) {
			left := c.failures
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if len(left) > 0 {
					next := left[0]
					left = left[1:]
					next(w, r)
					return
				}
				fmt.Fprint(w, "text")
			})
			start := time.Now()
			text, err := open(t, "https://log.example", transport{h}).Checkpoint(t.Context())
			if took := time.Since(start); took < c.least || took > c.most {
				t.Errorf("%s: took %v", name, took)
			}
			if c.want == "" && (err != nil || text != "text") || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s: %q, %v, want %q", name, text, err, c.want)
			}
		})
	}
}

// dripping is a body that sends a byte a second, for ever.
type dripping struct{ ctx context.Context }

func (d dripping) Close() error { return nil }
func (d dripping) Read(b []byte) (int, error) {
	select {
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	case <-time.After(time.Second):
		b[0] = 'x'
		return 1, nil
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestSlowBodyEnds expects that a server cannot hold an audit by answering slowly, and that a
// user can end it at any time.
func TestSlowBodyEnds(t *testing.T) {
	slow := roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: dripping{r.Context()}, Request: r}, nil
	})
	synctest.Test(t, func(t *testing.T) {
		_, now := newLog(5000, nil)
		start := time.Now()
		_, err := open(t, "https://log.example", slow).Audit(t.Context(), now, nil, nil)
		if took := time.Since(start); err == nil || !strings.Contains(err.Error(), "no complete answer within 30s") || took > 5*time.Minute {
			t.Errorf("%v after %v", err, took)
		}
		interrupted := errors.New("interrupted")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Second, interrupted)
		defer cancel()
		start = time.Now()
		_, err = open(t, "https://log.example", slow).Audit(ctx, now, nil, nil)
		if took := time.Since(start); !errors.Is(err, interrupted) || took != 10*time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}
