package api

import (
	"net/http"
	"path"
	"strings"
)

// route passes a request to the handler of its pattern. Each operation counts its own
// requests. Requests for pages and files, and requests that match no pattern, are counted
// by route.
func (s *server) route(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler, pattern := mux.Handler(r)
		if pattern == "" {
			s.turnAway(w, r, unrouted(handler, r))
			return
		}
		if !s.counted[pattern] && !s.countAnonymous(w, r) {
			return
		}
		requestOf(r.Context()).route = pattern
		mux.ServeHTTP(w, r)
	})
}

// canonicalPath refuses paths with empty, dot or dot-dot segments. The mux would redirect
// the client to the path without these segments. It could also pass such a segment to an
// operation as a parameter.
func (s *server) canonicalPath(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !canonical(r.URL.Path) {
			s.turnAway(w, r, noSuchRoute())
			return
		}
		next.ServeHTTP(w, r)
	})
}

// canonical reports whether path.Clean would change nothing in a path, except for
// removing a final slash.
func canonical(p string) bool {
	shortest := path.Clean(p)
	if strings.HasSuffix(p, "/") && shortest != "/" {
		shortest += "/"
	}
	return p == shortest
}

func noSuchRoute() *Problem {
	return newProblem(http.StatusNotFound, "no_such_route", "nothing is at this path: /docs lists the routes")
}

// unrouted returns the problem for a request that matches no pattern. The status of the
// mux's own answer decides between 405 and 404.
func unrouted(handler http.Handler, r *http.Request) *Problem {
	said := &result{header: http.Header{}}
	handler.ServeHTTP(said, r)
	if said.status == http.StatusMethodNotAllowed {
		allow := said.header.Get("Allow")
		return newProblem(http.StatusMethodNotAllowed, "method_not_allowed", "this path takes "+allow).with("Allow", allow)
	}
	return noSuchRoute()
}

// result records the status and the headers of an answer, and drops its body.
type result struct {
	header http.Header
	status int
}

func (a *result) Header() http.Header         { return a.header }
func (a *result) WriteHeader(status int)      { a.status = status }
func (a *result) Write(b []byte) (int, error) { return len(b), nil }
