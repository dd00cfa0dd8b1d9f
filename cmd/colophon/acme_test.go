package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

// names resolves names to what they are said to be, and returns where it listens.
func names(t *testing.T, addresses map[string]string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, asked *dns.Msg) {
		answer := new(dns.Msg).SetReply(asked)
		for _, q := range asked.Question {
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

// TestACME gets certificates from an authority, with both kinds of challenges: one
// name resolves to the listener of HTTPS, the other one to the address that has only
// the plain listener.
//
// security: ASVS 12.2.2
func TestACME(t *testing.T) {
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	var authority atomic.Pointer[http.Handler]
	directory := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*authority.Load()).ServeHTTP(w, r) }))
	defer directory.Close()
	// Clients of this process trust the directory, as they would with SSL_CERT_FILE.
	machine := http.DefaultTransport
	http.DefaultTransport = directory.Client().Transport
	t.Cleanup(func() { http.DefaultTransport = machine })
	free, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	plain := free.Addr().String()
	free.Close()
	data := dataDir(t)
	flags := []string{"--acme-domain", "here.example,there.example", "--acme-directory", directory.URL + wfe.DirectoryPath, "--redirect-listen", plain}
	s := up(t, data, flags...)
	address, ok := strings.CutPrefix(s.url, "https://")
	if !ok {
		t.Fatalf("ready %s", s.url)
	}

	log := stdlog.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	signs := ca.New(log, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {}})
	looks := va.New(log, port(t, plain), port(t, address), true, names(t, map[string]string{"here.example": "127.0.0.1", "there.example": "127.0.0.2"}), store)
	front := wfe.New(log, store, looks, signs, []string{"authority.example"}, true, false, 1, 1)
	handler := front.Handler()
	authority.Store(&handler)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(signs.GetRootCert(0).PEM()) {
		t.Fatal("the authority has no certificate")
	}

	meet := func(address, name string) (serial string, err error) {
		conn, err := tls.Dial("tcp", address, &tls.Config{ServerName: name, RootCAs: pool})
		if err != nil {
			return "", err
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
	}
	serials := map[string]string{}
	for _, name := range []string{"here.example", "there.example"} {
		// The authority may take longer than a handshake may: the certificate is there
		// for the next one.
		eventually(t, "there is a certificate for "+name, func() bool {
			serial, err := meet(address, name)
			serials[name] = serial
			return err == nil
		})
		if kept, err := os.ReadFile(filepath.Join(data, "acme", name)); err != nil || !strings.Contains(string(kept), "PRIVATE KEY") {
			t.Errorf("%s is not kept: %v", name, err)
		}
		if info, err := os.Stat(filepath.Join(data, "acme", name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	for _, name := range []string{"elsewhere.example", "x.here.example", ""} {
		if _, err := meet(address, name); err == nil {
			t.Errorf("a certificate for %q", name)
		}
	}

	// The next service needs no authority for the certificates that are kept.
	if err := s.stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}
	directory.Close()
	s = up(t, data, flags...)
	for name, serial := range serials {
		if got, err := meet(strings.TrimPrefix(s.url, "https://"), name); err != nil || got != serial {
			t.Errorf("%s in the next service: %s, want %s: %v", name, got, serial, err)
		}
	}
}
