package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"colophon/internal/pg"
)

// TestService runs one service and looks at it from outside.
func TestService(t *testing.T) {
	s := up(t, dataDir(t), "--no-rate-limits")
	for name, test := range map[string]func(*testing.T, *service){
		"RegisterTokenGenerateHistory": testSeed,
		"WithoutAnAccessToken":         testUnauthorized,
		"Docs":                         testDocs,
		"Resume":                       testResume,
		"PollAndWait":                  testPollAndWait,
		"Cancel":                       testCancel,
		"BadInput":                     testBadInput,
		"OtherPeoplesJobs":             testOtherPeoplesJobs,
		"Accounts":                     testAccounts,
		"UnknownRoutes":                testUnknownRoutes,
		"NothingInTheClear":            testNothingInTheClear,
		"SameSeedSameText":             testSameSeed,
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

// The first of the three tests that the tutorial's service came with.
func testSeed(t *testing.T, s *service) {
	c := newUser(t, s, "testuser")
	var text struct {
		ID            string `json:"id"`
		GeneratedText string `json:"generated_text"`
		ModelName     string `json:"model_name"`
		CreatedAt     string `json:"created_at"`
	}
	c.do("POST", "/generate", `{"prompt":"Once upon a time","max_length":50}`).must(t, 200).into(t, &text)
	if !strings.HasPrefix(text.GeneratedText, "Once upon a time") || len(text.GeneratedText) == len("Once upon a time") {
		t.Errorf("generated %q", text.GeneratedText)
	}
	if _, err := time.Parse(time.RFC3339, text.CreatedAt); err != nil || text.ModelName != "opticks" {
		t.Errorf("%+v", text)
	}
	var history []job
	c.do("GET", "/history", "").must(t, 200).into(t, &history)
	if len(history) != 1 || history[0].ID != text.ID || history[0].GeneratedText != text.GeneratedText || history[0].Prompt != "Once upon a time" {
		t.Errorf("history %+v", history)
	}
}

// The second.
func testUnauthorized(t *testing.T, s *service) {
	stranger := &client{t: t, url: s.url}
	forged := &client{t: t, url: s.url, access: "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."}
	for _, route := range []string{"POST /generate", "POST /jobs", "GET /history", "GET /jobs/018f0000-0000-7000-8000-000000000000", "GET /jobs/x/events", "POST /jobs/x/cancel"} {
		method, path, _ := strings.Cut(route, " ")
		for _, c := range []*client{stranger, forged} {
			a := c.do(method, path, `{"prompt":"hi"}`)
			a.refused(t, 401)
			if !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("%s: WWW-Authenticate %q", route, a.header.Get("WWW-Authenticate"))
			}
		}
	}
}

// The third.
//
// security: ASVS 3.6.1
func testDocs(t *testing.T, s *service) {
	c := &client{t: t, url: s.url}
	docs := c.do("GET", "/docs", "").must(t, 200)
	if !bytes.Contains(docs.body, []byte("Swagger UI")) {
		t.Error("/docs does not say Swagger UI")
	}
	for _, path := range []string{"/", "/docs"} {
		page := c.do("GET", path, "").must(t, 200)
		if policy := page.header.Get("Content-Security-Policy"); strings.Contains(policy, "unsafe") || !strings.Contains(policy, "default-src 'none'") {
			t.Errorf("%s: policy %q", path, policy)
		}
		// Everything the page names is here.
		for quoted := range strings.SplitSeq(string(page.body), `"`) {
			if strings.HasPrefix(quoted, "/") && !strings.ContainsAny(quoted, " {") {
				c.do("GET", quoted, "").must(t, 200)
			}
			if strings.HasPrefix(quoted, "http") || strings.HasPrefix(quoted, "//") {
				t.Errorf("%s names %s", path, quoted)
			}
		}
	}
	var description struct {
		OpenAPI string
		Paths   map[string]any
	}
	c.do("GET", "/openapi.json", "").must(t, 200).into(t, &description)
	if !strings.HasPrefix(description.OpenAPI, "3.1") || description.Paths["/generate"] == nil {
		t.Errorf("openapi.json: %+v", description)
	}
	c.do("GET", "/openapi.yaml", "").must(t, 200)
	tag := c.do("GET", "/assets/favicon.svg", "").must(t, 200).header.Get("ETag")
	c.do("GET", "/assets/favicon.svg", "", "If-None-Match", tag).must(t, 304)
	c.do("GET", "/healthz", "").must(t, 200)
	c.do("GET", "/readyz", "").must(t, 200)
}

// testResume cuts a stream at every boundary between two events and resumes it.
func testResume(t *testing.T, s *service) {
	c := newUser(t, s, "resumer")
	j := c.submit(`{"prompt":"The rays of light","max_length":120,"seed":7}`)
	whole := c.follow(j.ID, "", 0)
	if n := len(whole); n < 4 || whole[0].event != "job.accepted" || whole[1].event != "job.started" || whole[n-1].event != "job.completed" {
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
		if err := json.Unmarshal([]byte(m.data), &e); err != nil {
			t.Fatal(err)
		}
		if m.id != strconv.Itoa(i+1) || e.Version != i+1 || e.Type != m.event || e.At.IsZero() {
			t.Errorf("message %d: %+v", i+1, m)
		}
		text.WriteString(e.Text)
	}
	for cut := range len(whole) {
		first := []message{}
		last := ""
		if cut > 0 {
			first = c.follow(j.ID, "", cut)
			last = first[cut-1].id
		}
		if got := append(first, c.follow(j.ID, last, 0)...); !slices.Equal(got, whole) {
			t.Errorf("cut at %d: %+v", cut, got)
		}
	}
	// After the last event there is nothing, and the stream ends at once.
	if rest := c.follow(j.ID, strconv.Itoa(len(whole)), 0); len(rest) != 0 {
		t.Errorf("after the end: %+v", rest)
	}
	var list []json.RawMessage
	c.do("GET", "/jobs/"+j.ID+"/events?after=1", "").must(t, 200).into(t, &list)
	if len(list) != len(whole)-1 || string(list[0]) != whole[1].data {
		t.Errorf("as JSON: %s", list)
	}
	var done job
	c.do("GET", "/jobs/"+j.ID, "").must(t, 200).into(t, &done)
	if done.Completion != text.String() || done.State != "completed" || done.Version != len(whole) {
		t.Errorf("the job %+v is not what was streamed: %q", done, text.String())
	}
}

func testPollAndWait(t *testing.T, s *service) {
	c := newUser(t, s, "poller")
	a := c.do("POST", "/jobs", `{"prompt":"Light","max_length":30}`, "Prefer", "wait=20").must(t, 200)
	if got := a.header.Get("Preference-Applied"); got != "wait=20" {
		t.Errorf("Preference-Applied %q", got)
	}
	a = c.do("POST", "/generate", `{"prompt":"Light","max_length":30}`, "Prefer", "respond-async").must(t, 202)
	if got := a.header.Get("Preference-Applied"); got != "respond-async" {
		t.Errorf("Preference-Applied %q", got)
	}
	var j job
	for deadline := time.Now().Add(time.Minute); j.State != "completed"; {
		if time.Now().After(deadline) {
			t.Fatalf("still %+v", j)
		}
		a = c.do("GET", a.header.Get("Location"), "").must(t, 200)
		a.into(t, &j)
		a.header.Set("Location", "/jobs/"+j.ID)
	}
	if j.Usage.TotalTokens > 30 || j.Usage.CompletionTokens == 0 || j.GeneratedText != j.Prompt+j.Completion {
		t.Errorf("job %+v", j)
	}
}

func testCancel(t *testing.T, s *service) {
	c := newUser(t, s, "canceller")
	j := c.submit(`{"prompt":"Light","max_new_tokens":250,"temperature":1.5,"top_k":0}`)
	var first, second job
	c.do("POST", "/jobs/"+j.ID+"/cancel", "").must(t, 200).into(t, &first)
	if first.State != "cancelled" && first.State != "completed" { // it may have been faster
		t.Fatalf("after cancel: %+v", first)
	}
	c.do("POST", "/jobs/"+j.ID+"/cancel", "").must(t, 200).into(t, &second)
	if first.Version != second.Version {
		t.Errorf("cancelling again changed version %d to %d", first.Version, second.Version)
	}
	messages := c.follow(j.ID, "", 0)
	if last := messages[len(messages)-1]; last.event != "job."+first.State {
		t.Errorf("the stream ends with %+v", last)
	}
}

func testSameSeed(t *testing.T, s *service) {
	c := newUser(t, s, "repeater")
	var texts []string
	for _, seed := range []int{5, 5, 6} {
		var j job
		c.do("POST", "/generate", fmt.Sprintf(`{"prompt":"The colours of","max_length":60,"seed":%d}`, seed)).must(t, 200).into(t, &j)
		texts = append(texts, j.GeneratedText)
	}
	if texts[0] != texts[1] || texts[0] == texts[2] {
		t.Errorf("seeds 5, 5, 6 gave %q", texts)
	}
	// Zero is a choice and not a missing value: without randomness the seed is idle.
	texts = nil
	for _, seed := range []int{5, 6} {
		var j job
		c.do("POST", "/generate", fmt.Sprintf(`{"prompt":"The colours of","max_length":60,"temperature":0,"top_k":0,"seed":%d}`, seed)).must(t, 200).into(t, &j)
		texts = append(texts, j.GeneratedText)
	}
	if texts[0] != texts[1] {
		t.Errorf("temperature 0 gave %q", texts)
	}
}

func testBadInput(t *testing.T, s *service) {
	c := newUser(t, s, "clumsy")
	long := strings.Repeat("light ", 83) // 498 characters
	for name, k := range map[string]struct {
		body   string
		status int
		says   string // in the detail
	}{
		"empty prompt":             {`{"prompt":""}`, 422, "prompt"},
		"501 characters":           {`{"prompt":"` + strings.Repeat("é", 501) + `"}`, 422, "500"},
		"nothing left":             {`{"prompt":"<>{};"}`, 422, "nothing"},
		"NUL":                      {`{"prompt":"a\u0000b"}`, 422, "control"},
		"lone surrogate":           {`{"prompt":"a\ud800b"}`, 400, "surrogate"},
		"lone low surrogate":       {`{"prompt":"a\udc00b"}`, 400, "surrogate"},
		"surrogates the wrong way": {`{"prompt":"\udc00\ud800"}`, 400, "surrogate"},
		"invalid UTF-8":            {"{\"prompt\":\"a\xffb\"}", 400, "UTF-8"},
		"max_length 9":             {`{"prompt":"hi","max_length":9}`, 422, "10"},
		"max_length 201":           {`{"prompt":"hi","max_length":201}`, 422, "200"},
		"no room":                  {`{"prompt":"` + long + `","max_length":10}`, 422, "max_length of 10"},
		"unknown field":            {`{"prompt":"hi","max_lenght":20}`, 422, "max_lenght"},
		"prompt of wrong type":     {`{"prompt":17}`, 422, "string"},
		"length of wrong type":     {`{"prompt":"hi","max_length":"20"}`, 422, "integer"},
		"fractional length":        {`{"prompt":"hi","max_length":20.5}`, 422, "integer"},
		"huge number":              {`{"prompt":"hi","max_length":1e400}`, 0, ""},
		"negative seed":            {`{"prompt":"hi","seed":-1}`, 422, "seed"},
		"seed beyond precision":    {`{"prompt":"hi","seed":9007199254740992}`, 422, "seed"},
		"temperature 3":            {`{"prompt":"hi","temperature":3}`, 422, "temperature"},
		"top_p 0":                  {`{"prompt":"hi","top_p":0}`, 422, "top_p"},
		"five stops":               {`{"prompt":"hi","stop":["a","b","c","d","e"]}`, 422, "stop"},
		"empty stop":               {`{"prompt":"hi","stop":[""]}`, 422, "stop"},
		"null prompt":              {`{"prompt":null}`, 422, "prompt"},
		"no prompt":                {`{}`, 422, "prompt"},
		"a list":                   {`[]`, 422, "object"},
		"a string":                 {`"hi"`, 422, "object"},
		"bad JSON":                 {`{"prompt":`, 400, "JSON"},
		"trailing data":            {`{"prompt":"hi"} x`, 400, "JSON"},
		"refused word":             {`{"prompt":"I hate this"}`, 422, ""},
		"another refused word":     {`{"prompt":"such VIOLENCE!"}`, 422, ""},
		"a body over the limit":    {`{"prompt":"` + strings.Repeat("a", 70_000) + `"}`, 413, ""},
	} {
		for _, path := range []string{"/generate", "/jobs"} {
			t.Run(name+path, func(t *testing.T) {
				a := c.do("POST", path, k.body)
				if k.status == 0 { // either says that it is not right
					k.status = min(max(a.status, 400), 422)
				}
				p := a.refused(t, k.status)
				if !strings.Contains(p.Detail, k.says) {
					t.Errorf("detail %q does not say %q", p.Detail, k.says)
				}
			})
		}
	}
	for name, body := range map[string]string{
		"500 characters of two bytes": `{"prompt":"` + strings.Repeat("é", 500) + `","max_new_tokens":1}`,
		"500 characters of four":      `{"prompt":"` + strings.Repeat(`\ud83d\ude00`, 30) + `","max_length":200}`,
		"words that only look bad":    `{"prompt":"whatever, nonviolence","max_length":40}`,
		"characters taken out":        `{"prompt":"<b>light</b>;","max_length":40}`,
	} {
		t.Run(name, func(t *testing.T) {
			a := c.do("POST", "/generate", body)
			if a.status == 422 && strings.Contains(string(a.body), "no_room") {
				return // the built-in vocabulary spends more tokens on these than its context has
			}
			a.must(t, 200)
		})
	}
	a := c.do("POST", "/generate", `prompt=hi`, "Content-Type", "text/plain")
	a.refused(t, 415)
	c.do("POST", "/generate", "").refused(t, 400)
	c.do("GET", "/history?limit=0", "").refused(t, 422)
	c.do("GET", "/history?limit=101", "").refused(t, 422)
	c.do("GET", "/history?before=x", "").refused(t, 422)
	c.do("GET", "/history?page=2", "").refused(t, 422)
	c.do("GET", "/jobs/nonsense", "").refused(t, 422)
	c.do("GET", "/jobs/018f0000-0000-7000-8000-000000000000", "").refused(t, 404)
	c.do("GET", "/jobs/018f0000-0000-7000-8000-000000000000/events", "", "Last-Event-ID", "-1").refused(t, 422)
}

func testOtherPeoplesJobs(t *testing.T, s *service) {
	one, other := newUser(t, s, "owner-one"), newUser(t, s, "owner-two")
	j := one.submit(`{"prompt":"Light","max_length":20}`)
	for _, route := range []string{"GET /jobs/" + j.ID, "GET /jobs/" + j.ID + "/events", "POST /jobs/" + j.ID + "/cancel"} {
		method, path, _ := strings.Cut(route, " ")
		there := other.do(method, path, "").refused(t, 404)
		nowhere := other.do(method, strings.Replace(path, j.ID, "018f0000-0000-7000-8000-000000000000", 1), "").refused(t, 404)
		if there.Detail != nowhere.Detail {
			t.Errorf("%s tells somebody else's job from none", route)
		}
	}
	var history []job
	other.do("GET", "/history", "").must(t, 200).into(t, &history)
	if len(history) != 0 {
		t.Errorf("somebody else's history: %+v", history)
	}
}

func testAccounts(t *testing.T, s *service) {
	c := &client{t: t, url: s.url}
	newUser(t, s, "Ångström")
	c.do("POST", "/users", `{"username":"ångström","password":"another one"}`).refused(t, 409)
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
		a := c.do("POST", "/users", body)
		a.refused(t, 422)
		if bytes.Contains(a.body, []byte("hunter2")) {
			t.Errorf("%s: the password comes back: %s", name, a.body)
		}
	}
	a := c.do("POST", "/users", `{"username":"x","password":"`+secret)
	a.refused(t, 400)
	if bytes.Contains(a.body, []byte(secret)) {
		t.Errorf("broken JSON comes back: %s", a.body)
	}
	wrong := c.form("/token", "username", "Ångström", "password", "wrong password").refused(t, 401)
	nobody := c.form("/token", "username", "no such user", "password", "wrong password").refused(t, 401)
	if wrong.Detail != nobody.Detail {
		t.Error("sign-in tells known names from unknown ones")
	}
	c.form("/token", "username", "Ångström").refused(t, 422)
	c.form("/token", "grant_type", "magic").refused(t, 422)
	c.form("/token", "grant_type", "refresh_token", "refresh_token", "crt_x").refused(t, 401)
	var tokens, next struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
		ExpiresIn    int    `json:"expires_in"`
	}
	c.form("/token", "grant_type", "password", "username", "ÅNGSTRÖM", "password", password).must(t, 200).into(t, &tokens)
	if tokens.ExpiresIn < 60 || tokens.RefreshToken == "" {
		t.Errorf("tokens expire in %d s", tokens.ExpiresIn)
	}
	c.form("/token", "grant_type", "refresh_token", "refresh_token", tokens.RefreshToken).must(t, 200).into(t, &next)
	(&client{t: t, url: s.url, access: next.AccessToken}).do("GET", "/history", "").must(t, 200)
	if next.RefreshToken == tokens.RefreshToken {
		t.Error("the refresh token was not rotated")
	}
}

// security: ASVS 4.1.4, ASVS 13.4.3, ASVS 13.4.4
func testUnknownRoutes(t *testing.T, s *service) {
	c := &client{t: t, url: s.url}
	c.do("GET", "/nowhere", "").refused(t, 404)
	c.do("GET", "/assets/", "").refused(t, 404)
	c.do("GET", "/assets/nothing.js", "").refused(t, 404)
	a := c.do("DELETE", "/generate", "")
	a.refused(t, 405)
	if a.header.Get("Allow") != "POST" {
		t.Errorf("Allow %q", a.header.Get("Allow"))
	}
	for _, path := range []string{"/", "/docs", "/nowhere", "/healthz", "/history", "/assets/favicon.svg"} {
		h := c.do("GET", path, "").header
		for _, name := range []string{"X-Request-Id", "Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Cache-Control"} {
			if h.Get(name) == "" {
				t.Errorf("%s has no %s", path, name)
			}
		}
	}
}

// testNothingInTheClear looks for a prompt and a text in every table that there is.
//
// security: ASVS 11.3.2
func testNothingInTheClear(t *testing.T, s *service) {
	c := newUser(t, s, "keeper")
	const canary = "peacockfeather"
	var j job
	c.do("POST", "/generate", `{"prompt":"the `+canary+` of","max_length":60,"stop":["stop-`+canary+`"]}`, "Idempotency-Key", canary).must(t, 200).into(t, &j)
	words := strings.Fields(j.Completion)
	secrets := []string{canary, strings.Join(words[:min(4, len(words))], " ")}

	cluster, err := pg.Start(t.Context(), filepath.Join(s.data, "postgres"), pg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Stop(context.WithoutCancel(t.Context()))
	conn, err := pgx.Connect(t.Context(), cluster.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	rows, _ := conn.Query(t.Context(), `
		select format('%I.%I', schemaname, tablename) from pg_tables where schemaname not in ('pg_catalog', 'information_schema')`)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || !slices.Contains(tables, "river.river_job") || !slices.Contains(tables, "public.events") || !slices.Contains(tables, "public.idempotency_keys") {
		t.Fatalf("tables %v, %v", tables, err)
	}
	seen := 0
	for _, table := range tables {
		rows, _ := conn.Query(t.Context(), `select row_to_json(r)::text from `+table+` r`)
		all, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range all {
			seen++
			for _, secret := range secrets {
				if strings.Contains(row, secret) || strings.Contains(row, fmt.Sprintf("%x", secret)) {
					t.Errorf("%q stands in %s: %.200s", secret, table, row)
				}
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d rows in all tables", seen)
	}
}

// TestRestart stops the service and starts it again over the same data.
func TestRestart(t *testing.T) {
	data := dataDir(t)
	s := up(t, data)
	c := newUser(t, s, "returning")
	var before, after []job
	c.do("POST", "/generate", `{"prompt":"Light","max_length":20}`).must(t, 200)
	c.do("GET", "/history", "").must(t, 200).into(t, &before)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"master.key"} {
		if info, err := os.Stat(filepath.Join(data, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	s = up(t, data)
	old := &client{t: t, url: s.url, access: c.access}
	old.do("GET", "/history", "").must(t, 200).into(t, &after)
	if len(before) != 1 || !slices.Equal(before, after) {
		t.Errorf("history before %+v and after %+v", before, after)
	}
	c = signIn(t, s, "returning")
	// These limits are on by default.
	allowed := 0
	for range 10 {
		a := c.do("POST", "/jobs", `{"prompt":"Light","max_length":10}`)
		if a.status == http.StatusAccepted {
			allowed++
			continue
		}
		a.refused(t, 429)
		if wait, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || wait < 1 || wait > 60 {
			t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
		}
		if a.header.Get("RateLimit") == "" || a.header.Get("RateLimit-Policy") != `"jobs";q=5;w=60` {
			t.Errorf("headers %v", a.header)
		}
	}
	if allowed != 5 {
		t.Errorf("%d jobs were allowed in a minute, want 5", allowed)
	}
}
