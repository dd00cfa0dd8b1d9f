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
	Generate *limit.Limit // POST /generate, and the texts of OpenAI's operations
	Jobs     *limit.Limit // POST /jobs
	Detect   *limit.Limit // POST /detect
	Webhooks *limit.Limit // calls that create, change, rotate, test or send again to webhooks, combined
	Keys     *limit.Limit // texts with an API key, per key; the keys of a user are a group
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

// perText is the metadata key of operations that may make several texts. The limit of such an
// operation counts texts, by countTexts. The operation itself is one of the user's calls.
const perText = "perText"

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
	texts := ctx.Operation().Metadata[perText] != nil
	if texts {
		requestOf(ctx.Context()).answer = w.Header()
		counted = s.Limits.Calls
	}
	var refused *Problem
	switch scope := ctx.Operation().Metadata[scopeName]; {
	case !known:
		refused = s.takeOfNetwork(ctx.Context(), w.Header(), counted)
	case id.Key == nil:
		refused = s.take(ctx.Context(), w.Header(), counted, limit.Use{Key: "user " + id.Account.String()})
	case scope == auth.ScopeGenerate && ctx.Operation().Metadata[limitName] != nil && !texts:
		refused = s.takeOfKey(ctx.Context(), w.Header(), id, 1)
	default:
		// Calls with API keys do not count against the calls of the user. Otherwise a leaked key
		// could use up the calls with which its owner revokes it.
		refused = s.take(ctx.Context(), w.Header(), s.Limits.Calls, limit.Use{Key: "keys of " + id.Account.String()})
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

// countTexts counts the texts of an operation with the metadata perText against the limits of
// generations. It counts all of them or none, and sets the RateLimit headers of the answer. It
// returns a problem if they are beyond a limit.
func (s *server) countTexts(ctx context.Context, texts int) error {
	var refused *Problem
	id, answer := caller(ctx), requestOf(ctx).answer
	if id.Key != nil {
		refused = s.takeOfKey(ctx, answer, id, texts)
	} else {
		refused = s.take(ctx, answer, s.Limits.Generate, limit.Use{Key: "user " + id.Account.String(), N: uint64(texts)})
	}
	if refused != nil {
		return refused
	}
	return nil
}

// takeOfKey counts texts against the limits of the caller's API key and of all keys of its user.
// A limit of the key's own holds on average over a window.
func (s *server) takeOfKey(ctx context.Context, h http.Header, id auth.Identity, texts int) *Problem {
	if s.Limits.Keys == nil {
		return nil
	}
	use := limit.Use{Key: "key " + id.Key.ID.String(), Group: "user " + id.Account.String(), N: uint64(texts)}
	if perMinute := id.Key.Generations; perMinute > 0 {
		use.Most = max(1, uint64(float64(perMinute)*s.Limits.Keys.Rate().Per.Minutes()))
	}
	return s.take(ctx, h, s.Limits.Keys, use)
}

// takeOfNetwork counts a request against a limit under its network and the network's site.
func (s *server) takeOfNetwork(ctx context.Context, h http.Header, l *limit.Limit) *Problem {
	from := networkOf(ctx)
	return s.take(ctx, h, l, limit.Use{Key: from, Group: network.Site(from)})
}

// take counts a use of a limit and sets the RateLimit headers. It returns a problem if the use
// is beyond the limit or cannot be counted.
func (s *server) take(ctx context.Context, h http.Header, l *limit.Limit, use limit.Use) *Problem {
	if l == nil {
		return nil
	}
	count, err := l.Take(ctx, use)
	if err != nil {
		return s.problemOf(ctx, err)
	}
	per := l.Rate().Per
	reset := strconv.Itoa(int((count.Reset + time.Second - 1) / time.Second))
	h.Set("RateLimit-Policy", fmt.Sprintf("%q;q=%d;w=%d", l.Name(), count.Limit, int(per.Seconds())))
	h.Set("RateLimit", fmt.Sprintf("%q;r=%d;t=%s", l.Name(), count.Remaining, reset))
	switch {
	case count.OK:
		return nil
	case use.N > count.Limit: // another try would be useless
		return newProblem(http.StatusUnprocessableEntity, "over_rate_limit",
			fmt.Sprintf("%d texts in %.0f seconds are allowed, and the request is for %d: send several requests", count.Limit, per.Seconds(), use.N))
	}
	return newProblem(http.StatusTooManyRequests, "rate_limit_exceeded",
		fmt.Sprintf("%d requests in %.0f seconds are allowed: try again in %s s", count.Limit, per.Seconds(), reset)).retryAfter(count.Reset)
}
