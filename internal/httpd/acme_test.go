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
		get := logMissing(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("authority unavailable") },
			[]string{"here.example"}, slog.New(slog.NewTextHandler(&out, nil)))
		for i, want := range []int{1, 1, 2, 2} {
			for _, name := range []string{"here.example", "elsewhere.example", ""} {
				if _, err := get(&tls.ClientHelloInfo{ServerName: name}); err == nil {
					t.Errorf("%q has a certificate", name)
				}
			}
			if n := strings.Count(out.String(), "authority unavailable"); n != want {
				t.Errorf("round %d: %d lines, want %d:\n%s", i, n, want, &out)
			}
			time.Sleep(missingEvery/2 + 1)
		}
		if strings.Contains(out.String(), "elsewhere") {
			t.Errorf("the log has a name that a client chose:\n%s", &out)
		}
	})
}
