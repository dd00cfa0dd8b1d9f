package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/api"
	"colophon/internal/limit"
)

// rate is a flag such as 5/1m.
type rate struct{ limit.Rate }

// UnmarshalText reads NUMBER/DURATION.
func (r *rate) UnmarshalText(text []byte) error {
	number, per, _ := strings.Cut(string(text), "/")
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || n == 0 || per == "" {
		return errors.New("a limit is a number of requests and a time, such as 5/1m")
	}
	d, err := time.ParseDuration(per)
	if err != nil || d < time.Second || d > 31*24*time.Hour {
		return errors.New("the time of a limit is between a second and 31 days, such as 1m")
	}
	r.Rate = limit.Rate{Requests: n, Per: d}
	return nil
}

// limits returns the limits that the flags ask for. What reaches no user is
// always counted in memory: it is the process that is protected from it, and
// whether the process lives must not depend on the database.
func (f *listenFlags) limits(pool *pgxpool.Pool) (l api.Limits, err error) {
	if f.NoRateLimits {
		return l, nil
	}
	for _, one := range []struct {
		at   **limit.Limit
		name string
		rate limit.Rate
	}{
		{&l.Users, "users", f.LimitUsers.Rate},
		{&l.Token, "token", f.LimitToken.Rate},
		{&l.Generate, "generate", f.LimitJobs.Rate},
		{&l.Jobs, "jobs", f.LimitJobs.Rate},
		{&l.Calls, "calls", f.LimitCalls.Rate},
		{&l.Anonymous, "anonymous", f.LimitAnonymous.Rate},
	} {
		if f.RateLimits == "shared" && one.at != &l.Anonymous {
			*one.at = limit.Shared(pool, one.name, one.rate)
		} else if *one.at, err = limit.InMemory(one.name, one.rate); err != nil {
			return api.Limits{}, err
		}
	}
	return l, nil
}

// trustedProxy is a flag such as 10.0.0.0/8 or 10.1.2.3.
type trustedProxy struct{ netip.Prefix }

// UnmarshalText reads a network or an address.
func (p *trustedProxy) UnmarshalText(text []byte) error {
	addr, err := netip.ParseAddr(string(text))
	if err == nil {
		p.Prefix, err = addr.Unmap().Prefix(addr.Unmap().BitLen())
	} else {
		p.Prefix, err = netip.ParsePrefix(string(text))
	}
	if err == nil && p.Addr().Is4In6() { // as addresses are compared
		p.Prefix = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		if p.Bits() < 0 {
			return fmt.Errorf("%q is no network of IPv4: write it as 10.0.0.0/8", text)
		}
	}
	if err != nil {
		return fmt.Errorf("%q is neither a network, such as 10.0.0.0/8, nor an address", text)
	}
	if p.Bits() == 0 {
		return fmt.Errorf("%s is everybody, who could then claim to be anybody", text)
	}
	return nil
}

func (f *listenFlags) trusted() []netip.Prefix {
	networks := make([]netip.Prefix, len(f.TrustedProxies))
	for i, p := range f.TrustedProxies {
		networks[i] = p.Masked()
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
