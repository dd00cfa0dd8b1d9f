package httpd

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"colophon/internal/httpd/httpdtest"
)

// TestChangedCertificateIsReloaded replaces the files of a served certificate. Later
// handshakes must use the new certificate.
func TestChangedCertificateIsReloaded(t *testing.T) {
	a := httpdtest.NewAuthority(t)
	first := a.Issue("cert.pem", "key.pem")
	var log bytes.Buffer
	c, err := LoadCertificate(a.File("cert.pem"), a.File("key.pem"), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	l := serve(t, ListenOptions{TLS: c.TLSConfig()}, func(http.ResponseWriter, *http.Request) {})
	served := func() int64 {
		t.Helper()
		resp, err := a.Client(nil).Get(l.URL())
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	// expire makes the next handshake check the files without a wait of one second.
	expire := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.checked = time.Time{}
	}
	if got := served(); got != first {
		t.Errorf("serial number %d, want %d", got, first)
	}

	if err := os.WriteFile(a.File("cert.pem"), []byte("not a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	expire()
	if got := served(); got != first || !strings.Contains(log.String(), "certificate unusable") {
		t.Errorf("with a broken file: serial number %d, want %d; log %q", got, first, &log)
	}

	second := a.Issue("cert.pem", "key.pem")
	expire()
	if got := served(); got != second {
		t.Errorf("after the change: serial number %d, want %d", got, second)
	}

	third := a.Issue("cert.pem", "key.pem")
	c.Reload()
	if got := served(); got != third {
		t.Errorf("after Reload: serial number %d, want %d", got, third)
	}
}

func TestPlainHTTPOnPortOfHTTPSIsRefused(t *testing.T) {
	a := httpdtest.NewAuthority(t)
	a.Issue("cert.pem", "key.pem")
	c, err := LoadCertificate(a.File("cert.pem"), a.File("key.pem"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l := serve(t, ListenOptions{TLS: c.TLSConfig()}, func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s reached the handler", r.Method, r.URL)
	})
	if got := exchange(t, l.Addr().String(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.0 400") {
		t.Errorf("%q", got)
	}
}
