package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"colophon/test/program/programtest"
)

// startDNS starts a DNS server and returns its address. The keys of addresses are the
// names that the server knows.
func startDNS(t *testing.T, addresses map[string]string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		answer := new(dns.Msg).SetReply(query)
		for _, q := range query.Question {
			if ip := addresses[strings.TrimSuffix(q.Name, ".")]; ip != "" && q.Qtype == dns.TypeA {
				answer.Answer = append(answer.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(ip)})
			}
		}
		_ = w.WriteMsg(answer)
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.ActivateAndServe() }()
	t.Cleanup(func() {
		if err := server.Shutdown(); err != nil {
			t.Errorf("stop the name server: %v", err)
		}
		<-ended
	})
	return l.Addr().String()
}

func port(t *testing.T, address string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestCertificatesComeFromAnACMEAuthority gets certificates through both kinds of
// challenges. One name resolves to the HTTPS listener. The other name resolves only to
// the plain HTTP listener. Both names must get a certificate, which the next process must
// serve again.
//
// security: ASVS 12.2.2
func TestCertificatesComeFromAnACMEAuthority(t *testing.T) {
	t.Parallel()
	var authority atomic.Pointer[http.Handler]
	directory := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*authority.Load()).ServeHTTP(w, r) }))
	defer directory.Close()
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: directory.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	args := []string{"up", "--listen", "127.0.0.1:0", "--acme-domain", "here.example,there.example", "--acme-directory", directory.URL + wfe.DirectoryPath, "--redirect-listen", "127.0.0.2:0"}
	settings := []string{
		"DATABASE_URL=" + programtest.Database(t).URL, "COLOPHON_DATA=" + data,
		"SSL_CERT_FILE=" + roots, // the operators of a private authority set this variable too
	}
	p := programtest.Start(t, settings, args...)
	address, ok := strings.CutPrefix(p.URL, "https://")
	if !ok {
		t.Fatalf("ready %s", p.URL)
	}
	redirect := regexp.MustCompile(`url=http://(127\.0\.0\.2:\d+)`).FindStringSubmatch(p.Await("redirecting HTTP to HTTPS"))
	if redirect == nil {
		t.Fatal("the log does not name the redirect listener")
	}

	log := stdlog.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	issuer := ca.New(log, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {}})
	validator := va.New(log, port(t, redirect[1]), port(t, address), true, startDNS(t, map[string]string{"here.example": "127.0.0.1", "there.example": "127.0.0.2"}), store)
	frontend := wfe.New(log, store, validator, issuer, []string{"authority.example"}, true, false, 1, 1)
	handler := frontend.Handler()
	authority.Store(&handler)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(issuer.GetRootCert(0).PEM()) {
		t.Fatal("the authority has no certificate")
	}

	handshake := func(address, name string) (serial string, err error) {
		conn, err := tls.Dial("tcp", address, &tls.Config{ServerName: name, RootCAs: pool})
		if err != nil {
			return "", err
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
	}
	serials := map[string]string{}
	for _, name := range []string{"here.example", "there.example"} {
		// A handshake may time out before the authority has answered. A later handshake
		// must then find the certificate.
		programtest.Eventually(t, "there is a certificate for "+name, func() bool {
			serial, err := handshake(address, name)
			serials[name] = serial
			return err == nil
		})
		if stored, err := os.ReadFile(filepath.Join(data, "acme", name)); err != nil || !strings.Contains(string(stored), "PRIVATE KEY") {
			t.Errorf("%s is not stored: %v", name, err)
		}
		if info, err := os.Stat(filepath.Join(data, "acme", name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	for _, name := range []string{"elsewhere.example", "x.here.example", ""} {
		if _, err := handshake(address, name); err == nil {
			t.Errorf("a certificate for %q", name)
		}
	}

	// The next process must serve the stored certificates without the authority.
	p.Stop()
	directory.Close()
	p = programtest.Start(t, settings, args...)
	for name, serial := range serials {
		if got, err := handshake(strings.TrimPrefix(p.URL, "https://"), name); err != nil || got != serial {
			t.Errorf("%s in the next process: %s, want %s: %v", name, got, serial, err)
		}
	}
}
