package api

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	limiter "github.com/sethvargo/go-limiter"
	"github.com/sethvargo/go-limiter/memorystore"

	"colophon/internal/auth"
)

// Limits says how often a route may be called by one user, or by one address
// where there is no user yet. The zero value of a rate is no limit.
type Limits struct {
	Users    Rate // POST /users
	Token    Rate // POST /token
	Generate Rate // POST /generate
	Jobs     Rate // POST /jobs
}

// Rate is a number of requests in fixed windows of time.
type Rate struct {
	Requests uint64
	Per      time.Duration
}

// limitName is the metadata under which an operation names its limit.
const limitName = "limit"

// limited returns the metadata of an operation with a limit.
func limited(name string) map[string]any { return map[string]any{limitName: name} }

type limits map[string]struct {
	rate  Rate
	store limiter.Store
}

func newLimiters(l Limits) (limits, error) {
	all := limits{}
	for name, rate := range map[string]Rate{"users": l.Users, "token": l.Token, "generate": l.Generate, "jobs": l.Jobs} {
		if rate.Requests == 0 {
			continue
		}
		store, err := memorystore.New(&memorystore.Config{
			Tokens:        rate.Requests,
			Interval:      rate.Per,
			SweepInterval: 10 * rate.Per,
			SweepMinTTL:   10 * rate.Per,
		})
		if err != nil {
			return nil, fmt.Errorf("limit %s: %w", name, err)
		}
		entry := all[name]
		entry.rate, entry.store = rate, store
		all[name] = entry
	}
	return all, nil
}

// limit counts the requests of operations that have a limit and refuses those
// above it.
func (s *server) limit(all limits) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		name, _ := ctx.Operation().Metadata[limitName].(string)
		l, ok := all[name]
		if !ok {
			next(ctx)
			return
		}
		tokens, remaining, reset, ok, err := l.store.Take(ctx.Context(), limitKey(ctx))
		if err != nil {
			s.refuse(ctx, problemOf(ctx.Context(), s.Log, fmt.Errorf("count a request: %w", err)))
			return
		}
		wait := max(0, time.Until(time.Unix(0, int64(reset)))) // reset is Unix time in nanoseconds
		seconds := strconv.Itoa(int((wait + time.Second - 1) / time.Second))
		ctx.SetHeader("RateLimit-Policy", fmt.Sprintf("%q;q=%d;w=%d", name, tokens, int(l.rate.Per.Seconds())))
		ctx.SetHeader("RateLimit", fmt.Sprintf("%q;r=%d;t=%s", name, remaining, seconds))
		if !ok {
			s.refuse(ctx, newProblem(http.StatusTooManyRequests, "rate_limit_exceeded",
				fmt.Sprintf("%d requests in %.0f seconds are allowed here: try again in %s s", tokens, l.rate.Per.Seconds(), seconds)).retryAfter(wait))
			return
		}
		next(ctx)
	}
}

// limitKey is who is counted: the user, or the network that the request comes from.
func limitKey(ctx huma.Context) string {
	if id, ok := ctx.Context().Value(identityKey).(auth.Identity); ok {
		return "user " + id.Account.String()
	}
	return "address " + network(ctx.RemoteAddr())
}

// network returns the address without its port; of IPv6, the /64 that one
// subscriber has to himself.
func network(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if prefix, err := addr.Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return addr.String()
}
