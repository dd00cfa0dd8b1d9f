package api_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// logBuffer is a log that is written from many sides.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

const form = "application/x-www-form-urlencoded"

// signIn returns new tokens of the fixture's user.
func (f *fixture) signIn() (access, refresh string) {
	f.t.Helper()
	var tokens struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
	}
	f.do("POST", "/token", "username=somebody&password=a+long+sentence", "Content-Type", form).must(f.t, 200).into(f.t, &tokens)
	return tokens.AccessToken, tokens.RefreshToken
}

func TestPublishedKeys(t *testing.T) {
	f := newFixture(t)
	f.access = ""
	a := f.do("GET", "/.well-known/jwks.json", "").must(t, 200)
	var set struct{ Keys []map[string]string }
	a.into(t, &set)
	if len(set.Keys) != 1 {
		t.Fatalf("%s", a.body)
	}
	delete(set.Keys[0], "kid")
	delete(set.Keys[0], "x")
	if diff := cmp.Diff(map[string]string{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig"}, set.Keys[0]); diff != "" {
		t.Error(diff) // a private part among others
	}
	if a.header.Get("Cache-Control") != "public, max-age=60" || a.header.Get("Content-Type") != "application/json" || a.header.Get("ETag") == "" {
		t.Errorf("%v", a.header)
	}
	again := f.do("GET", "/.well-known/jwks.json", "", "If-None-Match", a.header.Get("ETag")).must(t, 304)
	if len(again.body) > 0 || again.header.Get("ETag") != a.header.Get("ETag") {
		t.Errorf("%q %v", again.body, again.header)
	}
}

// security: ASVS 7.4.1, ASVS 10.4.9
func TestSigningOut(t *testing.T) {
	f := newFixture(t)
	revoke := func(values url.Values) answer {
		t.Helper()
		return f.do("POST", "/revoke", values.Encode(), "Content-Type", form, "Authorization", "")
	}
	for what, hint := range map[string]string{"access token": "access_token", "refresh token": "refresh_token", "wrong hint": "refresh_token", "no hint": ""} {
		access, refresh := f.signIn()
		values := url.Values{"token": {access}}
		if what == "refresh token" {
			values.Set("token", refresh)
		}
		if hint != "" {
			values.Set("token_type_hint", hint)
		}
		for range 2 { // it is the same whether there is something to end
			if a := revoke(values).must(t, 200); len(a.body) > 0 {
				t.Errorf("%s: %s", what, a.body)
			}
		}
		f.do("GET", "/history", "", "Authorization", "Bearer "+access).refused(t, 401, "invalid_access_token")
		f.do("POST", "/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}.Encode(), "Content-Type", form).
			refused(t, 401, "invalid_refresh_token")
	}
	for _, unknown := range []string{"x", "crt_" + strings.Repeat("A", 43), "a.b.c", strings.Repeat("A", 8192), "%00\x00"} {
		revoke(url.Values{"token": {unknown}}).must(t, 200)
	}
	revoke(url.Values{}).must(t, 400)
	revoke(url.Values{"token_type_hint": {"access_token"}}).must(t, 422)
	revoke(url.Values{"token": {""}}).must(t, 422)
	revoke(url.Values{"token": {strings.Repeat("A", 8193)}}).must(t, 422)
	f.do("POST", "/revoke", `{"token":"x"}`).must(t, 415)
	f.do("GET", "/revoke?token=x", "").must(t, 405)
	f.do("GET", "/history", "").must(t, 200) // another session
}

// TestTickets follows a job as EventSource does.
//
// security: ASVS 14.2.1
func TestTickets(t *testing.T) {
	f := newFixture(t)
	var j, other job
	f.do("POST", "/jobs", prompt).must(t, 202).into(t, &j)
	f.do("POST", "/jobs", prompt).must(t, 202).into(t, &other)
	path := "/jobs/" + j.ID + "/events"
	var issued []string
	ticket := func() string {
		t.Helper()
		var got struct {
			Ticket, URL string
			ExpiresIn   int `json:"expires_in"`
		}
		f.do("POST", "/jobs/"+j.ID+"/ticket", "").must(t, 200).into(t, &got)
		if got.URL != path+"?ticket="+got.Ticket || got.ExpiresIn != 30 {
			t.Errorf("%+v", got)
		}
		issued = append(issued, got.Ticket)
		return got.Ticket
	}
	source := func(path string, headers ...string) answer {
		t.Helper()
		return f.do("GET", path, "", append([]string{"Accept", "text/event-stream", "Authorization", ""}, headers...)...)
	}

	// One is good for one stream.
	first := ticket()
	req, err := http.NewRequestWithContext(t.Context(), "GET", f.url+path+"?ticket="+first, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	if id, err := lines.ReadString('\n'); err != nil || id != "id: 1\n" {
		t.Fatalf("%q, %v", id, err)
	}
	source(path+"?ticket="+first).refused(t, 401, "invalid_ticket")
	source(path+"?ticket="+first, "Last-Event-ID", "1").refused(t, 401, "invalid_ticket") // as EventSource comes back
	f.do("POST", "/jobs/"+j.ID+"/cancel", "").must(t, 200)
	rest, err := io.ReadAll(lines)
	if err != nil || !strings.Contains(string(rest), "event: job.cancelled") {
		t.Fatalf("%q, %v", rest, err)
	}
	// It resumes with another one.
	if a := source(path+"?after=1&ticket="+ticket()).must(t, 200); !strings.HasPrefix(string(a.body), "id: 2\n") {
		t.Errorf("%s", a.body)
	}

	// And for nothing else.
	wrong := ticket()
	source("/jobs/"+other.ID+"/events?ticket="+wrong).refused(t, 401, "invalid_ticket")
	source(path+"?ticket="+wrong).refused(t, 401, "invalid_ticket") // it has been presented
	for _, bad := range []string{"x", "cst_" + strings.Repeat("A", 43), strings.Repeat("A", 100)} {
		source(path+"?ticket="+bad).refused(t, 401, "invalid_ticket")
	}
	unused := ticket()
	f.do("GET", path+"?ticket="+unused, "", "Authorization", "").refused(t, 401, "missing_access_token") // not as JSON
	source(path+"?ticket=").refused(t, 401, "missing_access_token")
	for _, r := range [][2]string{{"GET", "/jobs/" + j.ID}, {"GET", "/history"}, {"POST", "/jobs/" + j.ID + "/cancel"}, {"POST", "/jobs/" + j.ID + "/ticket"}, {"POST", "/jobs"}} {
		f.do(r[0], r[1]+"?ticket="+unused, prompt, "Accept", "text/event-stream", "Authorization", "").refused(t, 401, "missing_access_token")
		f.do(r[0], r[1], prompt, "Authorization", "Bearer "+unused).refused(t, 401, "invalid_access_token")
	}
	source(path+"?ticket="+unused, "Authorization", "Bearer nonsense").refused(t, 401, "invalid_access_token") // one or the other
	source(path+"?ticket="+unused).must(t, 200)

	// Who may not read a job gets none for it.
	own := f.access
	_, f.access = f.user("somebody-else")
	f.do("POST", "/jobs/"+j.ID+"/ticket", "").refused(t, 404, "not_found")
	f.access = own
	f.do("POST", "/jobs/00000000-0000-7000-8000-000000000000/ticket", "").refused(t, 404, "not_found")
	f.do("POST", "/jobs/"+j.ID+"/ticket", "", "Authorization", "").refused(t, 401, "missing_access_token")

	// It dies with its session.
	mine := f.access
	f.access, _ = f.signIn()
	late := ticket()
	f.do("POST", "/revoke", url.Values{"token": {f.access}}.Encode(), "Content-Type", form).must(t, 200)
	source(path+"?ticket="+late).refused(t, 401, "invalid_ticket")
	f.access = mine

	log := f.log.String()
	if !strings.Contains(log, "route=\"GET /jobs/{id}/events\"") {
		t.Errorf("not the log: %.500s", log)
	}
	for _, secret := range append(issued, f.access, "?ticket", "ticket=") {
		if strings.Contains(log, secret) {
			t.Errorf("%.10s... is in the log", secret)
		}
	}
	// The description says so.
	raw := f.do("GET", "/openapi.json", "").must(t, 200)
	var spec struct {
		Paths map[string]map[string]struct {
			Security []map[string][]string
		}
	}
	if err := json.Unmarshal(raw.body, &spec); err != nil {
		t.Fatal(err)
	}
	for path, operations := range spec.Paths {
		for method, op := range operations {
			for _, scheme := range op.Security {
				if _, ok := scheme["ticket"]; ok != (path == "/jobs/{id}/events") && ok {
					t.Errorf("%s %s takes tickets", method, path)
				}
			}
		}
	}
}
