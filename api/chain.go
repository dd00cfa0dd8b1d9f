package api

import (
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"
)

// handler returns a mux behind the middlewares that every request passes, in this
// order. Refusals by localHost and the middlewares after it count under the anonymous
// limit (see turnAway). Beyond that limit, each of them is answered with 429 instead.
func (s *server) handler(mux *http.ServeMux) http.Handler {
	return chain(s.route(mux),
		s.identifyRequest, // first: everything below may use the request's id and network
		secureHeaders,     // before anything can answer, so that every answer has them
		s.cors,            // before anything can answer: a page of a listed origin can read refusals too
		s.deadlines,       // before anything reads the body or writes an answer
		s.accessLog,       // around recovery, so that it sees the answer to a panic too
		s.recoverPanics,   // around everything below, which may panic
		s.localHost,       // before crossOrigin: to a page under a forged name, the service is its own origin
		s.crossOrigin,     // before routing, so that a foreign page learns of no route
		s.canonicalPath,   // right before the mux, which would redirect
	)
}

// operationMiddlewares returns what a request passes once the mux has found its
// operation, in this order. Huma parses and validates the request after them.
func (s *server) operationMiddlewares() []func(huma.Context, func(huma.Context)) {
	return []func(huma.Context, func(huma.Context)){
		s.authenticate, // first: limits count callers, and roles belong to them
		s.limit,        // before authorize, which costs a query
		s.authorize,    // before the request itself is checked
		s.accept,       // before Huma chooses a parser by the media type
		s.exact,        // it refuses what Huma would let pass
		s.readBody,     // last, because it waits for the client
	}
}

// chain returns a handler behind middlewares. The first one sees a request first.
func chain(handler http.Handler, middlewares ...func(http.Handler) http.Handler) http.Handler {
	for _, wrap := range slices.Backward(middlewares) {
		handler = wrap(handler)
	}
	return handler
}
