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
	"colophon/internal/vault"
)

// accounts returns the accounts as the command line has them.
func (f *fixture) accounts() *auth.Service {
	f.t.Helper()
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize))
	if err != nil {
		f.t.Fatal(err)
	}
	accounts, err := auth.New(f.t.Context(), f.db.App, f.store, v, auth.Options{Issuer: "test", Audience: "test"})
	if err != nil {
		f.t.Fatal(err)
	}
	return accounts
}

// token signs in.
func (f *fixture) token(name, password string) answer {
	f.t.Helper()
	return f.do("POST", "/token", "username="+name+"&password="+strings.ReplaceAll(password, " ", "+"), "Content-Type", "application/x-www-form-urlencoded")
}

// caller makes requests with an access token of its own, or none.
type caller struct {
	*fixture
	access string
}

func (f *fixture) with(access string) caller { return caller{f, access} }

func (c caller) do(method, path, body string) answer {
	c.t.Helper()
	return c.fixture.do(method, path, body, "Authorization", "Bearer "+c.access)
}

type account struct {
	ID         uuid.UUID
	Username   string
	Role       string
	DisabledAt *string `json:"disabled_at"`
	ErasedAt   *string `json:"erased_at"`
}

// TestWhoMayDoWhat asks with every role, and with a role that changes meanwhile.
//
// security: ASVS 8.2.1, ASVS 8.2.3, API5:2023
func TestWhoMayDoWhat(t *testing.T) {
	f := newFixture(t)
	accounts := f.accounts()
	access := map[auth.Role]string{auth.User: f.access}
	ids := map[auth.Role]uuid.UUID{auth.User: f.owner}
	for _, role := range []auth.Role{auth.Auditor, auth.Admin} {
		ids[role], access[role] = f.user("the-" + string(role))
		if _, err := accounts.SetRole(t.Context(), ids[role], role); err != nil { // after the sign-in
			t.Fatal(err)
		}
	}
	other, _ := f.user("another")
	for _, c := range []struct {
		method, path string
		may          []auth.Role
	}{
		{"GET", "/users", []auth.Role{auth.Auditor, auth.Admin}},
		{"GET", "/users/" + other.String() + "/events", []auth.Role{auth.Auditor, auth.Admin}},
		{"GET", "/users/" + uuid.NewString() + "/events", []auth.Role{auth.Auditor, auth.Admin}},
		{"POST", "/users/" + other.String() + "/disable", []auth.Role{auth.Admin}},
		{"POST", "/users/" + other.String() + "/enable", []auth.Role{auth.Admin}},
		{"POST", "/users/" + uuid.NewString() + "/enable", []auth.Role{auth.Admin}},
		{"GET", "/users/me", []auth.Role{auth.User, auth.Auditor, auth.Admin}},
	} {
		f.with("").do(c.method, c.path, "").must(t, 401)
		for role, token := range access {
			may := false
			for _, r := range c.may {
				may = may || r == role
			}
			a := f.with(token).do(c.method, c.path, "")
			if !may {
				a.refused(t, 403, "forbidden")
			} else if a.status != 200 && a.status != 404 {
				t.Errorf("%s: %s %s: %d %s", role, c.method, c.path, a.status, a.body)
			}
		}
	}
	for role, token := range access {
		var me account
		f.with(token).do("GET", "/users/me", "").must(t, 200).into(t, &me)
		if me.ID != ids[role] || me.Role != string(role) || me.Username == "" || me.DisabledAt != nil {
			t.Errorf("%s: %+v", role, me)
		}
	}
	admin := f.with(access[auth.Admin])
	admin.do("POST", "/users/"+ids[auth.Admin].String()+"/disable", "").refused(t, 409, "own_account")
	if _, err := accounts.SetRole(t.Context(), ids[auth.Admin], auth.User); err != nil {
		t.Fatal(err)
	}
	admin.do("POST", "/users/"+other.String()+"/disable", "").refused(t, 403, "forbidden")
	if _, err := accounts.Disable(t.Context(), auth.CommandLine, ids[auth.Auditor]); err != nil {
		t.Fatal(err)
	}
	f.with(access[auth.Auditor]).do("GET", "/users", "").must(t, 401)
	f.with(access[auth.Auditor]).do("GET", "/users/me", "").must(t, 401)
}

// TestTheDescriptionNamesRoles keeps what is said of an operation what is asked of its callers.
//
// security: ASVS 8.1.1
func TestTheDescriptionNamesRoles(t *testing.T) {
	f := newFixture(t)
	var description struct {
		Paths map[string]map[string]struct {
			Role      []string `json:"x-role"`
			Responses map[string]any
		}
	}
	f.do("GET", "/openapi.json", "").must(t, 200).into(t, &description)
	got := map[string]string{}
	for path, item := range description.Paths {
		for method, op := range item {
			if len(op.Role) > 0 {
				got[strings.ToUpper(method)+" "+path] = strings.Join(op.Role, " ")
			}
			if _, forbidden := op.Responses["403"]; len(op.Role) > 0 && !forbidden {
				t.Errorf("%s %s does not say 403", method, path)
			}
		}
	}
	want := map[string]string{
		"GET /users": "auditor admin", "GET /users/{id}/events": "auditor admin",
		"POST /users/{id}/disable": "admin", "POST /users/{id}/enable": "admin",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	if _, err := api.Description(); err != nil {
		t.Error(err)
	}
}

// security: ASVS 7.4.2, ASVS 7.4.5, ASVS 8.3.2
func TestDisablingOverHTTP(t *testing.T) {
	f := newFixture(t)
	id, access := f.user("the-admin")
	if _, err := f.accounts().SetRole(t.Context(), id, auth.Admin); err != nil {
		t.Fatal(err)
	}
	admin := f.with(access)
	path := "/users/" + f.owner.String()
	for range 2 {
		var a account
		admin.do("POST", path+"/disable", "").must(t, 200).into(t, &a)
		if a.ID != f.owner || a.DisabledAt == nil {
			t.Errorf("%+v", a)
		}
		f.token("somebody", "a long sentence").refused(t, 401, "invalid_credentials")
	}
	var a account
	admin.do("POST", path+"/enable", "").must(t, 200).into(t, &a)
	if a.DisabledAt != nil {
		t.Errorf("%+v", a)
	}
	f.token("somebody", "a long sentence").must(t, 200)
	admin.do("POST", "/users/"+uuid.NewString()+"/disable", "").refused(t, 404, "not_found")
	admin.do("POST", "/users/"+uuid.Nil.String()+"/disable", "").refused(t, 404, "not_found")
	admin.do("GET", "/users/"+uuid.Nil.String()+"/events", "").refused(t, 404, "not_found")
	admin.do("POST", "/users/somebody/disable", "").must(t, 422)
}

// TestPagesOfAccountsAndTheirEvents follows the links.
func TestPagesOfAccountsAndTheirEvents(t *testing.T) {
	f := newFixture(t)
	id, access := f.user("the-auditor")
	if _, err := f.accounts().SetRole(t.Context(), id, auth.Auditor); err != nil {
		t.Fatal(err)
	}
	f.user("a-third")
	f.do("POST", "/jobs", `{"prompt":"a peacock's feather"}`).must(t, 202)
	f.token("somebody", "a long guess").must(t, 401)
	auditor := f.with(access)
	pages := func(path string) []byte {
		t.Helper()
		var all []json.RawMessage
		for n := 0; path != "" && n < 10; n++ {
			a := auditor.do("GET", path, "").must(t, 200)
			var page []json.RawMessage
			a.into(t, &page)
			all = append(all, page...)
			path, _, _ = strings.Cut(strings.TrimPrefix(a.header.Get("Link"), "<"), ">")
			if bytes.Contains(a.body, []byte("peacock")) {
				t.Errorf("the auditor reads %s", a.body)
			}
		}
		raw, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	var accounts []account
	answer{body: pages("/users?limit=2")}.into(t, &accounts)
	if len(accounts) != 3 || accounts[0].Username != "somebody" || accounts[1].Role != "auditor" || accounts[2].Username != "a-third" {
		t.Errorf("%+v", accounts)
	}
	var happened []api.AccountEvent
	answer{body: pages("/users/" + f.owner.String() + "/events?limit=1")}.into(t, &happened)
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
	auditor.do("GET", "/users?limit=101", "").must(t, 422)
	auditor.do("GET", "/users?after=x", "").must(t, 422)
	auditor.do("GET", "/users/"+f.owner.String()+"/events?after=-1", "").must(t, 422)
}

// security: ASVS 6.2.2, ASVS 6.2.3, ASVS 7.4.3
func TestChangingThePasswordOverHTTP(t *testing.T) {
	f := newFixture(t)
	const path = "/users/me/password"
	f.with("").do("PUT", path, `{"current_password":"a long sentence","new_password":"another sentence"}`).must(t, 401)
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
		a := f.do("PUT", path, body)
		a.refused(t, want.status, want.code)
		var p struct {
			Errors []struct{ Location string }
		}
		if a.into(t, &p); len(p.Errors) == 0 || p.Errors[0].Location != want.where || bytes.Contains(a.body, []byte("sentence")) {
			t.Errorf("%s: %s, want %s", body, a.body, want.where)
		}
	}
	if a := f.do("PUT", path, `{"current_password":"a long sentence","new_password":"another sentence"}`).must(t, 204); len(a.body) != 0 {
		t.Errorf("%s", a.body)
	}
	f.token("somebody", "a long sentence").must(t, 401)
	f.token("somebody", "another sentence").must(t, 200)
}

func TestSigningOutEverywhereOverHTTP(t *testing.T) {
	f := newFixture(t)
	var tokens struct {
		RefreshToken string `json:"refresh_token"`
	}
	f.token("somebody", "a long sentence").must(t, 200).into(t, &tokens)
	f.do("DELETE", "/users/me/sessions", "").must(t, 204)
	f.do("POST", "/token", "grant_type=refresh_token&refresh_token="+tokens.RefreshToken, "Content-Type", "application/x-www-form-urlencoded").
		refused(t, 401, "invalid_refresh_token")
	f.token("somebody", "a long sentence").must(t, 200)
}

// TestAnErasedAccountIsGone looks for what is left, with an access token of before.
//
// security: ASVS 7.4.2
func TestAnErasedAccountIsGone(t *testing.T) {
	f := newFixture(t)
	var first, keyed job
	f.do("POST", "/jobs", prompt).must(t, 202).into(t, &first)
	f.do("POST", "/jobs", prompt, "Idempotency-Key", "k").must(t, 202).into(t, &keyed)
	f.do("DELETE", "/users/me", `{"password":"a long guess"}`).refused(t, 403, "wrong_password")
	f.do("DELETE", "/users/me", `{}`).must(t, 422)
	f.do("DELETE", "/users/me", "").must(t, 400)
	f.do("GET", "/jobs/"+first.ID, "").must(t, 200)
	f.do("DELETE", "/users/me", `{"password":"a long sentence"}`).must(t, 204)

	for _, id := range []string{first.ID, keyed.ID} {
		j, err := f.store.Job(t.Context(), uuid.MustParse(id))
		if err != nil || j.State != events.Cancelled || !j.Erased || j.Prompt != "" {
			t.Errorf("%+v, %v", j, err)
		}
	}
	var key []byte
	if err := f.db.Owner.QueryRow(t.Context(), `select wrapped from owner_keys where owner = $1`, f.owner).Scan(&key); err != nil || key != nil {
		t.Errorf("the key is there still: %v", err)
	}
	for _, path := range []string{"/users/me", "/jobs/" + first.ID, "/jobs/" + first.ID + "/events", "/history"} {
		f.do("GET", path, "").refused(t, 401, "invalid_access_token")
	}
	for _, headers := range [][]string{nil, {"Idempotency-Key", "new"}, {"Idempotency-Key", "k"}} {
		f.do("POST", "/jobs", prompt, headers...).refused(t, 401, "invalid_access_token")
	}
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/jobs/" + first.ID + "/cancel", ""},
		{"PUT", "/users/me/password", `{"current_password":"a long sentence","new_password":"another sentence"}`},
		{"DELETE", "/users/me", `{"password":"a long sentence"}`},
		{"DELETE", "/users/me/sessions", ""},
	} {
		f.do(c.method, c.path, c.body).refused(t, 401, "invalid_access_token")
	}
	f.token("somebody", "a long sentence").refused(t, 401, "invalid_credentials")
	f.do("POST", "/users", `{"username":"SOMEBODY","password":"another sentence"}`).refused(t, 409, "username_taken")
	if n, wrong, err := f.store.CheckHistory(t.Context()); err != nil || len(wrong) > 0 || n != 2 {
		t.Errorf("%d of %d rows of the history are wrong, %v", len(wrong), n, err)
	}
	id, access := f.user("the-admin")
	if _, err := f.accounts().SetRole(t.Context(), id, auth.Admin); err != nil {
		t.Fatal(err)
	}
	admin := f.with(access)
	var all []account
	admin.do("GET", "/users", "").must(t, 200).into(t, &all)
	if len(all) != 2 || all[0].ID != f.owner || all[0].Username != "" || all[0].ErasedAt == nil {
		t.Errorf("%+v", all)
	}
	var happened []api.AccountEvent
	admin.do("GET", "/users/"+f.owner.String()+"/events", "").must(t, 200).into(t, &happened)
	if len(happened) < 3 || happened[0].Username != "" || happened[len(happened)-1].Type != "account.erased" {
		t.Errorf("%+v", happened)
	}
	admin.do("POST", "/users/"+f.owner.String()+"/enable", "").refused(t, 409, "account_erased")
}

// TestGuessingOverHTTP guesses at a name that there is and at one that there is not.
//
// security: ASVS 6.3.1, API2:2023, API6:2023
func TestGuessingOverHTTP(t *testing.T) {
	f := newFixture(t)
	var refused []string
	for _, name := range []string{"somebody", "nobody-at-all"} {
		guesses := 0
		a := f.token(name, "a long guess")
		// The first waits are short, and over on a slow machine before the next guess.
		for ; a.status == http.StatusUnauthorized && guesses < 20; guesses++ {
			a.refused(t, 401, "invalid_credentials")
			a = f.token(name, "a long guess")
		}
		if guesses < 10 {
			t.Errorf("%s: refused after %d guesses", name, guesses)
		}
		a.refused(t, http.StatusTooManyRequests, "too_many_wrong_passwords")
		if after, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || after < 1 || after > 900 {
			t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
		}
		var p struct{ Title, Detail string }
		a.into(t, &p)
		refused = append(refused, p.Title+strings.TrimRight(p.Detail, "0123456789 s"))
	}
	if refused[0] != refused[1] {
		t.Errorf("%q tells that there is such a name, %q that there is not", refused[0], refused[1])
	}
}
