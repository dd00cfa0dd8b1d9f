package api

import (
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"
)

// handler returns mux behind the middlewares that every request passes, in the order of
// the list below. If localHost or a later middleware refuses a request, the refusal
// counts against the anonymous limit (see turnAway). Beyond that limit, the answer is 429
// instead of the refusal.
func (s *server) handler(mux *http.ServeMux) http.Handler {
	return chain(s.route(mux),
		s.identifyRequest, // first: all other middlewares may use the request's id and network
		secureHeaders,     // before any middleware that answers, so that every answer has these headers
		s.cors,            // before any middleware that answers, so that pages of listed origins can read refusals too
		s.deadlines,       // before any code that reads the body or writes an answer
		s.accessLog,       // around recoverPanics, so that the answer to a panic is logged too
		s.recoverPanics,   // around the middlewares below and the handlers, because they may panic
		s.localHost,       // before crossOrigin, which accepts a page whose own host name resolves to this service
		s.crossOrigin,     // before routing, so that a page of another origin cannot find out which routes exist
		s.canonicalPath,   // directly before the mux, which would redirect such paths
	)
}

// operationMiddlewares returns the middlewares that a request passes after the mux has
// found its operation, in the order of the list below. Huma parses and validates the
// request after the last middleware.
func (s *server) operationMiddlewares() []func(huma.Context, func(huma.Context)) {
	return []func(huma.Context, func(huma.Context)){
		s.authenticate, // first: the limit and the role depend on the caller
		s.limit,        // before authorize, because authorize costs a database query
		s.authorize,    // before the content of the request is checked
		s.accept,       // before Huma chooses a parser by the media type
		s.exact,        // refuses parameters that Huma would ignore or accept
		s.readBody,     // last but one, because readBody waits for the client
		s.unsupported,  // reads what readBody has read
	}
}

// chain returns a handler behind middlewares. The first middleware sees a request first.
func chain(handler http.Handler, middlewares ...func(http.Handler) http.Handler) http.Handler {
	for _, wrap := range slices.Backward(middlewares) {
		handler = wrap(handler)
	}
	return handler
}
