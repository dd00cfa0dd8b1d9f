package httpd

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestNameWithoutCertificateIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		get := logMissing(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("the authority is away") },
			[]string{"here.example"}, slog.New(slog.NewTextHandler(&out, nil)))
		for i, want := range []int{1, 1, 2, 2} {
			for _, name := range []string{"here.example", "elsewhere.example", ""} {
				if _, err := get(&tls.ClientHelloInfo{ServerName: name}); err == nil {
					t.Errorf("a certificate for %q", name)
				}
			}
			if n := strings.Count(out.String(), "the authority is away"); n != want {
				t.Errorf("round %d: %d lines, want %d:\n%s", i, n, want, &out)
			}
			time.Sleep(missingEvery/2 + 1)
		}
		if strings.Contains(out.String(), "elsewhere") {
			t.Errorf("clients can write to the log:\n%s", &out)
		}
	})
}
