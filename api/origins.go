package api

import (
	"net/http"
	"slices"

	"github.com/jub0bs/cors"
)

// origins lets a page of another origin use the service only if the origin is on the
// list. The service has no cookies, so browsers add no credentials to a page's requests.
// Even without this check, a page could not act as its visitor. The check protects a
// service that only the visitor's network can reach.
//
// If the host name of a page resolves to the service's address, the page has the
// service's origin. Options.Local refuses requests from such a page. TLS stops the page
// too, because the service has no certificate for that name.
type origins struct {
	cors  *cors.Middleware // nil if the list is empty
	cross *http.CrossOriginProtection
}

// newOrigins returns the origins of a list, or an error that says what is wrong with
// the list.
func newOrigins(allowed []string) (origins, error) {
	o := origins{cross: http.NewCrossOriginProtection()}
	if len(allowed) == 0 {
		return o, nil
	}
	var err error
	o.cors, err = cors.NewMiddleware(cors.Config{
		Origins: allowed,
		Methods: []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete},
		RequestHeaders: []string{
			"Authorization", "Cache-Control", "Cancel-After", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "Prefer",
		},
		ResponseHeaders: []string{
			"ETag", "Link", "Location", "Preference-Applied", "RateLimit", "RateLimit-Policy", "Retry-After", "WWW-Authenticate", "X-Request-Id",
		},
		MaxAgeInSeconds: 7200,
		// A listed origin without TLS puts the input of its own visitors at risk, but not
		// this service.
		ExtraConfig: cors.ExtraConfig{DangerouslyTolerateInsecureOrigins: !slices.Contains(allowed, "*")},
	})
	return o, err
}

// CheckOrigins returns an error that says what is wrong with a list of origins.
func CheckOrigins(allowed []string) error {
	_, err := newOrigins(allowed)
	return err
}

// cors adds the headers that let pages of listed origins read an answer. The refusal of
// requests is left to crossOrigin.
func (s *server) cors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		about := requestOf(r.Context())
		about.preflight, about.foreign = s.origins.check(w.Header(), r)
		if s.origins.cors != nil {
			h := w.Header()
			w = &starting{ResponseWriter: w, start: func() {
				if !slices.Contains(h["Vary"], "Origin") { // the handler of an operation has replaced the Vary header
					h.Add("Vary", "Origin")
				}
			}}
		}
		next.ServeHTTP(w, r)
	})
}

// crossOrigin answers preflights, and refuses requests that a page of another origin
// may not send.
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

// check adds the CORS headers of an answer. For a preflight that succeeds, it returns the
// status of the answer. For a request that the page's origin may not send, it returns a
// problem. Otherwise it returns 0 and nil.
func (o origins) check(h http.Header, r *http.Request) (preflight int, refused *Problem) {
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
	return newProblem(http.StatusForbidden, "cross_origin", "a page of another origin may not send this request unless the operator allows its origin")
}
