package httpd

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Certificate is a certificate and its private key. It reads both files again when one of
// the files changes. It is safe for concurrent use.
type Certificate struct {
	cert, key string
	log       *slog.Logger

	mu      sync.Mutex
	checked time.Time
	read    [2]stamp // the state of the files at the last read, whether or not they were usable
	current *tls.Certificate
}

// LoadCertificate reads a certificate with its chain, and the private key, in PEM. Later
// handshakes check the files for changes, at most once a second. A handshake that finds a
// change uses the new certificate. If the new files are unusable, the previous certificate
// stays in use.
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

// Reload makes the next handshake read the files, even if they have not changed.
func (c *Certificate) Reload() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked, c.read = time.Time{}, [2]stamp{}
}

// strict allows TLS 1.2 and newer. In TLS 1.2 it allows only the cipher suites with forward
// secrecy and authenticated encryption. All cipher suites of TLS 1.3 have both.
func strict(config *tls.Config) *tls.Config {
	config.MinVersion = tls.VersionTLS12
	config.CipherSuites = []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
	return config
}

// stamp identifies a version of a file. The stamp changes when the file is replaced.
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
		// Perhaps only one of the files has been replaced so far. The change of the other
		// file causes another load.
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

// load reads the files. If other goroutines may already use c, the caller must hold c.mu.
func (c *Certificate) load() error {
	c.read = c.stamps() // taken before the files are read, so that a later change is noticed
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return err
	}
	c.current = &pair
	return nil
}
