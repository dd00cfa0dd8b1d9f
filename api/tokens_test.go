package api_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"colophon/test/apitest"
)

func TestPublishedKeysHaveNoPrivatePart(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.Access = ""
	a := f.Do("GET", "/.well-known/jwks.json", "").Must(t, 200)
	var set struct{ Keys []map[string]string }
	a.Into(t, &set)
	if len(set.Keys) != 1 {
		t.Fatalf("%s", a.Body)
	}
	delete(set.Keys[0], "kid")
	delete(set.Keys[0], "x")
	if diff := cmp.Diff(map[string]string{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig"}, set.Keys[0]); diff != "" {
		t.Error(diff) // the difference may be a private part of the key
	}
	if a.Header.Get("Cache-Control") != "public, max-age=60" || a.Header.Get("Content-Type") != "application/json" || a.Header.Get("ETag") == "" {
		t.Errorf("%v", a.Header)
	}
	again := f.Do("GET", "/.well-known/jwks.json", "", "If-None-Match", a.Header.Get("ETag")).Must(t, 304)
	if len(again.Body) > 0 || again.Header.Get("ETag") != a.Header.Get("ETag") {
		t.Errorf("%q %v", again.Body, again.Header)
	}
}

// TestRevokingATokenEndsItsSession revokes access tokens and refresh tokens, with and
// without a hint. Afterwards both tokens of the session must be refused. An unknown token
// must be answered with 200.
//
// security: ASVS 7.4.1, ASVS 10.4.9
func TestRevokingATokenEndsItsSession(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	revoke := func(values url.Values) apitest.Answer {
		t.Helper()
		return f.Do("POST", "/revoke", values.Encode(), "Content-Type", apitest.FormType, "Authorization", "")
	}
	for what, hint := range map[string]string{"access token": "access_token", "refresh token": "refresh_token", "wrong hint": "refresh_token", "no hint": ""} {
		tokens := f.SignIn("somebody", "a long sentence")
		values := url.Values{"token": {tokens.Access}}
		if what == "refresh token" {
			values.Set("token", tokens.Refresh)
		}
		if hint != "" {
			values.Set("token_type_hint", hint)
		}
		for range 2 { // the answer must be the same after the session has ended
			if a := revoke(values).Must(t, 200); len(a.Body) > 0 {
				t.Errorf("%s: %s", what, a.Body)
			}
		}
		f.Do("GET", "/history", "", "Authorization", "Bearer "+tokens.Access).Refused(t, 401, "invalid_access_token")
		f.Form("/token", "grant_type", "refresh_token", "refresh_token", tokens.Refresh).Refused(t, 401, "invalid_refresh_token")
	}
	for _, unknown := range []string{"x", "crt_" + strings.Repeat("A", 43), "a.b.c", strings.Repeat("A", 8192), "%00\x00"} {
		revoke(url.Values{"token": {unknown}}).Must(t, 200)
	}
	revoke(url.Values{}).Must(t, 400)
	revoke(url.Values{"token_type_hint": {"access_token"}}).Must(t, 400)
	revoke(url.Values{"token": {""}}).Must(t, 400)
	revoke(url.Values{"token": {strings.Repeat("A", 8193)}}).Must(t, 400)
	f.Do("POST", "/revoke", `{"token":"x"}`).Must(t, 415)
	f.Do("GET", "/revoke?token=x", "").Must(t, 405)
	f.Do("GET", "/history", "").Must(t, 200) // this session must go on
}

// TestFormsIgnoreUnknownFields sends unknown parameters to the OAuth2 endpoints. The
// endpoints must ignore these parameters (RFC 6749, 3.2).
func TestFormsIgnoreUnknownFields(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var tokens apitest.Tokens
	f.Form("/token", "username", "somebody", "password", "a long sentence", "Username", "nobody", "resource", "https://a.example", "", "x").
		Must(t, 200).Into(t, &tokens)
	f.Form("/token", "grant_type", "refresh_token", "refresh_token", tokens.Refresh, "audience", "a", "GRANT_TYPE", "password").Must(t, 200).Into(t, &tokens)
	f.Form("/token", "Username", "somebody", "password", "a long sentence").Refused(t, 400, "invalid_request")
	f.Form("/token", "username", "somebody", "password", "a long sentence", "username", "somebody").Refused(t, 400, "invalid_request")
	f.Form("/revoke", "token", tokens.Refresh, "extra", "1", "Token", "x").Must(t, 200)
	f.As(tokens.Access).Do("GET", "/history", "").Refused(t, 401, "invalid_access_token")
	// If a body has no media type, the service must read it as a form and not as JSON.
	f.Do("POST", "/token", "username=somebody&password=a+long+sentence", "Content-Type", "").Must(t, 200)
	f.Do("POST", "/token", `{"username":"somebody","password":"a long sentence"}`, "Content-Type", "").Refused(t, 400, "invalid_request")
}

// TestTicketOpensOneStreamOnce follows a job as EventSource does. Each ticket must open
// the events of its job once, and nothing else.
//
// security: ASVS 14.2.1
func TestTicketOpensOneStreamOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id, other := f.Submit(prompt), f.Submit(prompt)
	path := "/jobs/" + id + "/events"
	var issued []string
	ticket := func() string {
		t.Helper()
		var got struct {
			Ticket, URL string
			ExpiresIn   int `json:"expires_in"`
		}
		f.Do("POST", "/jobs/"+id+"/ticket", "").Must(t, 200).Into(t, &got)
		if got.URL != path+"?ticket="+got.Ticket || got.ExpiresIn != 30 {
			t.Errorf("%+v", got)
		}
		issued = append(issued, got.Ticket)
		return got.Ticket
	}
	source := func(path string, headers ...string) apitest.Answer {
		t.Helper()
		return f.Do("GET", path, "", append([]string{"Accept", "text/event-stream", "Authorization", ""}, headers...)...)
	}

	// A ticket opens one stream, and only once.
	first := ticket()
	stream := f.As("").Stream(t.Context(), path+"?ticket="+first)
	for m, err := range stream {
		if version, _, _ := strings.Cut(m.ID, "."); err != nil || m.Data != "" && version != "1" || m.Data == "" && m.ID != "" && version != "0" {
			t.Fatalf("%+v, %v", m, err)
		}
		if m.Event == "job.accepted" {
			break
		}
	}
	source(path+"?ticket="+first).Refused(t, 401, "invalid_ticket")
	source(path+"?ticket="+first, "Last-Event-ID", "1").Refused(t, 401, "invalid_ticket") // readers of URLs know no more
	f.Do("POST", "/jobs/"+id+"/cancel", "").Must(t, 200)
	var last apitest.Message
	for m, err := range stream {
		if last = m; err != nil {
			t.Fatal(err)
		}
	}
	if last.Event != "job.cancelled" {
		t.Fatalf("the stream ends with %+v", last)
	}
	// The client resumes the stream with another ticket.
	if a := source(path+"?after=1&ticket="+ticket()).Must(t, 200); !strings.Contains(string(a.Body), "job.cancelled") || strings.Contains(string(a.Body), "job.accepted") {
		t.Errorf("%s", a.Body)
	}

	// A ticket opens nothing else.
	wrong := ticket()
	source("/jobs/"+other+"/events?ticket="+wrong).Refused(t, 401, "invalid_ticket")
	source(path+"?ticket="+wrong).Refused(t, 401, "invalid_ticket") // the request above has used up the ticket
	for _, bad := range []string{"x", "cst_" + strings.Repeat("A", 43), strings.Repeat("A", 100)} {
		source(path+"?ticket="+bad).Refused(t, 401, "invalid_ticket")
	}
	unused := ticket()
	f.Do("GET", path+"?ticket="+unused, "", "Authorization", "").Refused(t, 401, "missing_access_token") // a ticket opens the stream, but not the JSON
	source(path+"?ticket=").Refused(t, 401, "missing_access_token")
	for _, r := range [][2]string{{"GET", "/jobs/" + id}, {"GET", "/history"}, {"POST", "/jobs/" + id + "/cancel"}, {"POST", "/jobs/" + id + "/ticket"}, {"POST", "/jobs"}} {
		f.Do(r[0], r[1]+"?ticket="+unused, prompt, "Accept", "text/event-stream", "Authorization", "").Refused(t, 401, "missing_access_token")
		f.Do(r[0], r[1], prompt, "Authorization", "Bearer "+unused).Refused(t, 401, "invalid_access_token")
	}
	source(path+"?ticket="+unused, "Authorization", "Bearer nonsense").Refused(t, 401, "invalid_access_token") // the ticket does not count beside an Authorization header
	source(path+"?ticket="+unused).Must(t, 200)
	f.Do("GET", "/events?ticket="+ticket(), "", "Accept", "text/event-stream", "Authorization", "").Refused(t, 401, "invalid_ticket")

	// Only the owner of a job gets a ticket for it.
	own := f.Access
	_, f.Access = f.user("somebody-else")
	f.Do("POST", "/jobs/"+id+"/ticket", "").Refused(t, 404, "not_found")
	f.Access = own
	f.Do("POST", "/jobs/00000000-0000-7000-8000-000000000000/ticket", "").Refused(t, 404, "not_found")
	f.Do("POST", "/jobs/"+id+"/ticket", "", "Authorization", "").Refused(t, 401, "missing_access_token")

	// A ticket ends with its session.
	mine := f.Access
	f.Access = f.SignIn("somebody", "a long sentence").Access
	late := ticket()
	f.Form("/revoke", "token", f.Access).Must(t, 200)
	source(path+"?ticket="+late).Refused(t, 401, "invalid_ticket")
	f.Access = mine

	log := f.log.String()
	if !strings.Contains(log, "route=\"GET /jobs/{id}/events\"") {
		t.Errorf("the log lacks the requests: %.500s", log)
	}
	for _, secret := range append(issued, f.Access, "?ticket", "ticket=") {
		if strings.Contains(log, secret) {
			t.Errorf("%.10s... is in the log", secret)
		}
	}
	// The OpenAPI description must not say that any other operation accepts tickets.
	var spec struct {
		Paths map[string]map[string]struct {
			Security []map[string][]string
		}
	}
	f.Do("GET", "/openapi.json", "").Must(t, 200).Into(t, &spec)
	for path, operations := range spec.Paths {
		for method, op := range operations {
			for _, scheme := range op.Security {
				if _, ok := scheme["ticket"]; ok != (method == "get" && (path == "/jobs/{id}/events" || path == "/events")) && ok {
					t.Errorf("%s %s accepts tickets", method, path)
				}
			}
		}
	}
}
