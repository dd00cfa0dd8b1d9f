package api

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"colophon/internal/auth"
)

// bearer names the security scheme of access tokens.
const bearer = "accessToken"

// challenge is the WWW-Authenticate header of an answer to a request without an access
// token.
const challenge = `Bearer realm="colophon"`

// private is the security of operations that need an access token.
func private() []map[string][]string { return []map[string][]string{{bearer: {}}} }

// authenticate refuses requests for private operations without a valid access token. If
// the operation accepts tickets, a valid ticket is enough. authenticate also refuses a
// request with several different Authorization headers, because a proxy may have checked
// another header than the service would.
func (s *server) authenticate(ctx huma.Context, next func(huma.Context)) {
	if len(ctx.Operation().Security) == 0 {
		next(ctx)
		return
	}
	r, w := humago.Unwrap(ctx)
	if lines := r.Header["Authorization"]; slices.ContainsFunc(lines, func(line string) bool { return line != lines[0] }) {
		s.turnAway(w, r, newProblem(http.StatusBadRequest, "invalid_request", "send one Authorization header: this request has several, which differ").at("header.Authorization"))
		return
	}
	about := requestOf(ctx.Context())
	var identity auth.Identity
	var err error
	authorization := ctx.Header("Authorization")
	scheme, accessToken, _ := strings.Cut(authorization, " ")
	ticket, opens, ticketed := ticketOf(ctx)
	ticketed = ticketed && authorization == "" // a request with an Authorization header must not use a ticket
	switch {
	case ticketed:
		// A ticket costs a database statement even if the ticket is invalid. The request
		// is therefore counted before that statement.
		if !s.countAnonymous(w, r) {
			return
		}
		about.counted = true
		identity, err = s.Auth.Redeem(ctx.Context(), ticket, opens)
	case !strings.EqualFold(scheme, "Bearer") || accessToken == "":
		s.turnAway(w, r, newProblem(http.StatusUnauthorized, "missing_access_token",
			"sign in first: send an access token from POST /token as Authorization: Bearer").with("WWW-Authenticate", challenge))
		return
	default:
		identity, err = s.Auth.Verify(ctx.Context(), strings.TrimLeft(accessToken, " "))
	}
	switch {
	case errors.Is(err, auth.ErrAccessToken) && ticketed:
		s.answer(w, r, newProblem(http.StatusUnauthorized, "invalid_ticket",
			"the ticket is invalid, used or expired: get a new one from POST /jobs/{id}/ticket").with("WWW-Authenticate", challenge))
		return
	case errors.Is(err, auth.ErrAccessToken):
		s.turnAway(w, r, s.problemOf(ctx.Context(), err))
		return
	case err != nil:
		s.answer(w, r, s.problemOf(ctx.Context(), err))
		return
	}
	about.account = identity.Account
	next(huma.WithValue(ctx, identityKey, identity))
}
