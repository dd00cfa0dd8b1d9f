package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"colophon/client"
	"colophon/internal/pg/pgtest"
	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

// The first three tests make the same checks as the tests of the tutorial that this
// project is based on.

func TestTextIsGeneratedAndKeptInTheHistory(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits")
	c := apitest.NewUser(t, s.URL, "testuser")
	var text struct {
		ID            string `json:"id"`
		GeneratedText string `json:"generated_text"`
		ModelName     string `json:"model_name"`
		CreatedAt     string `json:"created_at"`
	}
	c.Do("POST", "/generate", `{"prompt":"Once upon a time","max_length":50}`).Must(t, 200).Into(t, &text)
	if !strings.HasPrefix(text.GeneratedText, "Once upon a time") || len(text.GeneratedText) == len("Once upon a time") {
		t.Errorf("generated %q", text.GeneratedText)
	}
	if _, err := time.Parse(time.RFC3339, text.CreatedAt); err != nil || text.ModelName != "opticks" {
		t.Errorf("%+v", text)
	}
	var history []client.Job
	c.Do("GET", "/history", "").Must(t, 200).Into(t, &history)
	if len(history) != 1 || history[0].ID != text.ID || history[0].GeneratedText != text.GeneratedText || history[0].Prompt != "Once upon a time" {
		t.Errorf("history %+v", history)
	}
}

func TestRequestWithoutAnAccessTokenIsRefused(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits")
	stranger := anonymous(t, s.URL)
	forged := stranger.As("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.")
	for _, route := range []string{"POST /generate", "POST /jobs", "GET /history", "GET /jobs/018f0000-0000-7000-8000-000000000000", "GET /jobs/x/events", "POST /jobs/x/cancel"} {
		method, path, _ := strings.Cut(route, " ")
		for _, c := range []apitest.Client{stranger, forged} {
			a := c.Do(method, path, `{"prompt":"hi"}`)
			a.Refused(t, 401, "")
			if !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("%s: WWW-Authenticate %q", route, a.Header.Get("WWW-Authenticate"))
			}
		}
	}
}

// TestPagesReferToNoOtherHost reads the pages and all files that the pages refer to. No
// page may refer to another host.
//
// security: ASVS 3.6.1
func TestPagesReferToNoOtherHost(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits")
	c := anonymous(t, s.URL)
	docs := c.Do("GET", "/docs", "").Must(t, 200)
	if !bytes.Contains(docs.Body, []byte("Swagger UI")) {
		t.Error("/docs does not say Swagger UI")
	}
	for _, path := range []string{"/", "/docs"} {
		page := c.Do("GET", path, "").Must(t, 200)
		if policy := page.Header.Get("Content-Security-Policy"); strings.Contains(policy, "unsafe") || !strings.Contains(policy, "default-src 'none'") {
			t.Errorf("%s: policy %q", path, policy)
		}
		for quoted := range strings.SplitSeq(string(page.Body), `"`) {
			if strings.HasPrefix(quoted, "/") && !strings.ContainsAny(quoted, " {") {
				c.Do("GET", quoted, "").Must(t, 200)
			}
			if strings.HasPrefix(quoted, "http") || strings.HasPrefix(quoted, "//") {
				t.Errorf("%s refers to %s", path, quoted)
			}
		}
	}
	var description struct {
		OpenAPI string
		Paths   map[string]any
	}
	c.Do("GET", "/openapi.json", "").Must(t, 200).Into(t, &description)
	if !strings.HasPrefix(description.OpenAPI, "3.1") || description.Paths["/generate"] == nil {
		t.Errorf("openapi.json: %+v", description)
	}
	c.Do("GET", "/openapi.yaml", "").Must(t, 200)
	tag := c.Do("GET", "/assets/favicon.svg", "").Must(t, 200).Header.Get("ETag")
	c.Do("GET", "/assets/favicon.svg", "", "If-None-Match", tag).Must(t, 304)
	c.Do("GET", "/healthz", "").Must(t, 200)
	c.Do("GET", "/readyz", "").Must(t, 200)
	// An attacker can make a host name resolve to this machine. The service must refuse
	// such a host name.
	c.Do("GET", "/docs", "", "Host", "rebound.example").Refused(t, 421, "misdirected")
}

// TestStreamResumesAtEveryEvent cuts a stream after each of its events and resumes it.
// The client must receive every event exactly once.
func TestStreamResumesAtEveryEvent(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits")
	c := apitest.NewUser(t, s.URL, "resumer")
	id := c.Submit(`{"prompt":"The rays of light","max_length":120,"seed":7}`)
	whole := follow(c, id, "", 0)
	if n := len(whole); n < 4 || whole[0].Event != "job.accepted" || whole[1].Event != "job.started" || whole[n-1].Event != "job.completed" {
		t.Fatalf("messages %+v", whole)
	}
	var text strings.Builder
	for i, m := range whole {
		var e struct {
			Version int
			Type    string
			At      time.Time
			Text    string
		}
		if err := json.Unmarshal([]byte(m.Data), &e); err != nil {
			t.Fatal(err)
		}
		if m.ID != strconv.Itoa(i+1) || e.Version != i+1 || e.Type != m.Event || e.At.IsZero() {
			t.Errorf("message %d: %+v", i+1, m)
		}
		text.WriteString(e.Text)
	}
	for cut := range len(whole) {
		first := []apitest.Message{}
		last := ""
		if cut > 0 {
			first = follow(c, id, "", cut)
			last = first[cut-1].ID
		}
		if got := append(first, follow(c, id, last, 0)...); !slices.Equal(got, whole) {
			t.Errorf("cut at %d: %+v", cut, got)
		}
	}
	// A stream that starts after the last event must end at once.
	if rest := follow(c, id, strconv.Itoa(len(whole)), 0); len(rest) != 0 {
		t.Errorf("after the end: %+v", rest)
	}
	var list []json.RawMessage
	c.Do("GET", "/jobs/"+id+"/events?after=1", "").Must(t, 200).Into(t, &list)
	if len(list) != len(whole)-1 || string(list[0]) != whole[1].Data {
		t.Errorf("as JSON: %s", list)
	}
	var done client.Job
	c.Do("GET", "/jobs/"+id, "").Must(t, 200).Into(t, &done)
	if done.Completion != text.String() || done.State != "completed" || done.Version != len(whole) {
		t.Errorf("job %+v, streamed %q", done, text.String())
	}
}

func TestJobIsPolledAndWaitedFor(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits")
	c := apitest.NewUser(t, s.URL, "poller")
	a := c.Do("POST", "/jobs", `{"prompt":"Light","max_length":30}`, "Prefer", "wait=60").Must(t, 200)
	if got := a.Header.Get("Preference-Applied"); got != "wait=60" {
		t.Errorf("Preference-Applied %q", got)
	}
	a = c.Do("POST", "/generate", `{"prompt":"Light","max_length":30}`, "Prefer", "respond-async").Must(t, 202)
	if got := a.Header.Get("Preference-Applied"); got != "respond-async" {
		t.Errorf("Preference-Applied %q", got)
	}
	var j client.Job
	for deadline := time.Now().Add(time.Minute); j.State != "completed"; {
		if time.Now().After(deadline) {
			t.Fatalf("still %+v", j)
		}
		a = c.Do("GET", a.Header.Get("Location"), "").Must(t, 200)
		a.Into(t, &j)
		a.Header.Set("Location", "/jobs/"+j.ID)
	}
	if j.Usage.TotalTokens > 30 || j.Usage.CompletionTokens == 0 || j.GeneratedText != j.Prompt+j.Completion {
		t.Errorf("job %+v", j)
	}
}

func TestCancelIsIdempotent(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits")
	c := apitest.NewUser(t, s.URL, "canceller")
	id := c.Submit(`{"prompt":"Light","max_new_tokens":250,"temperature":1.5,"top_k":0}`)
	var first, second client.Job
	c.Do("POST", "/jobs/"+id+"/cancel", "").Must(t, 200).Into(t, &first)
	if first.State != "cancelled" && first.State != "completed" { // the job may have ended before the cancellation
		t.Fatalf("after cancel: %+v", first)
	}
	c.Do("POST", "/jobs/"+id+"/cancel", "").Must(t, 200).Into(t, &second)
	if first.Version != second.Version {
		t.Errorf("cancelling again changed version %d to %d", first.Version, second.Version)
	}
	messages := follow(c, id, "", 0)
	if last := messages[len(messages)-1]; last.Event != "job."+string(first.State) {
		t.Errorf("the stream ends with %+v", last)
	}
}

func TestSameSeedGivesTheSameText(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits")
	c := apitest.NewUser(t, s.URL, "repeater")
	var texts []string
	for _, seed := range []int{5, 5, 6} {
		var j client.Job
		c.Do("POST", "/generate", fmt.Sprintf(`{"prompt":"The colours of","max_length":60,"seed":%d}`, seed)).Must(t, 200).Into(t, &j)
		texts = append(texts, j.GeneratedText)
	}
	if texts[0] != texts[1] || texts[0] == texts[2] {
		t.Errorf("seeds 5, 5, 6 gave %q", texts)
	}
	// A zero must not count as a missing value. At temperature 0 the seed must have no
	// effect.
	texts = nil
	for _, seed := range []int{5, 6} {
		var j client.Job
		c.Do("POST", "/generate", fmt.Sprintf(`{"prompt":"The colours of","max_length":60,"temperature":0,"top_k":0,"seed":%d}`, seed)).Must(t, 200).Into(t, &j)
		texts = append(texts, j.GeneratedText)
	}
	if texts[0] != texts[1] {
		t.Errorf("temperature 0 gave %q", texts)
	}
}

func TestJobsOfOthersAreNotFound(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits")
	one, other := apitest.NewUser(t, s.URL, "owner-one"), apitest.NewUser(t, s.URL, "owner-two")
	id := one.Submit(`{"prompt":"Light","max_length":20}`)
	for _, route := range []string{"GET /jobs/" + id, "GET /jobs/" + id + "/events", "POST /jobs/" + id + "/cancel"} {
		method, path, _ := strings.Cut(route, " ")
		there := other.Do(method, path, "").Refused(t, 404, "not_found")
		nowhere := other.Do(method, strings.Replace(path, id, "018f0000-0000-7000-8000-000000000000", 1), "").Refused(t, 404, "not_found")
		if there.Detail != nowhere.Detail {
			t.Errorf("%s distinguishes the job of another user from no job", route)
		}
	}
	var history []client.Job
	other.Do("GET", "/history", "").Must(t, 200).Into(t, &history)
	if len(history) != 0 {
		t.Errorf("the history of another user: %+v", history)
	}
}

func TestAccountsKeepTheirSecrets(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits")
	c := anonymous(t, s.URL)
	apitest.NewUser(t, s.URL, "Ångström")
	c.Do("POST", "/users", `{"username":"ångström","password":"another one"}`).Refused(t, 409, "username_taken")
	const secret = "hunter2-canary"
	for name, body := range map[string]string{
		"a short password":         `{"username":"somebody","password":"hunter2"}`,
		"a short name":             `{"username":"ab","password":"` + secret + `"}`,
		"brackets in the name":     `{"username":"a<b>c","password":"` + secret + `"}`,
		"a newline in the name":    `{"username":"a\nbcd","password":"` + secret + `"}`,
		"a blank name":             `{"username":"     ","password":"` + secret + `"}`,
		"an unknown field":         `{"username":"somebody","password":"` + secret + `","admin":true}`,
		"a password of wrong type": `{"username":"somebody","password":["` + secret + `"]}`,
		"a password too long":      `{"username":"somebody","password":"` + secret + strings.Repeat("x", 300) + `"}`,
	} {
		a := c.Do("POST", "/users", body)
		a.Refused(t, 422, "")
		if bytes.Contains(a.Body, []byte("hunter2")) {
			t.Errorf("%s: the answer repeats the password: %s", name, a.Body)
		}
	}
	a := c.Do("POST", "/users", `{"username":"x","password":"`+secret)
	a.Refused(t, 400, "invalid_request")
	if bytes.Contains(a.Body, []byte(secret)) {
		t.Errorf("the answer repeats broken JSON: %s", a.Body)
	}
	wrong := c.Form("/token", "username", "Ångström", "password", "wrong password").Refused(t, 401, "invalid_credentials")
	nobody := c.Form("/token", "username", "no such user", "password", "wrong password").Refused(t, 401, "invalid_credentials")
	if wrong.Detail != nobody.Detail {
		t.Error("sign-in distinguishes known names from unknown ones")
	}
	c.Form("/token", "username", "Ångström").Refused(t, 400, "invalid_request")
	c.Form("/token", "grant_type", "magic").Refused(t, 400, "invalid_request")
	c.Form("/token", "grant_type", "refresh_token", "refresh_token", "crt_x").Refused(t, 401, "invalid_refresh_token")
	var tokens, next apitest.Tokens
	c.Form("/token", "grant_type", "password", "username", "ÅNGSTRÖM", "password", apitest.Password).Must(t, 200).Into(t, &tokens)
	if tokens.ExpiresIn < 60 || tokens.Refresh == "" {
		t.Errorf("tokens expire in %d s", tokens.ExpiresIn)
	}
	c.Form("/token", "grant_type", "refresh_token", "refresh_token", tokens.Refresh).Must(t, 200).Into(t, &next)
	c.As(next.Access).Do("GET", "/history", "").Must(t, 200)
	if next.Refresh == tokens.Refresh {
		t.Error("the refresh token was not rotated")
	}
}

// TestUnknownRoutesAreProblems requests routes and methods that do not exist. Each answer
// must be a problem with the right code. Every answer must have the security headers.
//
// security: ASVS 4.1.4, ASVS 13.4.3, ASVS 13.4.4
func TestUnknownRoutesAreProblems(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits")
	c := anonymous(t, s.URL)
	c.Do("GET", "/nowhere", "").Refused(t, 404, "no_such_route")
	c.Do("GET", "/assets/", "").Refused(t, 404, "no_such_route")
	c.Do("GET", "/assets/nothing.js", "").Refused(t, 404, "no_such_route")
	a := c.Do("DELETE", "/generate", "")
	a.Refused(t, 405, "method_not_allowed")
	if a.Header.Get("Allow") != "POST" {
		t.Errorf("Allow %q", a.Header.Get("Allow"))
	}
	for _, path := range []string{"/", "/docs", "/nowhere", "/healthz", "/history", "/assets/favicon.svg"} {
		h := c.Do("GET", path, "").Header
		for _, name := range []string{"X-Request-Id", "Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Cache-Control"} {
			if h.Get(name) == "" {
				t.Errorf("%s has no %s", path, name)
			}
		}
	}
}

// TestPromptsAndTextsAreSealedInTheDatabase searches every table for a prompt and its
// text. No row may contain them.
//
// security: ASVS 11.3.2
func TestPromptsAndTextsAreSealedInTheDatabase(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits")
	c := apitest.NewUser(t, s.URL, "keeper")
	const canary = "peacockfeather"
	var j client.Job
	c.Do("POST", "/generate", `{"prompt":"the `+canary+` of","max_length":60,"stop":["stop-`+canary+`"]}`, "Idempotency-Key", canary).Must(t, 200).Into(t, &j)
	words := strings.Fields(j.Completion)
	secrets := []string{canary, strings.Join(words[:min(4, len(words))], " ")}

	rows, _ := s.db.Owner.Query(t.Context(), `
		select format('%I.%I', schemaname, tablename) from pg_tables where schemaname not in ('pg_catalog', 'information_schema')`)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || !slices.Contains(tables, "river.river_job") || !slices.Contains(tables, "public.events") || !slices.Contains(tables, "public.idempotency_keys") {
		t.Fatalf("tables %v, %v", tables, err)
	}
	seen := 0
	for _, table := range tables {
		rows, _ := s.db.Owner.Query(t.Context(), `select row_to_json(r)::text from `+table+` r`)
		all, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range all {
			seen++
			for _, secret := range secrets {
				if strings.Contains(row, secret) || strings.Contains(row, fmt.Sprintf("%x", secret)) {
					t.Errorf("%q is in %s: %.200s", secret, table, row)
				}
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d rows in all tables", seen)
	}
}

// TestPrivatePostgresKeepsDataAcrossARestart stops the service and starts it again with
// the same data directory. The history and the account must still exist. Before the stop,
// a second `up` must be refused. A worker that uses the private Postgres must end when
// this Postgres ends.
func TestPrivatePostgresKeepsDataAcrossARestart(t *testing.T) {
	t.Parallel()
	data := pgtest.Dir(t)
	start := func() *programtest.Process {
		return programtest.Start(t, nil, "up", "--listen", "127.0.0.1:0", "--data", data)
	}
	s := start()
	c := apitest.NewUser(t, s.URL, "returning")
	var before, after []client.Job
	c.Do("POST", "/generate", `{"prompt":"Light","max_length":20}`).Must(t, 200)
	c.Do("GET", "/history", "").Must(t, 200).Into(t, &before)
	_, stderr, code := programtest.Run(t, nil, "", "up", "--listen", "127.0.0.1:0", "--data", data)
	if who := fmt.Sprintf("process %d, up --listen 127.0.0.1:0", s.PID()); code != 1 || !strings.Contains(stderr, who) {
		t.Errorf("a second up ended with %d and %s, want %s", code, stderr, who)
	}
	worker := programtest.Start(t, nil, "worker", "--data", data, "--grace", "1s")
	s.Stop()
	if code := worker.Exit(programtest.Patience); code != 1 || !strings.Contains(worker.Log(), "the private Postgres has ended") {
		t.Errorf("without its Postgres, the worker ended with %d", code)
	}
	if info, err := os.Stat(filepath.Join(data, "master.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("master.key: %v, %v", info, err)
	}
	s = start()
	t.Cleanup(s.Stop)
	anonymous(t, s.URL).As(c.Access).Do("GET", "/history", "").Must(t, 200).Into(t, &after)
	if len(before) != 1 || !reflect.DeepEqual(before, after) {
		t.Errorf("history before %+v and after %+v", before, after)
	}
	signIn(t, s.URL, "returning")
}

func TestJobsAreRateLimitedByDefault(t *testing.T) {
	t.Parallel()
	s := up(t)
	c := apitest.NewUser(t, s.URL, "hasty")
	allowed := 0
	for range 10 {
		a := c.Do("POST", "/jobs", `{"prompt":"Light","max_length":10}`)
		if a.Status == http.StatusAccepted {
			allowed++
			continue
		}
		a.Refused(t, 429, "rate_limit_exceeded")
		if wait, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || wait < 1 || wait > 60 {
			t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
		}
		if a.Header.Get("RateLimit") == "" || a.Header.Get("RateLimit-Policy") != `"jobs";q=5;w=60` {
			t.Errorf("headers %v", a.Header)
		}
	}
	if allowed != 5 {
		t.Errorf("%d jobs were allowed in a minute, want 5", allowed)
	}
}
