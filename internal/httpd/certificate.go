package httpd

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Certificate is a certificate and its key, and follows changes of their files. It is safe
// for concurrent use.
type Certificate struct {
	cert, key string
	log       *slog.Logger

	mu      sync.Mutex
	checked time.Time
	read    [2]stamp // the files as last read, valid or not
	current *tls.Certificate
}

// LoadCertificate reads a certificate with its chain, and the private key, in PEM.
// Handshakes check the files for changes at most once a second, and use the new
// certificate. If the new files are unusable, the previous certificate stays in use.
func LoadCertificate(cert, key string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{cert: cert, key: key, log: log}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// TLSConfig returns a configuration that serves the certificate.
func (c *Certificate) TLSConfig() *tls.Config {
	return strict(&tls.Config{GetCertificate: c.get})
}

// Reload makes the next handshake read the files, changed or not.
func (c *Certificate) Reload() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked, c.read = time.Time{}, [2]stamp{}
}

// strict allows TLS 1.2 and newer, and in TLS 1.2 only the suites with forward secrecy and
// authenticated encryption. All suites of TLS 1.3 have both.
func strict(config *tls.Config) *tls.Config {
	config.MinVersion = tls.VersionTLS12
	config.CipherSuites = []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
	return config
}

// stamp changes when a file is replaced.
type stamp struct {
	changed time.Time
	size    int64
}

// checkEvery is the minimum time between two checks of the files.
const checkEvery = time.Second

func (c *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) < checkEvery {
		return c.current, nil
	}
	c.checked = time.Now()
	if c.stamps() == c.read {
		return c.current, nil
	}
	if err := c.load(); err != nil {
		// If only one file has been replaced yet, the change of the other one causes
		// another try.
		c.log.Warn("changed certificate unusable, keeping the previous one", "err", err)
	} else {
		c.log.Info("certificate reloaded")
	}
	return c.current, nil
}

func (c *Certificate) stamps() (now [2]stamp) {
	for i, name := range []string{c.cert, c.key} {
		if info, err := os.Stat(name); err == nil {
			now[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return now
}

// load reads the files. The caller holds c.mu, unless c is not shared yet.
func (c *Certificate) load() error {
	c.read = c.stamps() // before the files, so that a later change is noticed
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return err
	}
	c.current = &pair
	return nil
}
