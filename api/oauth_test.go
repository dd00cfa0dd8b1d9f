package api_test

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"colophon/test/apitest"
)

// TestOAuthClientsSeeTheErrorCode makes sign-ins fail through the client of
// golang.org/x/oauth2. The client must report the OAuth2 code of each error.
func TestOAuthClientsSeeTheErrorCode(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: f.URL + "/token", AuthStyle: oauth2.AuthStyleInParams}}
	tokens, err := c.PasswordCredentialsToken(t.Context(), "somebody", "a long sentence")
	if err != nil {
		t.Fatal(err)
	}
	refresh := func(token string) error {
		_, err := c.TokenSource(t.Context(), &oauth2.Token{RefreshToken: token}).Token()
		return err
	}
	if err := refresh(tokens.RefreshToken); err != nil {
		t.Fatal(err)
	}
	_, wrongPassword := c.PasswordCredentialsToken(t.Context(), "somebody", "another sentence")
	_, longPassword := c.PasswordCredentialsToken(t.Context(), "somebody", strings.Repeat("x", 300))
	_, noPassword := c.PasswordCredentialsToken(t.Context(), "somebody", "")
	_, authorizationCode := c.Exchange(t.Context(), "a code")
	for name, k := range map[string]struct {
		err    error
		status int
		code   string
	}{
		"a wrong password":      {wrongPassword, 401, "invalid_grant"},
		"a long password":       {longPassword, 400, "invalid_request"},
		"an empty password":     {noPassword, 400, "invalid_request"},
		"an authorization code": {authorizationCode, 400, "unsupported_grant_type"},
		"a used refresh token":  {refresh("crt_" + strings.Repeat("A", 43)), 401, "invalid_grant"},
	} {
		got, ok := errors.AsType[*oauth2.RetrieveError](k.err)
		if !ok || got.Response.StatusCode != k.status || got.ErrorCode != k.code || got.ErrorDescription == "" || strings.ContainsAny(got.ErrorDescription, `"\`) {
			t.Errorf("%s: %v, want %d %s", name, k.err, k.status, k.code)
		}
	}
}

// TestOAuthErrorsAreProblemsToo sends requests that each middleware of the OAuth2
// endpoints refuses. Each answer must have both the code of the service and the code of
// OAuth2.
func TestOAuthErrorsAreProblemsToo(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	form := []string{"Content-Type", apitest.FormType}
	for name, k := range map[string]struct {
		answer apitest.Answer
		status int
		oauth  string
		code   string
	}{
		"a wrong password":       {f.token("somebody", "another sentence"), 401, "invalid_grant", "invalid_credentials"},
		"a wrong refresh token":  {f.Form("/token", "grant_type", "refresh_token", "refresh_token", "crt_x"), 401, "invalid_grant", "invalid_refresh_token"},
		"no user name":           {f.Form("/token", "password", "a long sentence"), 400, "invalid_request", "invalid_request"},
		"an empty user name":     {f.Form("/token", "username", "", "password", "a long sentence"), 400, "invalid_request", "invalid_request"},
		"a long user name":       {f.token(strings.Repeat("x", 51), "a long sentence"), 400, "invalid_request", "invalid_request"},
		"an unknown grant type":  {f.Form("/token", "grant_type", "magic"), 400, "unsupported_grant_type", "invalid_request"},
		"a repeated parameter":   {f.Do("POST", "/token", "username=a&username=b", form...), 400, "invalid_request", "invalid_request"},
		"an unknown query":       {f.Do("POST", "/token?a=b", "username=a&password=b", form...), 400, "invalid_request", "invalid_request"},
		"a malformed query":      {f.Do("POST", "/token?%zz", "username=a&password=b", form...), 400, "invalid_request", "invalid_request"},
		"no body":                {f.Do("POST", "/token", ""), 400, "invalid_request", "invalid_request"},
		"JSON":                   {f.Do("POST", "/token", "{}"), 415, "invalid_request", "unsupported_media_type"},
		"a large body":           {f.Do("POST", "/token", strings.Repeat("x", 70_000), form...), 413, "invalid_request", "invalid_request"},
		"another method":         {f.Do("GET", "/token", ""), 405, "invalid_request", "method_not_allowed"},
		"a foreign page":         {f.Do("POST", "/token", "username=a", append(form, "Sec-Fetch-Site", "cross-site")...), 403, "invalid_request", ""},
		"revoke without a token": {f.Form("/revoke", "token_type_hint", "access_token"), 400, "invalid_request", "invalid_request"},
		"revoke an empty token":  {f.Form("/revoke", "token", ""), 400, "invalid_request", "invalid_request"},
		"revoke as JSON":         {f.Do("POST", "/revoke", `{"token":"x"}`), 415, "invalid_request", "unsupported_media_type"},
	} {
		p := k.answer.Refused(t, k.status, k.code)
		if p.Error.Type != k.oauth {
			t.Errorf("%s: %q, want %q: %s", name, p.Error.Type, k.oauth, k.answer.Body)
		}
	}
	f.Form("/token", "grant_type", "", "username", "somebody", "password", "a long sentence", "refresh_token", "", "scope", "").Must(t, 200)
}
