package api

import (
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// OAuthProblem is a problem of an OAuth2 endpoint. The members error and
// error_description are those of RFC 6749, 5.2. The codes temporarily_unavailable and
// server_error come from section 4.1.2.1. For a wrong user name or password the status is
// 401, although section 5.2 says 400.
type OAuthProblem struct {
	Title       string  `json:"title" doc:"The kind of problem: the meaning of the status."`
	Status      int     `json:"status" doc:"The HTTP status."`
	Detail      string  `json:"detail" doc:"What is wrong, and what to do about it."`
	Instance    string  `json:"instance" format:"uri" doc:"The id of the request, as in the X-Request-Id header. The service's log has it too."`
	Errors      []Fault `json:"errors,omitempty" doc:"The parts of the request that are wrong."`
	Code        string  `json:"code" doc:"The kind of problem, for programs, as other operations have it in error.code."`
	Error       string  `json:"error" enum:"invalid_request,invalid_grant,unsupported_grant_type,temporarily_unavailable,server_error" doc:"The error code of OAuth2. invalid_grant means a wrong user name, password or refresh token."`
	Description string  `json:"error_description" doc:"The detail in the characters that OAuth2 allows."`
}

// isOAuth reports whether a path belongs to an OAuth2 endpoint.
func isOAuth(path string) bool { return path == "/token" || path == "/revoke" }

// answers400 reports whether the operation at a path answers a request with wrong values with 400
// instead of 422. RFC 6749 requires that for OAuth2 endpoints. Clients of OpenAI's API expect it:
// some of them send a request again after 422.
func answers400(path string) bool { return isOAuth(path) || isOpenAI(path) }

// on adapts a problem to the operation at a path, and returns it. The operations of OpenAI's API
// have members of their own; see openAI.
func (p *Problem) on(path string) *Problem {
	if answers400(path) && p.Status == http.StatusUnprocessableEntity {
		p.Status, p.Title = http.StatusBadRequest, http.StatusText(http.StatusBadRequest)
	}
	if isOpenAI(path) {
		return p.openAI(path)
	}
	return p
}

// oauth returns the problem in the form of an OAuth2 endpoint.
func (p *Problem) oauth() *OAuthProblem {
	o := &OAuthProblem{Title: p.Title, Status: p.Status, Detail: p.Detail, Instance: p.Instance, Errors: p.Errors, Error: "invalid_request"}
	if p.Compat.Code != nil {
		o.Code = *p.Compat.Code
	}
	switch {
	case p.Status == http.StatusUnauthorized:
		o.Error = "invalid_grant"
	case slices.ContainsFunc(p.Errors, func(f Fault) bool { return f.Location == "body.grant_type" }):
		o.Error = "unsupported_grant_type"
	case p.Status == http.StatusTooManyRequests || p.Status == http.StatusServiceUnavailable:
		o.Error = "temporarily_unavailable"
	case p.Status >= http.StatusInternalServerError:
		o.Error = "server_error"
	}
	o.Description = strings.Map(func(r rune) rune {
		if r == '"' || r == '\\' || r < ' ' || r > '~' {
			return '\''
		}
		return r
	}, p.Detail)
	return o
}

// document400 removes the status 422 from the operations that never answer with it.
func document400(_ *huma.OpenAPI, op *huma.Operation) {
	if answers400(op.Path) {
		delete(op.Responses, "422") // Huma documents 422 for every body; see Problem.on
	}
}

// documentOAuth describes the errors of the OAuth2 endpoints.
func documentOAuth(oapi *huma.OpenAPI, op *huma.Operation) {
	if !isOAuth(op.Path) {
		return
	}
	schema := oapi.Components.Schemas.Schema(reflect.TypeFor[OAuthProblem](), true, "OAuthProblem")
	for _, response := range op.Responses {
		if problem := response.Content[(&Problem{}).ContentType("")]; problem != nil {
			problem.Schema = schema
		}
	}
}
