// Package httpdtest makes certificates for TLS tests.
package httpdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority makes self-signed certificates for 127.0.0.1 in a directory of the test. It
// is not safe for concurrent use.
type Authority struct {
	t    *testing.T
	dir  string
	pool *x509.CertPool
	last int64
}

// NewAuthority returns an authority whose directory is removed after the test.
func NewAuthority(t *testing.T) *Authority {
	return &Authority{t: t, dir: t.TempDir(), pool: x509.NewCertPool()}
}

// File returns the path of the file that Issue writes under a name.
func (a *Authority) File(name string) string { return filepath.Join(a.dir, name) }

// Issue writes a new certificate and its key to the named files, and returns the
// certificate's serial number. It replaces each file in one step, so that no reader sees
// half a file.
func (a *Authority) Issue(cert, key string) int64 {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.last++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.last), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		a.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	a.pool.AddCert(parsed)
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(a.File(name)+".new", pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
		if err := os.Rename(a.File(name)+".new", a.File(name)); err != nil {
			a.t.Fatal(err)
		}
	}
	return a.last
}

// Client returns a client that trusts the authority's certificates, follows no redirect
// and uses each connection once. config may be nil.
func (a *Authority) Client(config *tls.Config) *http.Client {
	if config == nil {
		config = &tls.Config{}
	}
	config.RootCAs = a.pool
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
