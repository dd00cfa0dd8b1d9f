package api

import (
	"context"
	"net/http"

	"github.com/google/uuid"

	"colophon/internal/auth"
	"colophon/internal/network"
)

type contextKey int

const (
	requestKey contextKey = iota
	identityKey
)

// request holds the facts that the middlewares find out about a request. The access log
// shows most of these facts.
type request struct {
	id      string
	network string      // the client's network, as limits count it
	route   string      // the pattern that matches, "preflight" or "unknown"
	account uuid.UUID   // the caller's account, once authenticated
	key     uuid.UUID   // the caller's API key, if it was authenticated by one
	proof   string      // what reopens the stream of a ticket, apart from the ticket; "" without a ticket
	counted bool        // whether the request has been counted, so that its operation does not count it again
	answer  http.Header // the headers of the answer, of an operation that counts its texts

	preflight int      // the status of a preflight that succeeds, otherwise 0
	foreign   *Problem // why the request's origin may not send the request, or nil if it may
}

// identifyRequest gives each request an id and finds out the client's network. The
// answer, its problem and the request's log lines all contain the id.
func (s *server) identifyRequest(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		about := &request{id: uuid.NewString(), network: network.Of(client(r, s.TrustedProxies)), route: "unknown"}
		w.Header().Set("X-Request-Id", about.id)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), requestKey, about)))
	})
}

// requestOf returns the facts about the request whose context is given.
func requestOf(ctx context.Context) *request {
	if about, ok := ctx.Value(requestKey).(*request); ok {
		return about
	}
	return &request{}
}

func requestID(ctx context.Context) string { return requestOf(ctx).id }

// networkOf returns the network that the request comes from, as limits count it. The
// network is an IPv4 address, or the /64 of an IPv6 address.
func networkOf(ctx context.Context) string { return requestOf(ctx).network }

// instance returns the request's id as a URI, which is the form of an instance in a
// problem.
func instance(ctx context.Context) string { return "urn:uuid:" + requestID(ctx) }

// caller returns the account of the request, and its session or API key. The operation must be
// private.
func caller(ctx context.Context) auth.Identity {
	id, _ := ctx.Value(identityKey).(auth.Identity)
	return id
}
