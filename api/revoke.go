package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

type revokeInput struct {
	Body struct {
		Token         string `json:"token" minLength:"1" maxLength:"8192" doc:"A refresh token, used or not, or an access token."`
		TokenTypeHint string `json:"token_type_hint,omitempty" maxLength:"50" doc:"Accepted and not needed: the two look different."`
		ClientID      string `json:"client_id,omitempty" maxLength:"200" doc:"Accepted for OAuth2 clients that send it."`
		ClientSecret  string `json:"client_secret,omitempty" maxLength:"200" doc:"Likewise."`
	} `contentType:"application/x-www-form-urlencoded"`
}

func (s *server) revocation() {
	register(s, huma.Operation{
		OperationID: "revoke", Method: http.MethodPost, Path: "/revoke", Tags: []string{"accounts"},
		DefaultStatus: http.StatusOK,
		Summary:       "Sign out",
		Description: "OAuth2's token revocation (RFC 7009): ends the session that the token belongs to, with all its refresh and access tokens and the streams that were opened with them. " +
			"The token is all that is needed, and one that is unknown, has expired or was revoked before is answered in the same way.",
		Responses: map[string]*huma.Response{"200": {Description: "The token is not valid any longer."}},
	}, func(ctx context.Context, in *revokeInput) (*struct{}, error) {
		return nil, s.Auth.Revoke(ctx, in.Body.Token)
	})
}
