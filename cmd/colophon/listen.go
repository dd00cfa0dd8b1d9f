package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/api"
	"colophon/internal/httpd"
	"colophon/internal/limit"
	"colophon/internal/network"
	"colophon/jobs"
)

type listenFlags struct {
	Listen         string         `default:"127.0.0.1:8000" help:"Address and port of the API ($COLOPHON_LISTEN)."`
	TrustedProxies []trustedProxy `placeholder:"CIDR" help:"Networks of the reverse proxies whose X-Forwarded-For is trusted. Default: none ($COLOPHON_TRUSTED_PROXIES)."`
	MaxConnections uint16         `default:"10000" help:"Maximum number of open connections. One network may have a quarter of them, unless it is a trusted proxy. 0 means no limit ($COLOPHON_MAX_CONNECTIONS)."`
	tlsFlags       `embed:""`
	CORSOrigins    corsOrigins `name:"cors-origins" placeholder:"ORIGIN,..." help:"Origins whose pages may call the API in a browser, such as https://example.com or https://*.example.com; * allows all. Default: none ($COLOPHON_CORS_ORIGINS)."`

	RateLimits     string     `default:"${rate_limits}" enum:"memory,shared" help:"Where requests are counted: memory (each process by itself) or shared (all processes together, in the database) ($COLOPHON_RATE_LIMITS)."`
	NoRateLimits   bool       `help:"Turn off all limits on requests and on wrong passwords ($COLOPHON_NO_RATE_LIMITS)."`
	LimitUsers     limit.Rate `default:"5/1m" help:"Registrations per client network ($COLOPHON_LIMIT_USERS)."`
	LimitToken     limit.Rate `default:"10/1m" help:"Sign-ins per client network ($COLOPHON_LIMIT_TOKEN)."`
	LimitJobs      limit.Rate `default:"5/1m" help:"Calls of POST /generate per user, and as many of POST /jobs ($COLOPHON_LIMIT_JOBS)."`
	LimitCalls     limit.Rate `default:"1200/1m" help:"All other calls per user ($COLOPHON_LIMIT_CALLS)."`
	LimitAnonymous limit.Rate `default:"600/1m" help:"Requests per client network that belong to no user: pages, unknown routes, and requests without a valid access token. Each process counts by itself ($COLOPHON_LIMIT_ANONYMOUS)."`

	MaxJobTime         jobTime `default:"10m" help:"Maximum time from the acceptance of a job to its end. The header Cancel-After can only shorten it ($COLOPHON_MAX_JOB_TIME)."`
	MaxOutstandingJobs uint32  `default:"1000" help:"Maximum number of queued and running jobs per user; 0 means no limit ($COLOPHON_MAX_OUTSTANDING_JOBS)."`
	MaxQueuedJobs      uint32  `default:"10000" help:"Maximum number of queued jobs of all users; 0 means no limit ($COLOPHON_MAX_QUEUED_JOBS)."`
	MaxStreams         uint16  `default:"64" help:"Maximum number of open event streams per user and process; 0 means no limit ($COLOPHON_MAX_STREAMS)."`
	TokenBudget        uint32  `default:"0" help:"Maximum number of tokens per user and day (UTC), of prompts and completions together; 0 means no limit ($COLOPHON_TOKEN_BUDGET)."`
}

type tlsFlags struct {
	TLSCert        string   `name:"tls-cert" type:"path" placeholder:"FILE" help:"File of the TLS certificate and its chain in PEM. It is read again when it changes. Default: plain HTTP ($COLOPHON_TLS_CERT)."`
	TLSKey         string   `name:"tls-key" type:"path" placeholder:"FILE" help:"File of the certificate's private key in PEM ($COLOPHON_TLS_KEY)."`
	ACMEDomain     []string `name:"acme-domain" placeholder:"NAME" help:"Domain names to get certificates for, from Let's Encrypt; setting it accepts the terms of Let's Encrypt. It must reach this process on port 443 of these names, or on port 80 with --redirect-listen ($COLOPHON_ACME_DOMAIN)."`
	ACMEDirectory  string   `name:"acme-directory" placeholder:"URL" help:"Directory URL of another ACME authority; setting it accepts that authority's terms ($COLOPHON_ACME_DIRECTORY)."`
	RedirectListen string   `placeholder:"ADDRESS" help:"Address and port that redirect plain HTTP to HTTPS, such as :80. Default: none ($COLOPHON_REDIRECT_LISTEN)."`
}

type adminFlags struct {
	AdminListen string `placeholder:"ADDRESS" help:"Address and port of /metrics and /debug/pprof/, such as 127.0.0.1:9000. Its clients can read the memory of this process. Default: none ($COLOPHON_ADMIN_LISTEN)."`
	AdminRemote bool   `help:"Allow an admin listener that other machines can reach ($COLOPHON_ADMIN_REMOTE)."`
}

// maxAllStreams limits the event streams of a process, about 35 kB each. One HTTP/2
// connection can have many.
const maxAllStreams = 10_000

// trustedProxy is the value of a flag, such as 10.0.0.0/8 or 10.1.2.3.
type trustedProxy struct{ netip.Prefix }

// UnmarshalText reads a network or an address.
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

// corsOrigins is the value of a flag, such as https://a.example,https://b.example.
type corsOrigins []string

// UnmarshalText reads a list.
func (o *corsOrigins) UnmarshalText(text []byte) error {
	*o = strings.Split(string(text), ",")
	return api.CheckOrigins(*o)
}

// jobTime is the value of a flag, such as 10m.
type jobTime struct{ time.Duration }

// UnmarshalText reads a duration of a second to a day.
func (t *jobTime) UnmarshalText(text []byte) (err error) {
	t.Duration, err = time.ParseDuration(string(text))
	if err != nil || t.Duration < time.Second || t.Duration > 24*time.Hour {
		return errors.New("want a duration from 1s to 24h, such as 10m")
	}
	return nil
}

// capacity returns the limits on jobs that the flags set.
func (f *listenFlags) capacity() jobs.Limits {
	return jobs.Limits{
		Outstanding: int(f.MaxOutstandingJobs), Queued: int(f.MaxQueuedJobs), Tokens: int(f.TokenBudget),
		JobTime: f.MaxJobTime.Duration,
	}
}

// limits returns the rate limits that the flags set. Requests that belong to no user are
// always counted in memory: that limit protects the process, and must work without the
// database.
func (f *listenFlags) limits(pool *pgxpool.Pool) (l api.Limits, err error) {
	if f.NoRateLimits {
		return l, nil
	}
	for _, one := range []struct {
		to   **limit.Limit
		name string
		rate limit.Rate
	}{
		{&l.Users, "users", f.LimitUsers},
		{&l.Token, "token", f.LimitToken},
		{&l.Generate, "generate", f.LimitJobs},
		{&l.Jobs, "jobs", f.LimitJobs},
		{&l.Calls, "calls", f.LimitCalls},
		{&l.Anonymous, "anonymous", f.LimitAnonymous},
	} {
		if f.RateLimits == "shared" && one.to != &l.Anonymous {
			*one.to = limit.Shared(pool, one.name, one.rate)
		} else if *one.to, err = limit.InMemory(one.name, one.rate); err != nil {
			return api.Limits{}, err
		}
	}
	return l, nil
}

// tlsSettings are the TLS configuration of a process.
type tlsSettings struct {
	config     *tls.Config  // nil means plain HTTP
	challenges http.Handler // answers ACME challenges over plain HTTP; nil without ACME
	reload     func()       // reloads the certificate from its files; nil without files
}

// errTLS is the error of TLS flags that contradict each other.
var errTLS = errors.New("contradicting TLS flags: set --tls-cert and --tls-key together, or --acme-domain without them; --acme-directory needs --acme-domain; --redirect-listen needs a certificate of either kind")

// settings returns the TLS configuration that the flags set.
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

// endpoints are the listeners for clients of a process.
type endpoints struct {
	public   *httpd.Listener
	redirect *httpd.Listener // redirects HTTP to HTTPS; nil without --redirect-listen
}

// listen opens the endpoints, which the caller closes.
func (f *listenFlags) listen(ctx context.Context, config *tls.Config, log *slog.Logger) (*endpoints, error) {
	o := httpd.ListenOptions{TLS: config, MaxConnections: int(f.MaxConnections), Trusted: f.trusted(), Log: log}
	public, err := httpd.Listen(ctx, f.Listen, o)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	e := &endpoints{public: public}
	if f.RedirectListen != "" {
		o.TLS = nil
		if e.redirect, err = httpd.Listen(ctx, f.RedirectListen, o); err != nil {
			public.Close()
			return nil, fmt.Errorf("--redirect-listen: %w", err)
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

// check refuses an address that other machines can reach, unless a flag allows it.
func (f *adminFlags) check() error {
	if f.AdminListen != "" && !network.IsLoopback(f.AdminListen) && !f.AdminRemote {
		return &usageError{errors.New("--admin-listen: want 127.0.0.1, ::1 or localhost: other machines could read the memory of this process (--admin-remote allows it)")}
	}
	return nil
}

// serve serves metrics and profiles if --admin-listen is set.
func (f *adminFlags) serve(ctx context.Context, servers *httpd.Servers, metrics http.Handler, log *slog.Logger) error {
	if f.AdminListen == "" {
		return nil
	}
	listener, err := httpd.Listen(ctx, f.AdminListen, httpd.ListenOptions{})
	if err != nil {
		return fmt.Errorf("--admin-listen: %w", err)
	}
	servers.Serve(listener, httpd.Admin(metrics))
	log.Info("serving metrics and profiles", "url", listener.URL()+"/metrics")
	return nil
}
