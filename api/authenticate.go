package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"colophon/internal/auth"
)

// bearer names the security scheme of access tokens, and keyScheme that of API keys.
const bearer, keyScheme = "accessToken", "apiKey"

// challenge is the WWW-Authenticate header of an answer to a request without an access
// token or API key.
const challenge = `Bearer realm="colophon"`

// private is the security of operations that need an access token and refuse API keys. With
// a leaked key, nobody may get a second key or take over the account.
func private() []map[string][]string { return []map[string][]string{{bearer: {}}} }

// keyed is the security of operations that need an access token, or an API key with a scope.
func keyed(scope auth.Scope) []map[string][]string {
	return append(private(), map[string][]string{keyScheme: {string(scope)}})
}

// anyScope is the scope of operations that are open to every API key.
const anyScope auth.Scope = "any"

// scopeName names the metadata entry with the scope that an operation asks of API keys. An
// operation without this entry refuses API keys. The OpenAPI description shows it as x-scope.
const scopeName = "scope"

// scoped moves the scope of an operation from its security to its metadata, because OpenAPI
// 3.0 has scopes for OAuth2 only, and describes it.
func scoped(op *huma.Operation) {
	sentence := "API keys are refused."
	for _, scheme := range op.Security {
		if scopes := scheme[keyScheme]; len(scopes) > 0 {
			scheme[keyScheme] = []string{}
			op.Metadata = withMetadata(op.Metadata, scopeName, auth.Scope(scopes[0]))
			op.Extensions = withMetadata(op.Extensions, "x-scope", scopes[0])
			sentence = "An API key needs the scope " + scopes[0] + "."
			if scopes[0] == string(anyScope) {
				sentence = "An API key needs no certain scope."
			}
		}
	}
	op.Description = strings.TrimSpace(op.Description + " " + sentence)
}

// withMetadata sets an entry of m and returns m. It makes the map if m is nil.
func withMetadata(m map[string]any, name string, value any) map[string]any {
	if m == nil {
		m = map[string]any{}
	}
	m[name] = value
	return m
}

// missingScope returns the problem of a request whose API key does not have the scope of the
// operation, and otherwise nil.
func missingScope(op *huma.Operation, id auth.Identity) *Problem {
	scope, ok := op.Metadata[scopeName].(auth.Scope)
	switch {
	case id.Key == nil || id.Key.Allows(scope) || scope == anyScope:
		return nil
	case !ok:
		return newProblem(http.StatusForbidden, "key_not_allowed", "API keys cannot do this: sign in and send an access token from POST /token")
	}
	return newProblem(http.StatusForbidden, "insufficient_scope", "the API key does not have the scope "+string(scope)).
		with("WWW-Authenticate", fmt.Sprintf(`%s, error="insufficient_scope", scope=%q`, challenge, scope))
}

// unauthenticated reports whether an error means that the access token or the API key of a
// request is not valid, or no longer.
func unauthenticated(err error) bool {
	return errors.Is(err, auth.ErrAccessToken) || errors.Is(err, auth.ErrAPIKey)
}

// authenticate refuses requests for private operations without a valid access token or API
// key. If the operation accepts tickets, a valid ticket is enough. authenticate also refuses a
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
	scheme, credential, _ := strings.Cut(authorization, " ")
	credential = strings.TrimLeft(credential, " ")
	counted := false // whether the request has been counted as an anonymous one
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
		ctx, identity, err = s.redeem(ctx, ticket, opens)
	case !strings.EqualFold(scheme, "Bearer") || credential == "":
		s.turnAway(w, r, newProblem(http.StatusUnauthorized, "missing_access_token",
			"sign in first: send an access token from POST /token, or an API key, as Authorization: Bearer").with("WWW-Authenticate", challenge))
		return
	case auth.IsAPIKey(credential):
		// Anybody can invent a well-formed key. An unknown key costs a database query, so the
		// service counts the request first.
		identity, err = s.Auth.VerifyKey(ctx.Context(), credential, func() error {
			counted = true
			if refused := s.takeOfNetwork(ctx.Context(), w.Header(), s.Limits.Anonymous); refused != nil {
				return refused
			}
			return nil
		})
	default:
		identity, err = s.Auth.Verify(ctx.Context(), credential)
	}
	switch {
	case errors.Is(err, auth.ErrAccessToken) && ticketed:
		s.answer(w, r, newProblem(http.StatusUnauthorized, "invalid_ticket",
			"the ticket is invalid, used or expired: get a new one from POST "+strings.TrimSuffix(ctx.Operation().Path, "/events")+"/ticket").with("WWW-Authenticate", challenge))
		return
	case unauthenticated(err) && !counted:
		s.turnAway(w, r, s.problemOf(ctx.Context(), err))
		return
	case err != nil:
		s.answer(w, r, s.problemOf(ctx.Context(), err))
		return
	}
	about.account = identity.Account
	if identity.Key != nil {
		about.key = identity.Key.ID
	}
	next(huma.WithValue(ctx, identityKey, identity))
}
