package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

type revokeInput struct {
	Body struct {
		Token         string `json:"token" minLength:"1" maxLength:"8192" doc:"A refresh token, even a used one, an access token, or an API key."`
		TokenTypeHint string `json:"token_type_hint,omitempty" maxLength:"50" doc:"Ignored: the kinds of tokens look different."`
		ClientID      string `json:"client_id,omitempty" maxLength:"200" doc:"Ignored. OAuth2 clients may send it."`
		ClientSecret  string `json:"client_secret,omitempty" maxLength:"200" doc:"Ignored. OAuth2 clients may send it."`
	} `contentType:"application/x-www-form-urlencoded"`
}

func (s *server) revocation() {
	register(s, huma.Operation{
		OperationID: "revoke", Method: http.MethodPost, Path: "/revoke", Tags: []string{"accounts"},
		DefaultStatus: http.StatusOK,
		Summary:       "Sign out, or revoke an API key",
		Description: "OAuth2's token revocation (RFC 7009). Ends the session of the token, with all its refresh and access tokens and the streams that were opened with them, or revokes the API key. " +
			"The token is all that is needed. An unknown, expired or revoked token is answered in the same way.",
		Responses: map[string]*huma.Response{"200": {Description: "The token is no longer valid."}},
	}, func(ctx context.Context, in *revokeInput) (*struct{}, error) {
		return nil, s.Auth.Revoke(ctx, in.Body.Token)
	})
}
