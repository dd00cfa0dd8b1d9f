package api

import (
	"net/http"
	"slices"

	"github.com/jub0bs/cors"
)

// origins decides which pages of other origins may use the service through
// their visitors' browsers. None may unless it is on the list. Browsers add no
// credentials of their own to a request, since there are no cookies; so this
// keeps pages from using the service at all, from within networks that only
// their visitors reach, and not from acting as somebody else. A page whose own
// name means the service's address is of the service's origin to a browser: for
// that see Options.Local, and TLS, under which the name would need a certificate.
type origins struct {
	cors  *cors.Middleware // nil if no origin is on the list
	cross *http.CrossOriginProtection
}

// newOrigins returns an error that says what is wrong with the list.
func newOrigins(allowed []string) (origins, error) {
	o := origins{cross: http.NewCrossOriginProtection()}
	if len(allowed) == 0 {
		return o, nil
	}
	var err error
	o.cors, err = cors.NewMiddleware(cors.Config{
		Origins: allowed,
		Methods: []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete},
		RequestHeaders: []string{
			"Authorization", "Cache-Control", "Cancel-After", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "Prefer",
		},
		ResponseHeaders: []string{
			"ETag", "Link", "Location", "Preference-Applied", "RateLimit", "RateLimit-Policy", "Retry-After", "WWW-Authenticate", "X-Request-Id",
		},
		MaxAgeInSeconds: 7200,
		// A page without TLS risks what its visitors type there, and nothing here.
		ExtraConfig: cors.ExtraConfig{DangerouslyTolerateInsecureOrigins: !slices.Contains(allowed, "*")},
	})
	return o, err
}

// CheckOrigins returns an error that says what is wrong with a list of origins.
func CheckOrigins(allowed []string) error {
	_, err := newOrigins(allowed)
	return err
}

// cors adds to every answer what browsers have to know about other origins.
// Whether the request may be made is left to crossOrigin.
func (s *server) cors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		about := requestOf(r.Context())
		about.preflight, about.foreign = s.origins.meet(w.Header(), r)
		if s.origins.cors != nil {
			h := w.Header()
			w = &starting{ResponseWriter: w, start: func() {
				if !slices.Contains(h["Vary"], "Origin") { // an operation has set its own
					h.Add("Vary", "Origin")
				}
			}}
		}
		next.ServeHTTP(w, r)
	})
}

// crossOrigin answers preflights, and refuses what a page of another origin may
// not send.
func (s *server) crossOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch about := requestOf(r.Context()); {
		case about.foreign != nil:
			s.turnAway(w, r, about.foreign)
		case about.preflight == 0:
			next.ServeHTTP(w, r)
		case s.countAnonymous(w, r):
			about.route = "preflight"
			w.WriteHeader(about.preflight)
		}
	})
}

// meet adds to the headers of an answer what a browser has to know. If the request
// is a preflight that succeeds it returns the status to answer with, and a problem
// if the request may not be made from where it comes.
func (o origins) meet(h http.Header, r *http.Request) (preflight int, refused *Problem) {
	if o.cors != nil {
		said, actual := &result{header: h}, false
		o.cors.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { actual = true })).ServeHTTP(said, r)
		switch {
		case !actual && said.status < 300:
			return said.status, nil
		case !actual:
			return 0, foreignOrigin()
		case h.Get("Access-Control-Allow-Origin") != "" && r.Header.Get("Origin") != "":
			return 0, nil
		}
	}
	if o.cross.Check(r) != nil {
		return 0, foreignOrigin()
	}
	return 0, nil
}

func foreignOrigin() *Problem {
	return newProblem(http.StatusForbidden, "cross_origin", "a page of another origin may not send this: the operator has to allow its origin")
}
