package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// errDirectory says what a directory has to be.
var errDirectory = errors.New("--acme-directory must be an https:// URL, or http:// on loopback")

// byACME has an authority sign certificates for the names, when they are asked for.
func (f *tlsFlags) byACME(data string, log *slog.Logger) (*secured, error) {
	directory := autocert.DefaultACMEDirectory
	if f.ACMEDirectory != "" {
		directory = f.ACMEDirectory
	}
	if !trustworthy(directory) {
		return nil, &usageError{errDirectory}
	}
	manager := &autocert.Manager{
		Client:     &acme.Client{DirectoryURL: directory},
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(filepath.Join(data, "acme")),
		HostPolicy: withoutPort(autocert.HostWhitelist(f.ACMEDomain...)),
	}
	config := strict(manager.TLSConfig())
	config.GetCertificate = complaining(config.GetCertificate, f.ACMEDomain, log)
	return &secured{config, manager.HTTPHandler(http.NotFoundHandler())}, nil
}

// withoutPort applies a policy to names as they are in Host headers, too.
func withoutPort(policy autocert.HostPolicy) autocert.HostPolicy {
	return func(ctx context.Context, host string) error {
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		return policy(ctx, host)
	}
}

// trustworthy says whether nobody in between can answer in a URL's place.
func trustworthy(directory string) bool {
	u, err := url.Parse(directory)
	if err != nil || u.Host == "" || u.User != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	loopback := u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
	return u.Scheme == "https" || u.Scheme == "http" && loopback
}

// complainEvery is how often it is logged that a name has no certificate: whoever
// connects can make it so.
const complainEvery = time.Minute

type getCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// complaining logs why there is no certificate for one of the names; who connects
// is only told that something is wrong.
func complaining(get getCertificate, names []string, log *slog.Logger) getCertificate {
	var mu sync.Mutex
	last := map[string]time.Time{}
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		certificate, err := get(hello)
		if err == nil || !slices.Contains(names, hello.ServerName) {
			return certificate, err
		}
		mu.Lock()
		defer mu.Unlock()
		if time.Since(last[hello.ServerName]) >= complainEvery {
			last[hello.ServerName] = time.Now()
			log.Error("there is no certificate for a name", "name", hello.ServerName, "err", err)
		}
		return nil, err
	}
}
