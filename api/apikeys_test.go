package api_test

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/internal/auth"
	"colophon/internal/limit"
	"colophon/test/apitest"
)

// apiKey is an API key as the service answers it.
type apiKey struct {
	ID, Name, Prefix, Key string
	Scopes                []string
	Generations           int        `json:"generations_per_minute"`
	Tokens                int        `json:"tokens_per_day"`
	CreatedAt             time.Time  `json:"created_at"`
	ExpiresAt             *time.Time `json:"expires_at"`
	LastUsedAt            *time.Time `json:"last_used_at"`
}

// createKey creates an API key of the user of a client.
func createKey(c apitest.Client, body string) (key apiKey) {
	c.T.Helper()
	c.Do("POST", "/keys", body).Must(c.T, 201).Into(c.T, &key)
	return key
}

// TestKeyIsShownOnceAndRevoked creates, uses, lists and revokes a key. Only the first answer
// may have the key itself, and the log must name the key's id alone.
//
// security: ASVS 7.4.1, ASVS 16.2.5
func TestKeyIsShownOnceAndRevoked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	k := createKey(f.Client, fmt.Sprintf(`{"name":"night shift","expires_at":%q,"generations_per_minute":9}`, expires.Format(time.RFC3339)))
	if k.Name != "night shift" || !strings.HasPrefix(k.Key, k.Prefix) || len(k.Prefix) != 16 || len(k.Key) != 50 || strings.Join(k.Scopes, " ") != "generate read" ||
		k.Generations != 9 || k.ExpiresAt == nil || !k.ExpiresAt.Equal(expires) || k.LastUsedAt != nil || time.Since(k.CreatedAt).Abs() > time.Minute {
		t.Errorf("%+v", k)
	}
	holder := f.As(k.Key)
	job := holder.Submit(prompt)
	line := f.line("request", holder.Do("GET", "/jobs/"+job, "").Must(t, 200))
	if !strings.Contains(line, " account="+f.owner.String()) || !strings.Contains(line, " key="+k.ID) {
		t.Errorf("%q does not name the account and the key", line)
	}
	f.Do("GET", "/jobs/"+job, "").Must(t, 200) // the job belongs to the account
	var listed []apiKey
	a := f.Do("GET", "/keys", "").Must(t, 200)
	a.Into(t, &listed)
	if want := k.Key[len(k.Prefix):]; len(listed) != 1 || listed[0].ID != k.ID || listed[0].Key != "" || strings.Contains(string(a.Body), want) {
		t.Errorf("%s", a.Body)
	}
	var events []struct {
		Type, Key, Name, By string
		Scopes              []string
		ExpiresAt           *time.Time `json:"expires_at"`
	}
	_, other := f.user("somebody-else")
	f.As(other).Do("DELETE", "/keys/"+k.ID, "").Refused(t, 404, "not_found")
	f.Do("DELETE", "/keys/"+k.ID, "").Must(t, 204)
	refused := holder.Do("GET", "/jobs/"+job, "")
	refused.Refused(t, 401, "invalid_api_key")
	if got := refused.Header.Get("WWW-Authenticate"); got != `Bearer realm="colophon", error="invalid_token"` {
		t.Errorf("WWW-Authenticate: %s", got)
	}
	f.Do("DELETE", "/keys/"+k.ID, "").Refused(t, 404, "not_found")
	f.Do("GET", "/keys", "").Must(t, 200).Into(t, &listed)
	if len(listed) != 0 {
		t.Errorf("%+v", listed)
	}
	if err := f.db.Owner.QueryRow(t.Context(), `update accounts set role = 'auditor' where id = $1 returning id`, f.owner).Scan(new(uuid.UUID)); err != nil {
		t.Fatal(err)
	}
	f.Do("GET", "/users/"+f.owner.String()+"/events", "").Must(t, 200).Into(t, &events)
	if n := len(events); n < 2 || events[n-2].Type != "key.created" || events[n-2].Key != k.ID || events[n-2].Name != k.Name || len(events[n-2].Scopes) != 2 ||
		events[n-2].ExpiresAt == nil || events[n-1].Type != "key.revoked" || events[n-1].Key != k.ID || events[n-1].By != "" {
		t.Errorf("%+v", events)
	}
	if log := f.log.String(); strings.Contains(log, k.Key[len(k.Prefix):]) || strings.Contains(log, "night shift") {
		t.Error("the log has the key or its name")
	}
}

// TestKeyRequestsAreChecked sends requests for keys that must be refused.
//
// security: ASVS 2.2.1
func TestKeyRequestsAreChecked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for body, code := range map[string]string{
		`{}`:                                   "invalid_request",
		`{"name":""}`:                          "invalid_request",
		`{"name":" "}`:                         "key_name",
		`{"name":"a\u0000"}`:                   "key_name",
		`{"name":"a\u001b[31m"}`:               "key_name",
		`{"name":"a","scopes":[]}`:             "invalid_request",
		`{"name":"a","scopes":["*"]}`:          "invalid_request",
		`{"name":"a","expires_at":"tomorrow"}`: "invalid_request",
		`{"name":"a","expires_at":"2020-01-01T00:00:00Z"}`:         "expiry_in_past",
		`{"name":"a","expires_at":"0001-01-01T00:00:00Z"}`:         "expiry_in_past", // the zero time of Go
		`{"name":"a","expires_at":"0001-01-01T00:00:00.0000001Z"}`: "expiry_in_past",
		`{"name":"a","expires_at":"9999-12-31T23:59:59-01:00"}`:    "invalid_request", // the year 10000 in UTC
		`{"name":"a","generations_per_minute":0}`:                  "invalid_request",
		`{"name":"a","generations_per_minute":1000001}`:            "invalid_request",
		`{"name":"a","tokens_per_day":0}`:                          "invalid_request",
		`{"name":"a","tokens_per_day":1000000001}`:                 "invalid_request",
		`{"name":"a","key":"sk-colophon-1"}`:                       "invalid_request",
		`{"name":"` + strings.Repeat("n", 101) + `"}`:              "invalid_request",
		`{"name":"a","scopes":["read","read","read","generate"]}`:  "invalid_request",
	} {
		if a := f.Do("POST", "/keys", body); a.Status != 422 || a.Code() != code {
			t.Errorf("%s: %d %s, want 422 %s", body, a.Status, a.Body, code)
		}
	}
	a := f.Do("POST", "/keys", `{"name":"a","scopes":["admin","read"]}`)
	if a.Refused(t, 403, "forbidden"); !strings.Contains(string(a.Body), "body.scopes") {
		t.Errorf("%s", a.Body)
	}
	if k := createKey(f.Client, `{"name":"a","scopes":["read","read"],"expires_at":null,"generations_per_minute":null}`); strings.Join(k.Scopes, " ") != "read" || k.ExpiresAt != nil {
		t.Errorf("%+v", k)
	}
}

// TestEveryOperationNamesItsScope sends every operation of the OpenAPI description with keys
// of each scope. A key without the operation's scope must be refused, and the refusal and the
// description must name the scope. A key must open no operation on credentials.
//
// security: ASVS 8.1.1, ASVS 8.2.1, API5:2023
func TestEveryOperationNamesItsScope(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := f.db.Owner.Exec(t.Context(), `update accounts set role = 'admin' where id = $1`, f.owner); err != nil {
		t.Fatal(err)
	}
	var description struct {
		Paths map[string]map[string]struct {
			Description string
			Scope       string `json:"x-scope"`
			Security    []map[string][]string
		}
	}
	f.Do("GET", "/openapi.json", "").Must(t, 200).Into(t, &description)
	keys := map[string]apitest.Client{}
	for _, scope := range []string{"generate", "read", "admin"} {
		keys[scope] = f.As(createKey(f.Client, fmt.Sprintf(`{"name":"a","scopes":[%q]}`, scope)).Key)
	}
	refuseKeys := map[string]bool{
		"GET /keys": true, "POST /keys": true, "DELETE /keys/{id}": true, "PUT /users/me/password": true,
		"DELETE /users/me": true, "DELETE /users/me/sessions": true,
		"GET /users/me/sessions": true, "DELETE /users/me/sessions/{id}": true, "POST /detect": true,
		"GET /webhooks": true, "GET /webhooks/{id}": true, "POST /webhooks": true, "PATCH /webhooks/{id}": true, "DELETE /webhooks/{id}": true, "POST /webhooks/{id}/rotate": true,
		"POST /webhooks/{id}/ping": true, "POST /webhooks/{id}/deliveries/{delivery}/resend": true,
	}
	for path, item := range description.Paths {
		for method, op := range item {
			route := strings.ToUpper(method) + " " + path
			if len(op.Security) == 0 {
				continue
			}
			accepts := false
			for _, scheme := range op.Security {
				scopes, ok := scheme["apiKey"]
				accepts = accepts || ok
				if len(scopes) > 0 {
					t.Errorf("%s: the security scheme has scopes, which OpenAPI 3.0 does not allow", route)
				}
			}
			sentence := "An API key needs the scope " + op.Scope + "."
			if op.Scope == "any" {
				sentence = "An API key needs no certain scope."
			}
			if refuseKeys[route] {
				sentence = "API keys are refused."
			}
			if accepts == refuseKeys[route] || accepts != (op.Scope != "") || !strings.HasSuffix(op.Description, sentence) {
				t.Errorf("%s: accepts keys %v, scope %q: %s", route, accepts, op.Scope, op.Description)
			}
			for scope, c := range keys {
				a := c.Do(strings.ToUpper(method), concrete(path), "")
				switch {
				case refuseKeys[route]:
					a.Refused(t, 403, "key_not_allowed")
				case (scope == op.Scope || op.Scope == "any") && (a.Status == 401 || a.Status == 403):
					t.Errorf("%s with the scope %s: %d %s", route, scope, a.Status, a.Body)
				case scope != op.Scope && op.Scope != "any":
					a.Refused(t, 403, "insufficient_scope")
					if want := fmt.Sprintf(`Bearer realm="colophon", error="insufficient_scope", scope=%q`, op.Scope); a.Header.Get("WWW-Authenticate") != want {
						t.Errorf("WWW-Authenticate: %s, want %s", a.Header.Get("WWW-Authenticate"), want)
					}
				}
			}
		}
	}
}

// TestAdminKeyHasNoMoreThanTheRole uses a key with the scope admin while the role of its
// account changes.
//
// security: ASVS 8.2.1, ASVS 8.3.2, API5:2023
func TestAdminKeyHasNoMoreThanTheRole(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other, _ := f.user("somebody-else")
	set := func(role auth.Role) {
		t.Helper()
		if _, err := f.accounts().SetRole(t.Context(), f.owner, role); err != nil {
			t.Fatal(err)
		}
	}
	set(auth.Admin)
	key := f.As(createKey(f.Client, `{"name":"a","scopes":["admin"]}`).Key)
	disable := "/users/" + other.String() + "/disable"
	key.Do("POST", disable, "").Must(t, 200)
	set(auth.Auditor)
	key.Do("GET", "/users", "").Must(t, 200)
	key.Do("POST", disable, "").Refused(t, 403, "forbidden")
	set(auth.User)
	key.Do("GET", "/users", "").Refused(t, 403, "forbidden")
	key.Do("GET", "/audit", "").Refused(t, 403, "forbidden")
}

// TestGenerateKeyReadsNothing cancels a job with a key that may not read.
//
// security: API3:2023
func TestGenerateKeyReadsNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	job := f.Submit(prompt)
	key := f.As(createKey(f.Client, `{"name":"a","scopes":["generate"]}`).Key)
	a := key.Do("POST", "/jobs/"+job+"/cancel", "").Must(t, 200)
	var got struct {
		ID, State, Prompt, Completion string
		GeneratedText                 string `json:"generated_text"`
		Params                        any
	}
	if a.Into(t, &got); got.ID != job || got.State != "cancelled" || got.Prompt+got.Completion+got.GeneratedText != "" || got.Params != nil {
		t.Errorf("%s", a.Body)
	}
}

// TestUnknownKeysAreCountedBeforeTheQuery sends well-formed keys that nobody has. Beyond the
// anonymous limit they must cost no query, while a known key goes on.
//
// security: API4:2023
func TestUnknownKeysAreCountedBeforeTheQuery(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) {
		f.api.Limits = inMemory(f.T, 1000)
		var err error
		if f.api.Limits.Anonymous, err = limit.InMemory("anonymous", limit.Rate{Requests: 4, Per: time.Hour}); err != nil {
			f.T.Fatal(err)
		}
	})
	known := createKey(f.Client, `{"name":"a"}`).Key
	f.As(known).Do("GET", "/history", "").Must(t, 200)
	f.As(known[:49]+"_").Do("GET", "/history", "").Refused(t, 401, "invalid_api_key")
	// Nobody has this key of the documentation. Its checksum is right.
	const unknown = "sk-colophon-0123456789ABCDEFGHIJKLMNOPQRSTUV3maya6"
	for range 2 {
		a := f.As(unknown).Do("GET", "/history", "")
		if a.Refused(t, 401, "invalid_api_key"); !strings.HasPrefix(a.Header.Get("RateLimit"), `"anonymous";`) {
			t.Errorf("%v", a.Header)
		}
	}
	if _, err := f.db.Owner.Exec(t.Context(), `alter table api_keys rename to gone`); err != nil {
		t.Fatal(err)
	}
	f.As(unknown).Do("GET", "/history", "").Refused(t, 429, "rate_limit_exceeded")
	f.As(known).Do("GET", "/history", "").Must(t, 200)
}

// TestStreamsEndWithTheirKey revokes keys in another process while a stream, a ticket's stream
// and a waiting request of each key are open. All of them must end within two seconds, and the
// job of the waiting request must go on.
//
// security: ASVS 7.4.1, ASVS 8.3.2
func TestStreamsEndWithTheirKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	elsewhere := f.accounts()
	k := createKey(f.Client, `{"name":"a"}`)
	holder := f.As(k.Key)
	id := holder.Submit(prompt)
	var ticket struct{ URL string }
	holder.Do("POST", "/jobs/"+id+"/ticket", "").Must(t, 200).Into(t, &ticket)
	open := func(c apitest.Client, path string) func() (apitest.Message, error, bool) {
		next, stop := iter.Pull2(c.Stream(t.Context(), path))
		t.Cleanup(stop)
		for {
			m, err, ok := next()
			if err != nil || !ok {
				t.Fatalf("the stream of %s ends: %v", path, err)
			}
			if m.Event == "job.accepted" {
				return next
			}
		}
	}
	streams := []func() (apitest.Message, error, bool){open(holder, "/jobs/"+id+"/events"), open(f.As(""), ticket.URL)}
	waits := make(chan apitest.Answer, 1)
	go func() {
		a, err := holder.Send(t.Context(), "POST", "/generate", prompt)
		if err != nil {
			t.Error(err)
		}
		waits <- a
	}()
	waited := f.newest(2)
	if err := elsewhere.RevokeKey(t.Context(), auth.CommandLine, f.owner, uuid.MustParse(k.ID)); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for _, next := range streams {
		for m, err, ok := next(); ok; m, err, ok = next() {
			if err != nil || m.Retry != "" {
				t.Errorf("%+v, %v", m, err)
			}
		}
	}
	if a := <-waits; a.Status != http.StatusUnauthorized || a.Code() != "invalid_api_key" {
		t.Errorf("the waiting request is answered %d %s", a.Status, a.Body)
	}
	took := time.Since(begin)
	t.Logf("all ended after %v", took)
	if took > 2*time.Second {
		t.Errorf("ended after %v, want 2 s at most", took)
	}
	if now, err := f.store.Job(t.Context(), waited.ID); err != nil || now.State.Final() {
		t.Errorf("the job of the waiting request: %+v, %v", now, err)
	}
	holder.Do("GET", "/jobs/"+id, "").Refused(t, 401, "invalid_api_key")
}

// TestStreamEndsWhenItsKeyExpires streams with a key until the key expires by the database's
// clock. Like a stream with an access token, it must end with a retry field.
func TestStreamEndsWhenItsKeyExpires(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) { f.api.Timeouts(time.Minute, time.Minute, time.Minute, 100*time.Millisecond) })
	id := f.Submit(prompt)
	k := createKey(f.Client, fmt.Sprintf(`{"name":"a","expires_at":%q}`, time.Now().Add(5*time.Minute).Format(time.RFC3339Nano)))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var last apitest.Message
	for m, err := range f.As(k.Key).Stream(ctx, "/jobs/"+id+"/events") {
		if err != nil {
			t.Fatal(err)
		}
		if last = m; m.Event == "job.accepted" {
			f.db.ShiftClock(t, 5*time.Minute) // less than until the deadline of the job
		}
	}
	if last.Retry == "" {
		t.Errorf("the last message is %+v, want one with retry", last)
	}
	f.As(k.Key).Do("GET", "/jobs/"+id, "").Refused(t, 401, "invalid_api_key")
}

// TestWhoHasAKeyCanRevokeIt presents keys to POST /revoke, as a service that scans for secrets
// does.
func TestWhoHasAKeyCanRevokeIt(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k := createKey(f.Client, `{"name":"a"}`)
	stranger := f.As("")
	for range 2 { // the answer must be the same for a revoked key
		if a := stranger.Form("/revoke", "token", k.Key).Must(t, 200); len(a.Body) > 0 {
			t.Errorf("%s", a.Body)
		}
	}
	stranger.Form("/revoke", "token", k.Prefix).Must(t, 200)
	f.As(k.Key).Do("GET", "/history", "").Refused(t, 401, "invalid_api_key")
	f.Do("GET", "/history", "").Must(t, 200) // the session goes on
}
