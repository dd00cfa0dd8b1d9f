package clients

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"colophon/test/apitest"
)

// testSessions signs in with golang.org/x/oauth2, and with a session that must be renewed.
func testSessions(t *testing.T, s *service) {
	version := goVersion(t, ".", "golang.org/x/oauth2")
	config := oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: s.apis[0].URL + "/token", AuthStyle: oauth2.AuthStyleInParams}}
	get := func(t *testing.T, client *http.Client, want int) {
		t.Helper()
		at, err := url.JoinPath(s.apis[1].URL, "users", "me")
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Get(at)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("status %d, want %d", resp.StatusCode, want)
		}
	}
	scenario(t, "golang.org/x/oauth2", version, "signs in by password, renews the session and is told of a wrong password", func(t *testing.T) {
		s.user(t, "oauth")
		token, err := config.PasswordCredentialsToken(t.Context(), "oauth", apitest.Password)
		if err != nil {
			t.Fatal(err)
		}
		get(t, config.Client(t.Context(), token), 200)
		first := token.AccessToken
		token.Expiry = time.Now().Add(-time.Minute)
		source := config.TokenSource(t.Context(), token)
		renewed, err := source.Token()
		if err != nil {
			t.Fatal(err)
		}
		if renewed.AccessToken == first || renewed.RefreshToken == token.RefreshToken || time.Until(renewed.Expiry) < time.Minute {
			t.Errorf("expires %v", renewed.Expiry)
		}
		get(t, oauth2.NewClient(t.Context(), source), 200)
		_, err = config.PasswordCredentialsToken(t.Context(), "oauth", "a wrong password")
		refused, ok := err.(*oauth2.RetrieveError)
		if !ok || refused.ErrorCode != "invalid_grant" || refused.Response.StatusCode != 400 && refused.Response.StatusCode != 401 {
			t.Errorf("a wrong password: %v", err)
		}
	})
}
