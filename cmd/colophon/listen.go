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
	Listen         string         `default:"127.0.0.1:8000" help:"Address and port to serve ($COLOPHON_LISTEN)."`
	TrustedProxies []trustedProxy `placeholder:"CIDR" help:"Networks of proxies whose X-Forwarded-For is believed; without them the peer is the client ($COLOPHON_TRUSTED_PROXIES)."`
	MaxConnections uint16         `default:"10000" help:"Connections at once; one address may have a quarter of them, unless it is a trusted proxy. 0 is no limit ($COLOPHON_MAX_CONNECTIONS)."`
	tlsFlags       `embed:""`
	CORSOrigins    corsOrigins `name:"cors-origins" placeholder:"ORIGIN,..." help:"Origins whose pages may use the API in a browser, such as https://example.com or https://*.example.com; * is all. Without it no other page may ($COLOPHON_CORS_ORIGINS)."`

	RateLimits     string     `default:"${rate_limits}" enum:"memory,shared" help:"Where requests are counted: in the memory of each process, or shared by all over one database ($COLOPHON_RATE_LIMITS)."`
	NoRateLimits   bool       `help:"Count no requests and no wrong passwords ($COLOPHON_NO_RATE_LIMITS)."`
	LimitUsers     limit.Rate `default:"5/1m" help:"Registrations per address ($COLOPHON_LIMIT_USERS)."`
	LimitToken     limit.Rate `default:"10/1m" help:"Sign-ins per address ($COLOPHON_LIMIT_TOKEN)."`
	LimitJobs      limit.Rate `default:"5/1m" help:"Calls of POST /generate and of POST /jobs per user ($COLOPHON_LIMIT_JOBS)."`
	LimitCalls     limit.Rate `default:"1200/1m" help:"All other calls of a user together ($COLOPHON_LIMIT_CALLS)."`
	LimitAnonymous limit.Rate `default:"600/1m" help:"Requests per address that reach no user: pages, unknown routes, and what has no valid access token; each process counts them for itself ($COLOPHON_LIMIT_ANONYMOUS)."`

	MaxJobTime         jobTime `default:"10m" help:"Most time from a job's acceptance to its end; Cancel-After can only shorten it ($COLOPHON_MAX_JOB_TIME)."`
	MaxOutstandingJobs uint32  `default:"1000" help:"Jobs of one user that may be queued or running; 0 is no limit ($COLOPHON_MAX_OUTSTANDING_JOBS)."`
	MaxQueuedJobs      uint32  `default:"10000" help:"Jobs of all users that may be queued; 0 is no limit ($COLOPHON_MAX_QUEUED_JOBS)."`
	MaxStreams         uint16  `default:"64" help:"Event streams that one user may have open at once at this process; 0 is no limit ($COLOPHON_MAX_STREAMS)."`
	TokenBudget        uint32  `default:"0" help:"Tokens of prompts and completions per user and day (UTC); 0 is no limit ($COLOPHON_TOKEN_BUDGET)."`
}

type tlsFlags struct {
	TLSCert        string   `name:"tls-cert" type:"path" placeholder:"FILE" help:"Certificate and its chain in PEM: serve HTTPS. It is read again when it changes ($COLOPHON_TLS_CERT)."`
	TLSKey         string   `name:"tls-key" type:"path" placeholder:"FILE" help:"Its private key in PEM ($COLOPHON_TLS_KEY)."`
	ACMEDomain     []string `name:"acme-domain" placeholder:"NAME" help:"Get certificates for these names from Let's Encrypt, whose terms are thereby accepted; it must reach port 443 of them here, or port 80 with --redirect-listen ($COLOPHON_ACME_DOMAIN)."`
	ACMEDirectory  string   `name:"acme-directory" placeholder:"URL" help:"Get them from another authority that speaks ACME; it has to be one whose terms are accepted, too ($COLOPHON_ACME_DIRECTORY)."`
	RedirectListen string   `placeholder:"ADDRESS" help:"Address and port on which plain HTTP is sent to HTTPS, such as :80 ($COLOPHON_REDIRECT_LISTEN)."`
}

type adminFlags struct {
	AdminListen string `placeholder:"ADDRESS" help:"Address and port of /metrics and /debug/pprof/, such as 127.0.0.1:9000; without it there is no such listener. Who reaches it can read this process's memory ($COLOPHON_ADMIN_LISTEN)."`
	AdminRemote bool   `help:"Allow an admin listener that other machines reach ($COLOPHON_ADMIN_REMOTE)."`
}

// maxAllStreams bounds the event streams of a process, some 35 kB each: over HTTP/2
// there are many to a connection.
const maxAllStreams = 10_000

// trustedProxy is a flag such as 10.0.0.0/8 or 10.1.2.3.
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

// corsOrigins is a flag such as https://a.example,https://b.example.
type corsOrigins []string

// UnmarshalText reads a list.
func (o *corsOrigins) UnmarshalText(text []byte) error {
	*o = strings.Split(string(text), ",")
	return api.CheckOrigins(*o)
}

// jobTime is a flag such as 10m.
type jobTime struct{ time.Duration }

// UnmarshalText reads a duration of a second to a day.
func (t *jobTime) UnmarshalText(text []byte) (err error) {
	t.Duration, err = time.ParseDuration(string(text))
	if err != nil || t.Duration < time.Second || t.Duration > 24*time.Hour {
		return errors.New("the time of a job is between 1s and 24h, such as 10m")
	}
	return nil
}

// capacity returns how many jobs the flags allow.
func (f *listenFlags) capacity() jobs.Limits {
	return jobs.Limits{
		Outstanding: int(f.MaxOutstandingJobs), Queued: int(f.MaxQueuedJobs), Tokens: int(f.TokenBudget),
		JobTime: f.MaxJobTime.Duration,
	}
}

// limits returns the rate limits that the flags ask for. Requests that reach no user
// are always counted in memory: that limit protects the process, and must work
// without the database.
func (f *listenFlags) limits(pool *pgxpool.Pool) (l api.Limits, err error) {
	if f.NoRateLimits {
		return l, nil
	}
	for _, one := range []struct {
		at   **limit.Limit
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
		if f.RateLimits == "shared" && one.at != &l.Anonymous {
			*one.at = limit.Shared(pool, one.name, one.rate)
		} else if *one.at, err = limit.InMemory(one.name, one.rate); err != nil {
			return api.Limits{}, err
		}
	}
	return l, nil
}

// tlsSettings are how a process speaks TLS.
type tlsSettings struct {
	config     *tls.Config  // nil is plain HTTP
	challenges http.Handler // answers those of ACME over plain HTTP; nil without ACME
	reload     func()       // reads the certificate's files again; nil without files
}

// errTLS says which flags do not go together.
var errTLS = errors.New("--tls-cert and --tls-key belong together, --acme-domain stands in their place, --acme-directory belongs to it, and --redirect-listen needs a certificate")

// settings returns the TLS that the flags ask for.
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

// endpoints are where clients reach a process.
type endpoints struct {
	public   *httpd.Listener
	redirect *httpd.Listener // from HTTP to HTTPS; nil without --redirect-listen
}

// listen opens the endpoints. Close them.
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

// check refuses an address that other machines reach.
func (f *adminFlags) check() error {
	if f.AdminListen != "" && !network.IsLoopback(f.AdminListen) && !f.AdminRemote {
		return &usageError{errors.New("--admin-listen: only 127.0.0.1, ::1 or localhost, unless --admin-remote says that other machines may read this process's memory")}
	}
	return nil
}

// serve serves metrics and profiles if the flags ask for that.
func (f *adminFlags) serve(ctx context.Context, servers *httpd.Servers, metrics http.Handler, log *slog.Logger) error {
	if f.AdminListen == "" {
		return nil
	}
	listener, err := httpd.Listen(ctx, f.AdminListen, httpd.ListenOptions{})
	if err != nil {
		return fmt.Errorf("--admin-listen: %w", err)
	}
	servers.Serve(listener, httpd.Admin(metrics))
	log.Info("metrics and profiles", "url", listener.URL()+"/metrics")
	return nil
}
