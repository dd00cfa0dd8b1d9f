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
)

// Limits say how often one user may call a route, or one network where the user is not
// known yet. A nil limit does not limit.
type Limits struct {
	Users    *limit.Limit // POST /users
	Token    *limit.Limit // POST /token
	Generate *limit.Limit // POST /generate
	Jobs     *limit.Limit // POST /jobs
	Calls    *limit.Limit // all other calls together, of a user

	// Anonymous is the limit of a network for requests that are counted before their
	// user is known. These are requests without a valid access token, with a ticket or a
	// refresh token, for pages, and for unknown routes.
	Anonymous *limit.Limit
}

// named returns the limit that an operation names in its metadata. It panics for a
// name that does not exist.
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
	}
	panic("unknown limit " + name)
}

// limitName is the metadata key of an operation's limit. The value uncounted means no
// limit, for operations that cost nothing.
const limitName, uncounted = "limit", "none"

// limited returns the metadata of an operation with its own limit.
func limited(name string) map[string]any { return map[string]any{limitName: name} }

// turnAway answers a request that belongs to no user with a problem, or with 429 if its
// network has sent too many such requests.
func (s *server) turnAway(w http.ResponseWriter, r *http.Request, p *Problem) {
	if s.countAnonymous(w, r) {
		s.answer(w, r, p)
	}
}

// countAnonymous counts a request against its network's limit and reports whether it
// may go on. If not, it has answered the request.
func (s *server) countAnonymous(w http.ResponseWriter, r *http.Request) bool {
	refused := s.take(r.Context(), w.Header(), s.Limits.Anonymous, networkOf(r.Context()))
	if refused != nil {
		s.answer(w, r, refused)
	}
	return refused == nil
}

// limit counts a request against the limit of its operation, and refuses it beyond the
// limit.
func (s *server) limit(ctx huma.Context, next func(huma.Context)) {
	key, counted := networkOf(ctx.Context()), s.Limits.Anonymous
	id, known := ctx.Context().Value(identityKey).(auth.Identity)
	if known {
		key, counted = "user "+id.Account.String(), s.Limits.Calls
	}
	switch name, ok := ctx.Operation().Metadata[limitName].(string); {
	case name == uncounted || requestOf(ctx.Context()).counted:
		next(ctx)
		return
	case name == "token" && !known && refreshes(ctx):
		// A refresh guesses no password. Guesses from the same network must not block it.
	case ok:
		counted = s.Limits.named(name)
	}
	r, w := humago.Unwrap(ctx)
	if refused := s.take(ctx.Context(), w.Header(), counted, key); refused != nil {
		s.answer(w, r, refused)
		return
	}
	next(ctx)
}

// refreshes reports whether a request for an access token has a refresh token instead
// of a password. It reads the body and puts it back.
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

// unreadable is the rest of a body that could not be read.
type unreadable struct{ err error }

func (f unreadable) Read([]byte) (int, error) { return 0, f.err }

// take counts a request, adds headers that say how much of the limit is left, and
// returns a problem if the request is beyond the limit.
func (s *server) take(ctx context.Context, h http.Header, l *limit.Limit, key string) *Problem {
	if l == nil {
		return nil
	}
	count, err := l.Take(ctx, key)
	if err != nil {
		return s.problemOf(ctx, err)
	}
	per := l.Rate().Per
	reset := strconv.Itoa(int((count.Reset + time.Second - 1) / time.Second))
	h.Set("RateLimit-Policy", fmt.Sprintf("%q;q=%d;w=%d", l.Name(), count.Limit, int(per.Seconds())))
	h.Set("RateLimit", fmt.Sprintf("%q;r=%d;t=%s", l.Name(), count.Remaining, reset))
	if count.OK {
		return nil
	}
	return newProblem(http.StatusTooManyRequests, "rate_limit_exceeded",
		fmt.Sprintf("%d requests in %.0f seconds are allowed: try again in %s s", count.Limit, per.Seconds(), reset)).retryAfter(count.Reset)
}
