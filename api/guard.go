package api

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/google/uuid"

	"colophon/internal/auth"
	"colophon/internal/network"
)

type contextKey int

const (
	requestKey contextKey = iota
	identityKey
	networkKey
	countedKey // the request has been counted
)

// request is what the log says of one.
type request struct {
	id      string
	account uuid.UUID // whose it is, once that is known
}

func requestID(ctx context.Context) string {
	if r, ok := ctx.Value(requestKey).(*request); ok {
		return r.id
	}
	return ""
}

// instance is the request's id as the URI that a problem wants.
func instance(ctx context.Context) string { return "urn:uuid:" + requestID(ctx) }

// caller returns who the request comes from; the operation must be private.
func caller(ctx context.Context) auth.Identity {
	id, _ := ctx.Value(identityKey).(auth.Identity)
	return id
}

// strictest is the policy of responses that are no pages.
const strictest = "default-src 'none'; frame-ancestors 'none'"

// secure is what every response says to browsers, whatever it is an answer to.
func secure(h http.Header, overTLS bool) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Content-Security-Policy", strictest)
	h.Set("Cache-Control", "no-store")
	if overTLS { // over plain HTTP anybody on the way could say it for us
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// guard gives each request an id and each response its headers, answers for
// unknown routes, other origins and panics, bounds how long a client may take,
// and writes the access log.
func (s *server) guard(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := uuid.NewString()
		about := &request{id: id}
		ctx := context.WithValue(r.Context(), requestKey, about)
		r = r.WithContext(context.WithValue(ctx, networkKey, network.Of(client(r, s.TrustedProxies))))
		w.Header().Set("X-Request-Id", id)
		secure(w.Header(), r.TLS != nil)
		control := http.NewResponseController(w)
		if r.Body != nil && r.Body != http.NoBody {
			// A connection that has no deadlines, in a test, is no reason not to answer.
			_ = control.SetReadDeadline(time.Now().Add(bodyTimeout))
			r.Body = &timedBody{r.Body, control}
		}
		rec := &recorder{ResponseWriter: w, control: control, varies: s.origins.cors != nil}
		start := time.Now()
		pattern := "unknown"
		defer func() {
			p := recover()
			err, _ := p.(error)
			abort := errors.Is(err, http.ErrAbortHandler)
			if p != nil && !abort {
				s.Log.ErrorContext(r.Context(), "a handler panicked", "request", id, "panic", p, "stack", string(debug.Stack()))
				if abort = rec.status >= http.StatusOK; !abort {
					s.answer(rec, r, newProblem(http.StatusInternalServerError, "internal",
						"something went wrong on our side; the instance identifies this request in our log"))
				}
			}
			took := time.Since(start)
			if s.Observe != nil {
				s.Observe(pattern, rec.status, took)
			}
			attrs := []slog.Attr{slog.String("request", id), slog.String("route", pattern),
				slog.Int("status", rec.status), slog.Int64("bytes", rec.bytes), slog.Duration("took", took)}
			if about.account != uuid.Nil {
				attrs = append(attrs, slog.String("account", about.account.String()))
			}
			switch rec.status {
			case http.StatusUnauthorized, http.StatusForbidden, http.StatusMisdirectedRequest, http.StatusTooManyRequests:
				attrs = append(attrs, slog.String("network", networkOf(r.Context()))) // for who looks into attacks, or stops them
			}
			s.Log.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs...)
			if abort {
				panic(http.ErrAbortHandler) // what has begun must not look complete
			}
		}()
		handler, found := mux.Handler(r)
		if !clean(r.URL.Path) {
			// The mux would send the client to what it takes for the same, or let an
			// operation have it.
			handler, found = http.NotFoundHandler(), ""
		}
		preflight, foreign := s.origins.meet(rec.Header(), r)
		if s.Local && !network.IsLiteral(r.Host) {
			preflight, foreign = 0, newProblem(http.StatusMisdirectedRequest, "misdirected",
				"ask for this service by its address or as localhost; a proxy that passes other names on has to be among the trusted ones")
		}
		if !s.counted[found] || foreign != nil {
			if refused := s.take(r.Context(), rec.Header().Set, s.Limits.Anonymous, networkOf(r.Context())); refused != nil {
				s.answer(rec, r, refused)
				return
			}
		}
		switch {
		case preflight != 0:
			pattern = "preflight"
			rec.WriteHeader(preflight)
		case foreign != nil:
			s.answer(rec, r, foreign)
		case found == "":
			s.answer(rec, r, unrouted(handler, r))
		default:
			pattern = found
			mux.ServeHTTP(rec, r)
		}
	})
}

// clean reports whether a path is the shortest one to where it leads.
func clean(p string) bool {
	shortest := path.Clean(p)
	if strings.HasSuffix(p, "/") && shortest != "/" {
		shortest += "/"
	}
	return p == shortest
}

// unrouted turns what the mux says of a request without a route into a problem.
func unrouted(handler http.Handler, r *http.Request) *Problem {
	said := &verdict{header: http.Header{}}
	handler.ServeHTTP(said, r)
	if said.status == http.StatusMethodNotAllowed {
		allow := said.header.Get("Allow")
		return newProblem(http.StatusMethodNotAllowed, "method_not_allowed", "this path takes "+allow).with("Allow", allow)
	}
	return newProblem(http.StatusNotFound, "no_such_route", "there is nothing at this path: /docs lists what there is")
}

// verdict is a response of which only the head matters.
type verdict struct {
	header http.Header
	status int
}

func (v *verdict) Header() http.Header         { return v.header }
func (v *verdict) WriteHeader(status int)      { v.status = status }
func (v *verdict) Write(b []byte) (int, error) { return len(b), nil }

// answer writes a problem outside of Huma.
func (s *server) answer(w http.ResponseWriter, r *http.Request, p *Problem) {
	p.Instance = instance(r.Context())
	maps.Copy(w.Header(), p.headers)
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	if err := huma.DefaultJSONFormat.Marshal(w, p); err != nil {
		s.Log.DebugContext(r.Context(), "could not write a problem", "request", requestID(r.Context()), "err", err)
	}
}

// refuse answers an operation with a problem before its handler is reached.
func (s *server) refuse(ctx huma.Context, p *Problem) {
	for name, values := range p.headers {
		for _, value := range values {
			ctx.SetHeader(name, value)
		}
	}
	p.Instance = instance(ctx.Context())
	ctx.SetHeader("Content-Type", p.ContentType(""))
	ctx.SetStatus(p.Status)
	if err := huma.DefaultJSONFormat.Marshal(ctx.BodyWriter(), p); err != nil {
		s.Log.DebugContext(ctx.Context(), "could not write a problem", "request", requestID(ctx.Context()), "err", err)
	}
}

// accept refuses bodies of a media type that the operation does not document.
func (s *server) accept(ctx huma.Context, next func(huma.Context)) {
	body := ctx.Operation().RequestBody
	given := ctx.Header("Content-Type")
	if body == nil {
		next(ctx)
		return
	}
	if given == "" {
		if r, _ := humago.Unwrap(ctx); body.Content[formType] != nil {
			r.Header.Set("Content-Type", formType) // Huma would read JSON
		}
		next(ctx)
		return
	}
	media, _, err := mime.ParseMediaType(given)
	if _, ok := body.Content[media]; err != nil || !ok {
		wanted := make([]string, 0, 1)
		for name := range body.Content {
			wanted = append(wanted, name)
		}
		s.refuse(ctx, newProblem(http.StatusUnsupportedMediaType, "unsupported_media_type", "send the body as "+strings.Join(wanted, " or ")))
		return
	}
	next(ctx)
}

// turnAway refuses a request without a valid access token: with 401, or with 429
// if its network has had too many answers like that.
func (s *server) turnAway(ctx huma.Context, why *Problem) {
	if p := s.take(ctx.Context(), ctx.SetHeader, s.Limits.Anonymous, networkOf(ctx.Context())); p != nil {
		why = p
	}
	s.refuse(ctx, why)
}

// authenticate lets only requests with a valid access token, or a ticket where
// that will do, reach the operations that are not open to all.
func (s *server) authenticate(ctx huma.Context, next func(huma.Context)) {
	if len(ctx.Operation().Security) == 0 {
		next(ctx)
		return
	}
	var identity auth.Identity
	var err error
	authorization := ctx.Header("Authorization")
	scheme, accessToken, _ := strings.Cut(authorization, " ")
	ticket, opens, ticketed := ticketOf(ctx)
	ticketed = ticketed && authorization == "" // one or the other
	switch {
	case ticketed:
		// Whether it is good or not, it costs a statement: one that the network has to
		// have left.
		if refused := s.take(ctx.Context(), ctx.SetHeader, s.Limits.Anonymous, networkOf(ctx.Context())); refused != nil {
			s.refuse(ctx, refused)
			return
		}
		ctx = huma.WithValue(ctx, countedKey, true)
		identity, err = s.Auth.Redeem(ctx.Context(), ticket, opens)
	case !strings.EqualFold(scheme, "Bearer") || accessToken == "":
		s.turnAway(ctx, unauthorized(false))
		return
	default:
		identity, err = s.Auth.Verify(ctx.Context(), strings.TrimLeft(accessToken, " "))
	}
	switch {
	case errors.Is(err, auth.ErrAccessToken) && ticketed:
		s.refuse(ctx, newProblem(http.StatusUnauthorized, "invalid_ticket", "the ticket is not valid, or no longer: get a new one from POST /jobs/{id}/ticket").
			with("WWW-Authenticate", `Bearer realm="colophon"`))
		return
	case errors.Is(err, auth.ErrAccessToken):
		s.turnAway(ctx, unauthorized(true))
		return
	case err != nil:
		s.refuse(ctx, problemOf(ctx.Context(), s.Log, err))
		return
	}
	if about, ok := ctx.Context().Value(requestKey).(*request); ok {
		about.account = identity.Account
	}
	next(huma.WithValue(ctx, identityKey, identity))
}
