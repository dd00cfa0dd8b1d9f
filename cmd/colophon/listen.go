package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"

	"colophon/api"
	"colophon/internal/httpd"
	"colophon/internal/network"
	"colophon/jobs"
	"colophon/model/catalog"
)

type listenFlags struct {
	Listen         string         `default:"127.0.0.1:8000" help:"Address and port of the API ($COLOPHON_LISTEN)."`
	TrustedProxies []trustedProxy `placeholder:"CIDR" help:"Networks of the reverse proxies whose X-Forwarded-For is trusted. Default: none ($COLOPHON_TRUSTED_PROXIES)."`
	MaxConnections uint16         `default:"10000" help:"Maximum number of open connections, lowered to three quarters of the process's limit of open files. One network may have a quarter of them and one IPv6 /48 half, unless it is a trusted proxy. 0 means no limit ($COLOPHON_MAX_CONNECTIONS)."`
	CORSOrigins    corsOrigins    `name:"cors-origins" placeholder:"ORIGIN,..." help:"Web origins that may call the API from a browser, such as https://example.com or https://*.example.com; * allows all. Default: none ($COLOPHON_CORS_ORIGINS)."`
	Watermark      bool           `help:"Mark the texts of all jobs with their owners' watermark keys, also if a request does not ask for it. Texts at temperature 0 get no mark ($COLOPHON_WATERMARK)."`
	ChatTemplate   string         `default:"auto" enum:"auto,plain,eos" help:"How chat completions make a prompt of messages: plain puts the name of the role before each text, eos ends each text with the end-of-text token. auto means eos for models that were trained for conversations, such as DialoGPT, and plain for all others ($COLOPHON_CHAT_TEMPLATE)."`
	NoChat         bool           `help:"Answer 404 to chat completions and new responses ($COLOPHON_NO_CHAT)."`
	LogPrivate     bool           `help:"Do not serve the signed log of events at /log/ ($COLOPHON_LOG_PRIVATE)."`
	tlsFlags       `group:"TLS:"`
	limitFlags     `group:"Limits:"`
}

type tlsFlags struct {
	TLSCert        string   `name:"tls-cert" type:"path" placeholder:"FILE" help:"File of the TLS certificate and its chain in PEM. It is read again when it changes. Default: plain HTTP ($COLOPHON_TLS_CERT)."`
	TLSKey         string   `name:"tls-key" type:"path" placeholder:"FILE" help:"File of the certificate's private key in PEM ($COLOPHON_TLS_KEY)."`
	ACMEDomain     []string `name:"acme-domain" placeholder:"NAME" help:"Domain names to get certificates for, from Let's Encrypt; setting it accepts the terms of Let's Encrypt. Let's Encrypt must reach this process on port 443 of these names, or on port 80 with --redirect-listen ($COLOPHON_ACME_DOMAIN)."`
	ACMEDirectory  string   `name:"acme-directory" placeholder:"URL" help:"Directory URL of another ACME authority; setting it accepts that authority's terms ($COLOPHON_ACME_DIRECTORY)."`
	RedirectListen string   `placeholder:"ADDRESS" help:"Address and port that redirect plain HTTP to HTTPS, such as :80. Default: none ($COLOPHON_REDIRECT_LISTEN)."`
}

type adminFlags struct {
	AdminListen string `placeholder:"ADDRESS" help:"Address and port of /metrics and /debug/pprof/, such as 127.0.0.1:9000. Clients that reach it can read the memory of this process. Default: none ($COLOPHON_ADMIN_LISTEN)."`
	AdminRemote bool   `help:"Allow an admin listener that other machines can reach ($COLOPHON_ADMIN_REMOTE)."`
}

// trustedProxy is a network of --trusted-proxies, such as 10.0.0.0/8 or 10.1.2.3.
type trustedProxy struct{ netip.Prefix }

func (p *trustedProxy) UnmarshalText(text []byte) (err error) {
	p.Prefix, err = network.ParsePrefix(string(text))
	return err
}

func (f *listenFlags) trusted() []netip.Prefix {
	networks := make([]netip.Prefix, len(f.TrustedProxies))
	for i, p := range f.TrustedProxies {
		networks[i] = p.Prefix
	}
	return networks
}

// chatTemplate returns the chat template for a model, or "" without chat completions. The
// error for a template that the model cannot have is a usageError.
func (f *listenFlags) chatTemplate(source catalog.Model) (string, error) {
	if f.NoChat {
		return "", nil
	}
	config, err := source.Config()
	switch {
	case err != nil:
		return "", err
	case f.ChatTemplate == jobs.TemplateEOS && config.EOS < 0:
		return "", &usageError{fmt.Errorf("--chat-template: model %s has no end-of-text token, so it cannot have the template eos", source.Name)}
	case f.ChatTemplate == jobs.TemplateEOS, f.ChatTemplate == "auto" && config.Conversational && config.EOS >= 0:
		return jobs.TemplateEOS, nil
	}
	return jobs.TemplatePlain, nil
}

// corsOrigins is the value of --cors-origins, such as
// https://a.example,https://b.example.
type corsOrigins []string

// UnmarshalText reads origins that are separated by commas.
func (o *corsOrigins) UnmarshalText(text []byte) error {
	*o = strings.Split(string(text), ",")
	return api.CheckOrigins(*o)
}

// tlsSettings is the TLS configuration of a process.
type tlsSettings struct {
	config     *tls.Config  // nil means plain HTTP
	challenges http.Handler // answers ACME challenges over plain HTTP; nil without ACME
	reload     func()       // reloads the certificate from its files; nil without files
}

// errTLS is the error for TLS flags that contradict each other.
var errTLS = errors.New("contradicting TLS flags: set --tls-cert and --tls-key together, or --acme-domain without them; --acme-directory needs --acme-domain; --redirect-listen needs a certificate of either kind")

// settings returns the TLS configuration. Every error is a usageError.
func (f *tlsFlags) settings(data string, log *slog.Logger) (s tlsSettings, err error) {
	files, byACME := f.TLSCert != "", len(f.ACMEDomain) > 0
	if files != (f.TLSKey != "") || files && byACME || f.RedirectListen != "" && !files && !byACME || f.ACMEDirectory != "" && !byACME {
		return s, &usageError{errTLS}
	}
	switch {
	case files:
		certificate, err := httpd.LoadCertificate(f.TLSCert, f.TLSKey, log)
		if err != nil {
			return s, &usageError{fmt.Errorf("--tls-cert, --tls-key: %w", err)}
		}
		return tlsSettings{config: certificate.TLSConfig(), reload: certificate.Reload}, nil
	case byACME:
		s.config, s.challenges, err = httpd.ACME(httpd.ACMEOptions{
			Domains: f.ACMEDomain, Directory: f.ACMEDirectory, Cache: filepath.Join(data, "acme"), Log: log,
		})
		if err != nil {
			return s, &usageError{fmt.Errorf("--acme-directory: %w", err)}
		}
	}
	return s, nil
}

// endpoints are the listeners that a process has for its clients.
type endpoints struct {
	public   *httpd.Listener
	redirect *httpd.Listener // redirects HTTP to HTTPS; nil without --redirect-listen
}

// listen opens the endpoints. The caller closes them.
func (f *listenFlags) listen(ctx context.Context, config *tls.Config, log *slog.Logger) (*endpoints, error) {
	o := httpd.ListenOptions{TLS: config, MaxConnections: int(f.MaxConnections), Trusted: f.trusted(), Log: log}
	public, err := listen(ctx, "--listen", f.Listen, o)
	if err != nil {
		return nil, err
	}
	e := &endpoints{public: public}
	if f.RedirectListen != "" {
		o.TLS = nil
		if e.redirect, err = listen(ctx, "--redirect-listen", f.RedirectListen, o); err != nil {
			public.Close()
			return nil, err
		}
	}
	return e, nil
}

func (e *endpoints) close() {
	e.public.Close()
	if e.redirect != nil {
		e.redirect.Close()
	}
}

// check returns an error if other machines can reach the address of --admin-listen,
// unless a flag allows such an address.
func (f *adminFlags) check() error {
	if f.AdminListen != "" && !network.IsLoopback(f.AdminListen) && !f.AdminRemote {
		return &usageError{errors.New("--admin-listen: other machines could read the memory of this process: use 127.0.0.1, ::1 or localhost, or allow it with --admin-remote")}
	}
	return nil
}

// listen opens the listener for metrics and profiles. It returns nil without
// --admin-listen. The caller closes the listener.
func (f *adminFlags) listen(ctx context.Context) (*httpd.Listener, error) {
	if f.AdminListen == "" {
		return nil, nil
	}
	return listen(ctx, "--admin-listen", f.AdminListen, httpd.ListenOptions{})
}

// listen opens a listener on the address in a flag. The error names the flag. It is a
// usageError if the address is malformed or its host name is unknown.
func listen(ctx context.Context, flag, address string, o httpd.ListenOptions) (*httpd.Listener, error) {
	l, err := httpd.Listen(ctx, address, o)
	if err == nil {
		return l, nil
	}
	err = fmt.Errorf("%s: %w", flag, err)
	_, malformed := errors.AsType[*net.AddrError](err)
	_, unresolved := errors.AsType[*net.DNSError](err)
	if malformed || unresolved {
		return nil, &usageError{err}
	}
	return nil, err
}
