package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"colophon/internal/auth"
	"colophon/internal/limit"
	"colophon/internal/network"
)

// Limits bound the number of calls of each user. If the user of a request is not known
// yet, they bound the number of calls of each network. A nil limit allows all calls.
type Limits struct {
	Users    *limit.Limit // POST /users
	Token    *limit.Limit // POST /token
	Generate *limit.Limit // POST /generate
	Jobs     *limit.Limit // POST /jobs
	Detect   *limit.Limit // POST /detect
	Webhooks *limit.Limit // calls that create, change, rotate, test or send again to webhooks, combined
	Keys     *limit.Limit // POST /generate and POST /jobs with an API key, per key; the keys of a user are a group
	Calls    *limit.Limit // all of a user's other calls combined
	Log      *limit.Limit // the public log, per network

	// Anonymous is the limit per network for requests that are counted before their user
	// is known. Such a request has no valid access token, has a ticket or a refresh
	// token, or is for a page or an unknown route.
	Anonymous *limit.Limit
}

// named returns the limit whose name an operation has in its metadata. It panics if the
// name is unknown.
func (l *Limits) named(name string) *limit.Limit {
	switch name {
	case "users":
		return l.Users
	case "token":
		return l.Token
	case "generate":
		return l.Generate
	case "jobs":
		return l.Jobs
	case "detect":
		return l.Detect
	case "webhooks":
		return l.Webhooks
	case "log":
		return l.Log
	}
	panic("unknown limit " + name)
}

// limitName is the metadata key of an operation's limit. The value uncounted means no
// limit, for an operation that costs nothing.
const limitName, uncounted = "limit", "none"

// limited returns the metadata of an operation with its own limit.
func limited(name string) map[string]any { return map[string]any{limitName: name} }

// turnAway answers a request that belongs to no user with the problem. If the request's
// network has sent too many such requests, the answer is 429 instead.
func (s *server) turnAway(w http.ResponseWriter, r *http.Request, p *Problem) {
	if s.countAnonymous(w, r) {
		s.answer(w, r, p)
	}
}

// countAnonymous counts a request against the anonymous limit of its network, and reports
// whether the request may go on. If it reports false, it has already answered the
// request.
func (s *server) countAnonymous(w http.ResponseWriter, r *http.Request) bool {
	refused := s.takeOfNetwork(r.Context(), w.Header(), s.Limits.Anonymous)
	if refused != nil {
		s.answer(w, r, refused)
	}
	return refused == nil
}

// limit counts a request against the limit of its operation, and refuses a request that
// is beyond the limit.
func (s *server) limit(ctx huma.Context, next func(huma.Context)) {
	counted := s.Limits.Anonymous
	id, known := ctx.Context().Value(identityKey).(auth.Identity)
	if known {
		counted = s.Limits.Calls
	}
	switch name, ok := ctx.Operation().Metadata[limitName].(string); {
	case name == uncounted || requestOf(ctx.Context()).counted:
		next(ctx)
		return
	case name == "token" && !known && refreshes(ctx):
		// A refresh is not a guess of a password. Guesses from the same network must not
		// block refreshes.
	case ok:
		counted = s.Limits.named(name)
	}
	r, w := humago.Unwrap(ctx)
	var refused *Problem
	user := "user " + id.Account.String()
	switch scope := ctx.Operation().Metadata[scopeName]; {
	case !known:
		refused = s.takeOfNetwork(ctx.Context(), w.Header(), counted)
	case id.Key == nil:
		refused = s.take(ctx.Context(), w.Header(), counted, user, "", 0)
	case scope == auth.ScopeGenerate && ctx.Operation().Metadata[limitName] != nil:
		refused = s.take(ctx.Context(), w.Header(), s.Limits.Keys, "key "+id.Key.ID.String(), user, id.Key.Generations)
	default:
		// Calls with API keys do not count against the calls of the user. Otherwise a leaked key
		// could use up the calls with which its owner revokes it.
		refused = s.take(ctx.Context(), w.Header(), s.Limits.Calls, "keys of "+id.Account.String(), "", 0)
	}
	if refused != nil {
		s.answer(w, r, refused)
		return
	}
	next(ctx)
}

// refreshes reports whether a request for an access token has the grant type
// refresh_token. It reads the body and puts the same content back into the request.
func refreshes(ctx huma.Context) bool {
	r, _ := humago.Unwrap(ctx)
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != formType {
		return false
	}
	begin, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	rest := io.Reader(r.Body)
	if err != nil {
		rest = unreadable{err}
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(begin), rest), r.Body}
	form, malformed := url.ParseQuery(string(begin))
	return err == nil && malformed == nil && slices.Equal(form["grant_type"], []string{"refresh_token"})
}

// unreadable is the rest of a body after a read error. Every Read returns that error.
type unreadable struct{ err error }

func (f unreadable) Read([]byte) (int, error) { return 0, f.err }

// takeOfNetwork counts a request against a limit under its network and the network's site.
func (s *server) takeOfNetwork(ctx context.Context, h http.Header, l *limit.Limit) *Problem {
	from := networkOf(ctx)
	return s.take(ctx, h, l, from, network.Site(from), 0)
}

// take counts a request against a limit under the key and its group, and sets the
// RateLimit headers. If perMinute is not 0, the key has no more than that number of requests a
// minute, on average over a window of the limit. It returns a problem if the request is beyond
// the limit or cannot be counted.
func (s *server) take(ctx context.Context, h http.Header, l *limit.Limit, key, group string, perMinute int) *Problem {
	if l == nil {
		return nil
	}
	count, err := l.Take(ctx, key, group)
	if err != nil {
		return s.problemOf(ctx, err)
	}
	per := l.Rate().Per
	if perMinute > 0 {
		count = count.AtMost(max(1, uint64(float64(perMinute)*per.Minutes())))
	}
	reset := strconv.Itoa(int((count.Reset + time.Second - 1) / time.Second))
	h.Set("RateLimit-Policy", fmt.Sprintf("%q;q=%d;w=%d", l.Name(), count.Limit, int(per.Seconds())))
	h.Set("RateLimit", fmt.Sprintf("%q;r=%d;t=%s", l.Name(), count.Remaining, reset))
	if count.OK {
		return nil
	}
	return newProblem(http.StatusTooManyRequests, "rate_limit_exceeded",
		fmt.Sprintf("%d requests in %.0f seconds are allowed: try again in %s s", count.Limit, per.Seconds(), reset)).retryAfter(count.Reset)
}
