package httpd

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// ACMEOptions configure [ACME].
type ACMEOptions struct {
	Domains   []string     // names that get a certificate; no other name gets one
	Directory string       // URL of the ACME directory; empty means that of Let's Encrypt
	Cache     string       // directory for keys and certificates
	Log       *slog.Logger // receives messages about missing certificates, at most one a minute for each name
}

// ErrDirectory means that the URL of the ACME directory is not safe, because another
// machine on the network could answer in place of the directory.
var ErrDirectory = errors.New("the directory must be an https:// URL, or http:// on loopback")

// ACME returns a TLS configuration that gets a certificate at the first handshake for a
// name, and renews the certificate. ACME accepts the terms of the certificate authority.
// The returned handler answers the authority's challenges over plain HTTP, and answers
// other requests with 404. The only error of ACME is ErrDirectory.
func ACME(o ACMEOptions) (*tls.Config, http.Handler, error) {
	directory := o.Directory
	if directory == "" {
		directory = autocert.DefaultACMEDirectory
	}
	if !isTrustworthy(directory) {
		return nil, nil, ErrDirectory
	}
	manager := &autocert.Manager{
		Client:     &acme.Client{DirectoryURL: directory},
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(o.Cache),
		HostPolicy: withoutPort(autocert.HostWhitelist(o.Domains...)),
	}
	config := strict(manager.TLSConfig())
	config.GetCertificate = logMissing(config.GetCertificate, o.Domains, o.Log)
	return config, manager.HTTPHandler(http.NotFoundHandler()), nil
}

// withoutPort removes the port from a host before it calls the policy, because the value
// of a Host header may have a port.
func withoutPort(policy autocert.HostPolicy) autocert.HostPolicy {
	return func(ctx context.Context, host string) error {
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		return policy(ctx, host)
	}
}

// isTrustworthy reports whether a URL uses HTTPS or loopback. Then no machine on the
// network path can answer in place of the URL's server.
func isTrustworthy(directory string) bool {
	u, err := url.Parse(directory)
	if err != nil || u.Host == "" || u.User != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	loopback := u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
	return u.Scheme == "https" || u.Scheme == "http" && loopback
}

// missingEvery is the minimum time between two log lines about a name without a
// certificate. There is a minimum because any client can cause such lines.
const missingEvery = time.Minute

type getCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// logMissing logs the reason when one of the names has no certificate. Clients see only a
// failed handshake, so operators need the log.
func logMissing(get getCertificate, names []string, log *slog.Logger) getCertificate {
	var mu sync.Mutex
	last := map[string]time.Time{}
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		certificate, err := get(hello)
		if err == nil || !slices.Contains(names, hello.ServerName) {
			return certificate, err
		}
		mu.Lock()
		defer mu.Unlock()
		if time.Since(last[hello.ServerName]) >= missingEvery {
			last[hello.ServerName] = time.Now()
			log.Error("no certificate for a name", "name", hello.ServerName, "err", err)
		}
		return nil, err
	}
}
