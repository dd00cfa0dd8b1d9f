package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"colophon/internal/auth"
)

type registerInput struct {
	Idempotent
	Body struct {
		Username string `json:"username" minLength:"3" maxLength:"50" example:"isaac" doc:"3 to 50 characters, without white space and without <>{};. Upper and lower case are the same name."`
		Password string `json:"password" minLength:"8" maxLength:"256" format:"password" example:"a long sentence is a good one" doc:"At least 8 characters of any kind. Common passwords are refused, and so are passwords with little more than the user name or the name of this service."`
	}
}

type registerOutput struct {
	Body struct {
		ID       uuid.UUID `json:"id" format:"uuid" doc:"The id of the account."`
		Username string    `json:"username" doc:"The user name as registered."`
	}
}

type tokenInput struct {
	Body struct {
		GrantType    string `json:"grant_type,omitempty" enum:"password,refresh_token" default:"password" doc:"What is exchanged for tokens."`
		Username     string `json:"username,omitempty" maxLength:"50" doc:"With grant_type password."`
		Password     string `json:"password,omitempty" maxLength:"256" format:"password" doc:"With grant_type password."`
		RefreshToken string `json:"refresh_token,omitempty" maxLength:"200" doc:"With grant_type refresh_token."`
		Scope        string `json:"scope,omitempty" maxLength:"200" doc:"Ignored: there are no scopes. OAuth2 clients may send it."`
		ClientID     string `json:"client_id,omitempty" maxLength:"200" doc:"Ignored. OAuth2 clients may send it."`
		ClientSecret string `json:"client_secret,omitempty" maxLength:"200" doc:"Ignored. OAuth2 clients may send it."`
	} `contentType:"application/x-www-form-urlencoded"`
}

type tokenOutput struct {
	Body struct {
		AccessToken  string `json:"access_token" doc:"A JWT, for Authorization: Bearer."`
		TokenType    string `json:"token_type" enum:"bearer" doc:"How to send the access token."`
		ExpiresIn    int    `json:"expires_in" doc:"Seconds until the access token expires."`
		RefreshToken string `json:"refresh_token" doc:"Can be exchanged once, for a new pair of tokens."`
	}
}

func (s *server) accounts() {
	register(s, huma.Operation{
		OperationID: "register", Method: http.MethodPost, Path: "/users", Tags: []string{"accounts"},
		Summary:     "Create an account",
		Description: "Anybody can create an account. Then sign in at /token. A name that another account has or had, in any spelling, or one that looks like it, is taken (409).",
		Metadata:    limited("users"),
		Errors:      []int{http.StatusConflict},
	}, s.register)
	register(s, huma.Operation{
		OperationID: "get-token", Method: http.MethodPost, Path: "/token", Tags: []string{"accounts"},
		Summary: "Sign in, or refresh the access token",
		Description: "Exchanges a user name and a password, or a refresh token, for an access token, as an OAuth2 form. Empty parameters count as absent. Errors have the members error and error_description of RFC 6749 beside those of a problem: " +
			"a wrong user name, password or refresh token is 401 invalid_grant, and a malformed request is 400 invalid_request or unsupported_grant_type. Other calls take the access token in their Authorization header. " +
			"After several wrong passwords for a name from one network, further sign-ins to that name from that network have to wait: 429 too_many_wrong_passwords, with Retry-After. Other networks do not have to wait. " +
			"An account has at most 100 sessions; a further sign-in ends the oldest.",
		Metadata: limited("token"),
		Errors:   []int{http.StatusUnauthorized},
	}, s.token)
	s.me()
	s.sessions()
	s.users()
}

func (s *server) register(ctx context.Context, in *registerInput) (*registerOutput, error) {
	key, err := in.key("POST /users", nil) // auth sets the payload of the key, because the payload contains a password
	if err != nil {
		return nil, err
	}
	var account auth.Account
	if key == nil {
		account, err = s.Auth.Register(ctx, in.Body.Username, in.Body.Password)
	} else {
		account, err = s.Auth.RegisterOnce(ctx, *key, in.Body.Username, in.Body.Password, networkOf(ctx))
	}
	if err != nil {
		return nil, err
	}
	out := &registerOutput{}
	out.Body.ID, out.Body.Username = account.ID, account.Username
	return out, nil
}

func (s *server) token(ctx context.Context, in *tokenInput) (*tokenOutput, error) {
	b := in.Body
	missing := func(field string) error {
		return newProblem(http.StatusUnprocessableEntity, "invalid_request", field+" is required with grant_type "+b.GrantType).at("body." + field)
	}
	var tokens auth.Tokens
	var err error
	switch {
	case b.GrantType == "refresh_token" && b.RefreshToken == "":
		err = missing("refresh_token")
	case b.GrantType == "refresh_token":
		tokens, err = s.Auth.Refresh(ctx, b.RefreshToken)
	case b.Username == "":
		err = missing("username")
	case b.Password == "":
		err = missing("password")
	default:
		tokens, err = s.Auth.SignIn(ctx, b.Username, b.Password, networkOf(ctx))
	}
	if err != nil {
		return nil, err
	}
	out := &tokenOutput{}
	out.Body.AccessToken, out.Body.RefreshToken, out.Body.TokenType = tokens.AccessToken, tokens.RefreshToken, "bearer"
	out.Body.ExpiresIn = int(tokens.ExpiresIn.Seconds())
	return out, nil
}
