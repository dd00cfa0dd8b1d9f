package main

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"colophon/internal/httpd/httpdtest"
)

// TestServiceServesOnlySecureTLS calls a service over TLS, replaces its certificate, and
// calls its redirect listener. The service must refuse old versions of TLS and weak
// cipher suites.
//
// security: ASVS 3.4.1, ASVS 12.1.1, ASVS 12.2.1, ASVS 12.1.2
func TestServiceServesOnlySecureTLS(t *testing.T) {
	t.Parallel()
	a := httpdtest.NewAuthority(t)
	first := a.Issue("cert.pem", "key.pem")
	s := up(t, "--tls-cert", a.File("cert.pem"), "--tls-key", a.File("key.pem"), "--redirect-listen", "127.0.0.1:0")
	logged := regexp.MustCompile(`url=(http://\S+)`).FindStringSubmatch(s.log.String())
	if logged == nil {
		t.Fatalf("the log does not name the redirect listener: %s", s.log)
	}
	plain := logged[1]
	if !strings.HasPrefix(s.url, "https://") {
		t.Fatalf("ready %s", s.url)
	}
	type response struct {
		proto  int
		tls    uint16
		hsts   string
		serial int64
	}
	get := func(config *tls.Config) (response, error) {
		resp, err := a.Client(config).Get(s.url + "/healthz")
		if err != nil {
			return response{}, err
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return response{resp.ProtoMajor, resp.TLS.Version, resp.Header.Get("Strict-Transport-Security"), resp.TLS.PeerCertificates[0].SerialNumber.Int64()}, nil
	}
	if got, err := get(nil); err != nil || got != (response{2, tls.VersionTLS13, "max-age=31536000", first}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := get(&tls.Config{MaxVersion: tls.VersionTLS12}); err != nil || got.tls != tls.VersionTLS12 {
		t.Errorf("TLS 1.2: %v", err)
	}
	for _, old := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		if _, err := get(&tls.Config{MinVersion: old, MaxVersion: old}); err == nil {
			t.Errorf("TLS %x is accepted", old)
		}
	}
	if _, err := get(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA, tls.TLS_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA}}); err == nil {
		t.Error("a weak cipher suite is accepted")
	}
	// After the files have changed, the service must use the new certificate.
	second := a.Issue("cert.pem", "key.pem")
	eventually(t, "the new certificate is used", func() bool {
		got, err := get(nil)
		return err == nil && got.serial == second
	})
	// The redirect listener must redirect pages, and must refuse requests with secrets.
	for _, k := range []struct {
		method, path, body, access string
		status                     int
		location                   string
	}{
		{"GET", "/docs?x=1&y=%2F", "", "", 308, s.url + "/docs?x=1&y=%2F"},
		{"HEAD", "/", "", "", 308, s.url + "/"},
		{"GET", "/.well-known/acme-challenge/x", "", "", 308, s.url + "/.well-known/acme-challenge/x"},
		{"GET", "/history", "", "Bearer x", 403, ""},
		{"POST", "/token", "username=a&password=b", "", 403, ""},
		{"GET", "//evil.example/", "", "", 404, ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), k.method, plain+k.path, strings.NewReader(k.body))
		if err != nil {
			t.Fatal(err)
		}
		if k.access != "" {
			req.Header.Set("Authorization", k.access)
		}
		resp, err := a.Client(nil).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Location"); resp.StatusCode != k.status || got != k.location {
			t.Errorf("%s %s: %d to %q", k.method, k.path, resp.StatusCode, got)
		}
		if resp.Header.Get("Strict-Transport-Security") != "" || resp.Header.Get("X-Content-Type-Options") == "" {
			t.Errorf("%s %s: %v", k.method, k.path, resp.Header)
		}
	}
}

func TestContradictingTLSFlagsAreUsageErrors(t *testing.T) {
	a := httpdtest.NewAuthority(t)
	a.Issue("cert.pem", "key.pem")
	a.Issue("other.pem", "otherkey.pem")
	cert, key := a.File("cert.pem"), a.File("key.pem")
	log := slog.New(slog.DiscardHandler)
	for name, k := range map[string]struct {
		flags tlsFlags
		ok    bool
	}{
		"nothing":                       {tlsFlags{}, true},
		"files":                         {tlsFlags{TLSCert: cert, TLSKey: key}, true},
		"files and a redirect":          {tlsFlags{TLSCert: cert, TLSKey: key, RedirectListen: ":0"}, true},
		"a certificate alone":           {tlsFlags{TLSCert: cert}, false},
		"a key alone":                   {tlsFlags{TLSKey: key}, false},
		"files and ACME":                {tlsFlags{TLSCert: cert, TLSKey: key, ACMEDomain: []string{"a.example"}}, false},
		"a redirect alone":              {tlsFlags{RedirectListen: ":0"}, false},
		"a key of another certificate":  {tlsFlags{TLSCert: cert, TLSKey: a.File("otherkey.pem")}, false},
		"a missing file":                {tlsFlags{TLSCert: cert, TLSKey: a.File("none")}, false},
		"ACME":                          {tlsFlags{ACMEDomain: []string{"a.example"}}, true},
		"an authority":                  {tlsFlags{ACMEDomain: []string{"a.example"}, ACMEDirectory: "https://acme.example/directory"}, true},
		"an authority on loopback":      {tlsFlags{ACMEDomain: []string{"a.example"}, ACMEDirectory: "http://localhost:14000/dir"}, true},
		"an authority over HTTP":        {tlsFlags{ACMEDomain: []string{"a.example"}, ACMEDirectory: "http://acme.example/directory"}, false},
		"an authority without a scheme": {tlsFlags{ACMEDomain: []string{"a.example"}, ACMEDirectory: "acme.example"}, false},
		"an authority with a password":  {tlsFlags{ACMEDomain: []string{"a.example"}, ACMEDirectory: "https://a:b@acme.example/"}, false},
		"an authority alone":            {tlsFlags{ACMEDirectory: "https://acme.example/directory"}, false},
	} {
		_, err := k.flags.settings(t.TempDir(), log)
		if _, usage := errors.AsType[*usageError](err); (err == nil) != k.ok || err != nil && !usage {
			t.Errorf("%s: %v", name, err)
		}
	}
}
