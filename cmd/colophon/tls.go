package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

type tlsFlags struct {
	TLSCert        string   `name:"tls-cert" type:"path" placeholder:"FILE" help:"Certificate and its chain in PEM: serve HTTPS. It is read again when it changes ($COLOPHON_TLS_CERT)."`
	TLSKey         string   `name:"tls-key" type:"path" placeholder:"FILE" help:"Its private key in PEM ($COLOPHON_TLS_KEY)."`
	ACMEDomain     []string `name:"acme-domain" placeholder:"NAME" help:"Get certificates for these names from Let's Encrypt, whose terms are thereby accepted; it must reach port 443 of them here, or port 80 with --redirect-listen ($COLOPHON_ACME_DOMAIN)."`
	ACMEDirectory  string   `name:"acme-directory" placeholder:"URL" help:"Get them from another authority that speaks ACME; it has to be one whose terms are accepted, too ($COLOPHON_ACME_DIRECTORY)."`
	RedirectListen string   `placeholder:"ADDRESS" help:"Address and port on which plain HTTP is sent to HTTPS, such as :80 ($COLOPHON_REDIRECT_LISTEN)."`
}

// secured is how a listener speaks TLS.
type secured struct {
	config     *tls.Config
	challenges http.Handler // answers those of ACME over plain HTTP; nil without
}

// errTLS says which flags do not go together.
var errTLS = errors.New("--tls-cert and --tls-key belong together, --acme-domain stands in their place, --acme-directory belongs to it, and --redirect-listen needs a certificate")

// secured returns nil if TLS is not asked for. Files are looked after until ctx
// is done.
func (f *tlsFlags) secured(ctx context.Context, data string, log *slog.Logger) (*secured, error) {
	files, byACME := f.TLSCert != "", len(f.ACMEDomain) > 0
	if files != (f.TLSKey != "") || files && byACME || f.RedirectListen != "" && !files && !byACME || f.ACMEDirectory != "" && !byACME {
		return nil, &usageError{errTLS}
	}
	switch {
	case files:
		c := &certificate{cert: f.TLSCert, key: f.TLSKey, log: log}
		if err := c.load(); err != nil {
			return nil, &usageError{fmt.Errorf("--tls-cert, --tls-key: %w", err)}
		}
		c.hearHangups(ctx)
		return &secured{config: strict(&tls.Config{GetCertificate: c.get})}, nil
	case byACME:
		return f.byACME(data, log)
	}
	return nil, nil
}

// strict leaves of TLS 1.2 the suites that authenticate what they encrypt, with
// forward secrecy; all suites of 1.3 do.
func strict(config *tls.Config) *tls.Config {
	config.MinVersion = tls.VersionTLS12
	config.CipherSuites = []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
	return config
}

// certificate is the one in two files, as they now are.
type certificate struct {
	cert, key string
	log       *slog.Logger

	mu     sync.Mutex
	looked time.Time
	seen   [2]stamp // of the files when they were last read, for better or worse
	now    *tls.Certificate
}

// stamp tells a file from the one that was there before.
type stamp struct {
	changed time.Time
	size    int64
}

// lookAgain is how often the files are looked at, by handshakes.
const lookAgain = time.Second

// get returns the certificate for a handshake.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) >= lookAgain {
		c.looked = time.Now()
		if c.stamps() != c.seen {
			if err := c.read(); err != nil {
				// One file may be there before the other one: the next handshakes try again.
				c.log.Warn("the certificate has changed and cannot be used; the one before stays", "err", err)
			} else {
				c.log.Info("the certificate has changed")
			}
		}
	}
	return c.now, nil
}

// hearHangups makes SIGHUP a request to look now, and not the end of the process.
func (c *certificate) hearHangups(ctx context.Context) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	go func() {
		defer signal.Stop(hangup)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
				c.mu.Lock()
				c.looked, c.seen = time.Time{}, [2]stamp{}
				c.mu.Unlock()
			}
		}
	}()
}

func (c *certificate) stamps() (now [2]stamp) {
	for i, name := range []string{c.cert, c.key} {
		if info, err := os.Stat(name); err == nil {
			now[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return now
}

// load reads the files for the first time.
func (c *certificate) load() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read()
}

func (c *certificate) read() error {
	c.seen = c.stamps() // before, so that a change meanwhile is not missed
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return err
	}
	c.now = &pair
	return nil
}
