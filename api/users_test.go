package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"

	"colophon/api"
	"colophon/events"
	"colophon/internal/auth"
	"colophon/test/apitest"
)

// token asks for an access token with a password, and returns the answer.
func (f *fixture) token(name, password string) apitest.Answer {
	f.T.Helper()
	return f.Form("/token", "username", name, "password", password)
}

type account struct {
	ID         uuid.UUID
	Username   string
	Role       string
	DisabledAt *string `json:"disabled_at"`
	ErasedAt   *string `json:"erased_at"`
}

// TestRolesDecideWhoMayCall calls operations with every role, and with a role that
// changes after the sign-in. Only the listed roles may call an operation.
//
// security: ASVS 8.2.1, ASVS 8.2.3, API5:2023
func TestRolesDecideWhoMayCall(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	accounts := f.accounts()
	access := map[auth.Role]string{auth.User: f.Access}
	ids := map[auth.Role]uuid.UUID{auth.User: f.owner}
	for _, role := range []auth.Role{auth.Auditor, auth.Admin} {
		ids[role], access[role] = f.user("the-" + string(role))
		if _, err := accounts.SetRole(t.Context(), ids[role], role); err != nil { // the role changes after the sign-in
			t.Fatal(err)
		}
	}
	other, _ := f.user("another")
	for _, c := range []struct {
		method, path string
		may          []auth.Role
	}{
		{"GET", "/users", []auth.Role{auth.Auditor, auth.Admin}},
		{"GET", "/audit", []auth.Role{auth.Auditor, auth.Admin}},
		{"GET", "/users/" + other.String() + "/events", []auth.Role{auth.Auditor, auth.Admin}},
		{"GET", "/users/" + uuid.NewString() + "/events", []auth.Role{auth.Auditor, auth.Admin}},
		{"POST", "/users/" + other.String() + "/disable", []auth.Role{auth.Admin}},
		{"POST", "/users/" + other.String() + "/enable", []auth.Role{auth.Admin}},
		{"POST", "/users/" + uuid.NewString() + "/enable", []auth.Role{auth.Admin}},
		{"GET", "/users/me", []auth.Role{auth.User, auth.Auditor, auth.Admin}},
	} {
		f.As("").Do(c.method, c.path, "").Must(t, 401)
		f.Do(c.method, c.path, "", "Authorization", "Bearer ").Must(t, 401)
		for role, token := range access {
			may := false
			for _, r := range c.may {
				may = may || r == role
			}
			a := f.As(token).Do(c.method, c.path, "")
			if !may {
				a.Refused(t, 403, "forbidden")
			} else if a.Status != 200 && a.Status != 404 {
				t.Errorf("%s: %s %s: %d %s", role, c.method, c.path, a.Status, a.Body)
			}
		}
	}
	for role, token := range access {
		var me account
		f.As(token).Do("GET", "/users/me", "").Must(t, 200).Into(t, &me)
		if me.ID != ids[role] || me.Role != string(role) || me.Username == "" || me.DisabledAt != nil {
			t.Errorf("%s: %+v", role, me)
		}
	}
	admin := f.As(access[auth.Admin])
	admin.Do("POST", "/users/"+ids[auth.Admin].String()+"/disable", "").Refused(t, 409, "own_account")
	if _, err := accounts.SetRole(t.Context(), ids[auth.Admin], auth.User); err != nil {
		t.Fatal(err)
	}
	admin.Do("POST", "/users/"+other.String()+"/disable", "").Refused(t, 403, "forbidden")
	if _, err := accounts.Disable(t.Context(), auth.CommandLine, ids[auth.Auditor]); err != nil {
		t.Fatal(err)
	}
	f.As(access[auth.Auditor]).Do("GET", "/users", "").Must(t, 401)
	f.As(access[auth.Auditor]).Do("GET", "/users/me", "").Must(t, 401)
}

// TestDescriptionNamesRoles reads the roles of each operation in the OpenAPI description.
// These must be the roles that the operation requires.
//
// security: ASVS 8.1.1
func TestDescriptionNamesRoles(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var description struct {
		Paths map[string]map[string]struct {
			Role      []string `json:"x-role"`
			Responses map[string]any
		}
	}
	f.Do("GET", "/openapi.json", "").Must(t, 200).Into(t, &description)
	got := map[string]string{}
	for path, item := range description.Paths {
		for method, op := range item {
			if len(op.Role) > 0 {
				got[strings.ToUpper(method)+" "+path] = strings.Join(op.Role, " ")
			}
			if _, forbidden := op.Responses["403"]; len(op.Role) > 0 && !forbidden {
				t.Errorf("%s %s does not document 403", method, path)
			}
		}
	}
	want := map[string]string{
		"GET /users": "auditor admin", "GET /audit": "auditor admin", "GET /users/{id}/events": "auditor admin",
		"POST /users/{id}/disable": "admin", "POST /users/{id}/enable": "admin",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	if _, err := api.Description(); err != nil {
		t.Error(err)
	}
}

// TestDisabledAccountCannotSignIn disables an account and enables it again. The account
// must be able to sign in only while it is enabled.
//
// security: ASVS 7.4.2, ASVS 7.4.5, ASVS 8.3.2
func TestDisabledAccountCannotSignIn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id, access := f.user("the-admin")
	if _, err := f.accounts().SetRole(t.Context(), id, auth.Admin); err != nil {
		t.Fatal(err)
	}
	admin := f.As(access)
	path := "/users/" + f.owner.String()
	for range 2 {
		var a account
		admin.Do("POST", path+"/disable", "").Must(t, 200).Into(t, &a)
		if a.ID != f.owner || a.DisabledAt == nil {
			t.Errorf("%+v", a)
		}
		f.token("somebody", "a long sentence").Refused(t, 401, "invalid_credentials")
	}
	var a account
	admin.Do("POST", path+"/enable", "").Must(t, 200).Into(t, &a)
	if a.DisabledAt != nil {
		t.Errorf("%+v", a)
	}
	f.token("somebody", "a long sentence").Must(t, 200)
	admin.Do("POST", "/users/"+uuid.NewString()+"/disable", "").Refused(t, 404, "not_found")
	admin.Do("POST", "/users/"+uuid.Nil.String()+"/disable", "").Refused(t, 404, "not_found")
	admin.Do("GET", "/users/"+uuid.Nil.String()+"/events", "").Refused(t, 404, "not_found")
	admin.Do("POST", "/users/somebody/disable", "").Must(t, 422)
}

// TestLinkHeadersLeadThroughAllPages reads the accounts, and the events of one account.
// The Link headers must lead to every item, and no page may contain a prompt.
func TestLinkHeadersLeadThroughAllPages(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id, access := f.user("the-auditor")
	if _, err := f.accounts().SetRole(t.Context(), id, auth.Auditor); err != nil {
		t.Fatal(err)
	}
	f.user("a-third")
	f.Do("POST", "/jobs", `{"prompt":"a peacock's feather"}`).Must(t, 202)
	f.token("somebody", "a long guess").Must(t, 401)
	auditor := f.As(access)
	pages := func(path string) []byte {
		t.Helper()
		var all []json.RawMessage
		for n := 0; path != "" && n < 10; n++ {
			a := auditor.Do("GET", path, "").Must(t, 200)
			var page []json.RawMessage
			a.Into(t, &page)
			all = append(all, page...)
			path, _, _ = strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">")
			if bytes.Contains(a.Body, []byte("peacock")) {
				t.Errorf("the auditor reads %s", a.Body)
			}
		}
		raw, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	var accounts []account
	apitest.Answer{Body: pages("/users?limit=2")}.Into(t, &accounts)
	if len(accounts) != 3 || accounts[0].Username != "somebody" || accounts[1].Role != "auditor" || accounts[2].Username != "a-third" {
		t.Errorf("%+v", accounts)
	}
	var happened []api.AccountEvent
	apitest.Answer{Body: pages("/users/" + f.owner.String() + "/events?limit=1")}.Into(t, &happened)
	got := ""
	for i, e := range happened {
		got += " " + e.Type
		if e.Version != i+1 || e.At.IsZero() {
			t.Errorf("%+v", e)
		}
	}
	if got != " account.registered account.signed_in account.sign_in_failed" || happened[0].Username != "somebody" || happened[1].Session == nil {
		t.Errorf("%+v", happened)
	}
	auditor.Do("GET", "/users?limit=101", "").Must(t, 422)
	auditor.Do("GET", "/users?after=x", "").Must(t, 422)
	auditor.Do("GET", "/users/"+f.owner.String()+"/events?after=-1", "").Must(t, 422)
}

// TestPasswordChangeChecksBothPasswords changes a password. A wrong current password and
// an unsuitable new password must be refused, and the answer must name the member that is
// wrong.
//
// security: ASVS 6.2.2, ASVS 6.2.3, ASVS 7.4.3, ASVS 7.5.1
func TestPasswordChangeChecksBothPasswords(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const path = "/users/me/password"
	f.As("").Do("PUT", path, `{"current_password":"a long sentence","new_password":"another sentence"}`).Must(t, 401)
	for body, want := range map[string]struct {
		status      int
		code, where string
	}{
		`{"current_password":"a long guess","new_password":"another sentence"}`: {403, "wrong_password", "body.current_password"},
		`{"current_password":"a long sentence","new_password":"somebody1234"}`:  {422, "password_username", "body.new_password"},
		`{"current_password":"a long sentence","new_password":"ＰＡＳＳＷＯＲＤ1"}`:     {422, "password_common", "body.new_password"},
		`{"current_password":"a long sentence","new_password":"short"}`:         {422, "invalid_request", "body.new_password"},
		`{"current_password":"","new_password":"another sentence"}`:             {422, "invalid_request", "body.current_password"},
		`{"new_password":"another sentence"}`:                                   {422, "invalid_request", "body"},
		`{"password":"a long sentence","new_password":"another sentence"}`:      {422, "invalid_request", "body"},
	} {
		a := f.Do("PUT", path, body)
		a.Refused(t, want.status, want.code)
		var p struct {
			Errors []struct{ Location string }
		}
		if a.Into(t, &p); len(p.Errors) == 0 || p.Errors[0].Location != want.where || bytes.Contains(a.Body, []byte("sentence")) {
			t.Errorf("%s: %s, want %s", body, a.Body, want.where)
		}
	}
	if a := f.Do("PUT", path, `{"current_password":"a long sentence","new_password":"another sentence"}`).Must(t, 204); len(a.Body) != 0 {
		t.Errorf("%s", a.Body)
	}
	f.token("somebody", "a long sentence").Must(t, 401)
	f.token("somebody", "another sentence").Must(t, 200)
}

// TestSigningOutEverywhereEndsAllSessions ends all sessions of an account. An earlier
// refresh token must be refused, and a new sign-in must succeed.
//
// security: ASVS 7.5.2
func TestSigningOutEverywhereEndsAllSessions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tokens := f.SignIn("somebody", "a long sentence")
	f.Do("DELETE", "/users/me/sessions", "").Must(t, 204)
	f.Form("/token", "grant_type", "refresh_token", "refresh_token", tokens.Refresh).Refused(t, 401, "invalid_refresh_token")
	f.token("somebody", "a long sentence").Must(t, 200)
}

// TestErasedAccountIsGone erases an account. Its name, texts and key must be gone, and
// its access token must be refused.
//
// security: ASVS 7.4.2, ASVS 7.5.1
func TestErasedAccountIsGone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first := f.Submit(prompt)
	var keyed job
	f.Do("POST", "/jobs", prompt, "Idempotency-Key", "k").Must(t, 202).Into(t, &keyed)
	f.Do("DELETE", "/users/me", `{"password":"a long guess"}`).Refused(t, 403, "wrong_password")
	f.Do("DELETE", "/users/me", `{}`).Must(t, 422)
	f.Do("DELETE", "/users/me", "").Must(t, 400)
	f.Do("GET", "/jobs/"+first, "").Must(t, 200)
	f.Do("DELETE", "/users/me", `{"password":"a long sentence"}`).Must(t, 204)

	for _, id := range []string{first, keyed.ID} {
		j, err := f.store.Job(t.Context(), uuid.MustParse(id))
		if err != nil || j.State != events.Cancelled || !j.Erased || j.Prompt != "" {
			t.Errorf("%+v, %v", j, err)
		}
	}
	var key []byte
	if err := f.db.Owner.QueryRow(t.Context(), `select wrapped from owner_keys where owner = $1`, f.owner).Scan(&key); err != nil || key != nil {
		t.Errorf("the key still exists: %v", err)
	}
	for _, path := range []string{"/users/me", "/jobs/" + first, "/jobs/" + first + "/events", "/history"} {
		f.Do("GET", path, "").Refused(t, 401, "invalid_access_token")
	}
	for _, headers := range [][]string{nil, {"Idempotency-Key", "new"}, {"Idempotency-Key", "k"}} {
		f.Do("POST", "/jobs", prompt, headers...).Refused(t, 401, "invalid_access_token")
	}
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/jobs/" + first + "/cancel", ""},
		{"PUT", "/users/me/password", `{"current_password":"a long sentence","new_password":"another sentence"}`},
		{"DELETE", "/users/me", `{"password":"a long sentence"}`},
		{"DELETE", "/users/me/sessions", ""},
	} {
		f.Do(c.method, c.path, c.body).Refused(t, 401, "invalid_access_token")
	}
	f.token("somebody", "a long sentence").Refused(t, 401, "invalid_credentials")
	f.Do("POST", "/users", `{"username":"SOMEBODY","password":"another sentence"}`).Refused(t, 409, "username_taken")
	if r, err := f.store.CheckHistory(t.Context(), events.Observer{}); err != nil || r.Wrong > 0 || r.Jobs != 2 {
		t.Errorf("%d of %d rows of the history are wrong, %v", r.Wrong, r.Jobs, err)
	}
	id, access := f.user("the-admin")
	if _, err := f.accounts().SetRole(t.Context(), id, auth.Admin); err != nil {
		t.Fatal(err)
	}
	admin := f.As(access)
	var all []account
	admin.Do("GET", "/users", "").Must(t, 200).Into(t, &all)
	if len(all) != 2 || all[0].ID != f.owner || all[0].Username != "" || all[0].ErasedAt == nil {
		t.Errorf("%+v", all)
	}
	var happened []api.AccountEvent
	admin.Do("GET", "/users/"+f.owner.String()+"/events", "").Must(t, 200).Into(t, &happened)
	if len(happened) < 3 || happened[0].Username != "" || happened[len(happened)-1].Type != "account.erased" {
		t.Errorf("%+v", happened)
	}
	admin.Do("POST", "/users/"+f.owner.String()+"/enable", "").Refused(t, 409, "account_erased")
}

// TestGuessingIsThrottledForEveryName guesses passwords of a name that exists and of a
// name that does not. Both names must get the same refusals.
//
// security: ASVS 6.3.1, API2:2023, API6:2023
func TestGuessingIsThrottledForEveryName(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var refused []string
	for _, name := range []string{"somebody", "nobody-at-all"} {
		guesses := 0
		a := f.token(name, "a long guess")
		// On a slow machine, the first short waits end before the next guess. The test
		// therefore guesses until a guess is refused.
		for ; a.Status == http.StatusUnauthorized && guesses < 20; guesses++ {
			a.Refused(t, 401, "invalid_credentials")
			a = f.token(name, "a long guess")
		}
		if guesses < 10 {
			t.Errorf("%s: refused after %d guesses", name, guesses)
		}
		a.Refused(t, http.StatusTooManyRequests, "too_many_wrong_passwords")
		if after, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || after < 1 || after > 900 {
			t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
		}
		var p struct{ Title, Detail string }
		a.Into(t, &p)
		refused = append(refused, p.Title+strings.TrimRight(p.Detail, "0123456789 s"))
	}
	if refused[0] != refused[1] {
		t.Errorf("%q for a name that exists differs from %q for one that does not", refused[0], refused[1])
	}
}
