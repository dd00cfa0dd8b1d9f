package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/api"
	"colophon/events"
	"colophon/internal/auth"
	"colophon/internal/pg/pgtest"
	"colophon/internal/policy"
	"colophon/internal/vault"
	"colophon/jobs"
	"colophon/migrations"
)

// fixture is an API with one user and no worker, so that jobs wait.
type fixture struct {
	t      *testing.T
	db     *pgtest.DB
	store  *events.Store
	queue  *jobs.Queue
	url    string
	owner  uuid.UUID
	access string
	api    api.Options // what the API was made from
	log    logBuffer
	served chan struct{}      // holds one value for each request that has been served
	stop   context.CancelFunc // tells the API that the service stops
}

func newFixture(t *testing.T, with ...func(*fixture)) *fixture {
	t.Helper()
	f := &fixture{t: t, served: make(chan struct{}, 1000)}
	log := slog.New(slog.NewTextHandler(&f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	db := pgtest.New(t, migrations.Up)
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	f.db, f.store = db, events.NewStore(db.App, v, log)
	encode := func(text string) []int { return make([]int, len(text)) }
	f.queue, err = jobs.NewQueue(db.App, f.store, jobs.Model{Name: "fake", Context: 1000, Encode: encode}, policy.Default, jobs.Limits{}, log)
	if err != nil {
		t.Fatal(err)
	}
	accounts, err := auth.New(t.Context(), db.App, f.store, v, auth.Options{Issuer: "test", Audience: "test"})
	if err != nil {
		t.Fatal(err)
	}
	stopping, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	f.stop = stop
	f.api = api.Options{Stopping: stopping, Store: f.store, Queue: f.queue, Auth: accounts, Ready: db.App.Ping, Log: log}
	for _, change := range with {
		change(f)
	}
	handler, err := api.New(f.api)
	if err != nil {
		t.Fatal(err)
	}
	running, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f.store.Run(running, nil) })
	wg.Go(func() { f.queue.Run(running) })
	wg.Go(func() { accounts.Run(running, log) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { f.served <- struct{}{} }()
		handler.ServeHTTP(w, r)
	}))
	server.Start()
	t.Cleanup(server.Close)
	f.url = server.URL
	f.owner, f.access = f.user("somebody")
	return f
}

// user registers a user and signs in.
func (f *fixture) user(name string) (id uuid.UUID, access string) {
	f.t.Helper()
	var account struct{ ID uuid.UUID }
	f.do("POST", "/users", fmt.Sprintf(`{"username":%q,"password":"a long sentence"}`, name)).must(f.t, 200).into(f.t, &account)
	var tokens struct {
		AccessToken string `json:"access_token"`
	}
	f.do("POST", "/token", "username="+name+"&password=a+long+sentence", "Content-Type", "application/x-www-form-urlencoded").must(f.t, 200).into(f.t, &tokens)
	return account.ID, tokens.AccessToken
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) must(t *testing.T, status int) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	return a
}

func (a answer) into(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
}

// refused checks that the answer is a problem with the code.
func (a answer) refused(t *testing.T, status int, code string) {
	t.Helper()
	var p struct {
		Detail string
		Error  struct{ Code *string }
	}
	a.must(t, status).into(t, &p)
	if p.Detail == "" || p.Error.Code == nil || *p.Error.Code != code {
		t.Errorf("want a problem %s: %s", code, a.body)
	}
}

func (f *fixture) send(ctx context.Context, method, path, body string, headers ...string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, f.url+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+f.access)
	for i := 0; i < len(headers); i += 2 {
		req.Header[headers[i]] = append(req.Header[headers[i]][:0:0], headers[i+1])
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	<-f.served
	return answer{resp.StatusCode, resp.Header, got}, err
}

func (f *fixture) do(method, path, body string, headers ...string) answer {
	f.t.Helper()
	a, err := f.send(f.t.Context(), method, path, body, headers...)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// newest returns the job that was accepted last, once there are n of them.
func (f *fixture) newest(n int) events.Job {
	f.t.Helper()
	for look := time.NewTicker(5 * time.Millisecond); ; {
		var count int
		var id *uuid.UUID
		if err := f.db.Owner.QueryRow(f.t.Context(), `select count(*), max(job::text)::uuid from history`).Scan(&count, &id); err != nil {
			f.t.Fatal(err)
		}
		if count == n {
			job, err := f.store.Job(f.t.Context(), *id)
			if err != nil {
				f.t.Fatal(err)
			}
			return job
		}
		select {
		case <-look.C:
		case <-f.t.Context().Done():
			f.t.Fatalf("%d jobs, want %d", count, n)
		}
	}
}

const prompt = `{"prompt":"The nature of light"}`

type job struct {
	ID, State, Reason string
	QueuePosition     int       `json:"queue_position"`
	CreatedAt         time.Time `json:"created_at"`
	Deadline          time.Time
}

// TestWhoLeavesAndWhatBecomesOfTheJob breaks off requests that wait.
func TestWhoLeavesAndWhatBecomesOfTheJob(t *testing.T) {
	f := newFixture(t)
	for i, c := range []struct {
		path    string
		headers []string
		want    events.State
	}{
		{"/generate", nil, events.Cancelled},
		{"/generate", []string{"Prefer", "wait=50"}, events.Cancelled},
		{"/jobs", []string{"Prefer", "wait=50"}, events.Cancelled},
		{"/generate", []string{"Idempotency-Key", "comes-back"}, events.Queued},
		{"/jobs", []string{"Prefer", "wait=50", "Idempotency-Key", "comes-back"}, events.Queued},
		{"/generate", []string{"Prefer", "respond-async, wait=50"}, events.Queued},
	} {
		ctx, leave := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			_, err := f.send(ctx, "POST", c.path, prompt, c.headers...)
			gone <- err
		}()
		j := f.newest(i + 1)
		leave()
		if err := <-gone; err == nil {
			t.Errorf("%s %q: answered", c.path, c.headers)
		}
		<-f.served
		j, err := f.store.Job(t.Context(), j.ID)
		if err != nil {
			t.Fatal(err)
		}
		if j.State != c.want || c.want == events.Cancelled && j.Reason != "the client has left" {
			t.Errorf("%s %q: the job is %s %q, want %s", c.path, c.headers, j.State, j.Reason, c.want)
		}
	}
}

// TestAnAnswered202IsFinished leaves after the answer, as every client does.
func TestAnAnswered202IsFinished(t *testing.T) {
	f := newFixture(t)
	for i, c := range []struct {
		path, prefer, applied string
	}{
		{"/jobs", "", ""},
		{"/jobs", "handling=lenient", ""},
		{"/jobs", "wait=0", "wait=0"},
		{"/generate", "respond-async", "respond-async"},
		{"/generate", "wait=1", "wait=1"},
		{"/jobs", "respond-async, wait=1", "respond-async, wait=1"},
	} {
		a := f.do("POST", c.path, prompt, "Prefer", c.prefer).must(t, 202)
		j := f.newest(i + 1)
		if j.State != events.Queued || a.header.Get("Location") != "/jobs/"+j.ID.String() {
			t.Errorf("%s %q: the job is %s, at %q", c.path, c.prefer, j.State, a.header.Get("Location"))
		}
		if got := a.header.Get("Preference-Applied"); got != c.applied {
			t.Errorf("%s %q: Preference-Applied %q, want %q", c.path, c.prefer, got, c.applied)
		}
		if after, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || after < 1 || after > 60 {
			t.Errorf("%s %q: Retry-After %q", c.path, c.prefer, a.header.Get("Retry-After"))
		}
		if a.header.Get("Vary") != "Prefer" || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %q: headers %v", c.path, c.prefer, a.header)
		}
	}
}

func TestAServerThatStopsEndsNoJob(t *testing.T) {
	f := newFixture(t)
	answered := make(chan answer)
	go func() {
		a, err := f.send(t.Context(), "POST", "/generate", prompt)
		if err != nil {
			t.Errorf("not answered: %v", err)
		}
		answered <- a
	}()
	j := f.newest(1)
	f.stop()
	a := (<-answered).must(t, 202)
	if now, err := f.store.Job(t.Context(), j.ID); err != nil || now.State != events.Queued || a.header.Get("Location") != "/jobs/"+j.ID.String() {
		t.Errorf("%s at %q, %v", now.State, a.header.Get("Location"), err)
	}
}

func TestPollingForWhatHasNotChanged(t *testing.T) {
	f := newFixture(t)
	var first, second job
	f.do("POST", "/jobs", prompt).must(t, 202).into(t, &first)
	f.do("POST", "/jobs", prompt).must(t, 202).into(t, &second)
	path := "/jobs/" + second.ID
	a := f.do("GET", path, "").must(t, 200)
	a.into(t, &second)
	etag := a.header.Get("ETag")
	if second.QueuePosition != 2 || etag == "" || a.header.Get("Retry-After") != "1" || a.header.Get("Cache-Control") != "private, no-cache" || a.header.Get("Vary") != "Authorization" {
		t.Fatalf("%+v, %v", second, a.header)
	}
	a = f.do("GET", path, "", "If-None-Match", `"other", W/`+etag).must(t, 304)
	if len(a.body) != 0 || a.header.Get("ETag") != etag || a.header.Get("Retry-After") == "" || a.header.Get("Cache-Control") != "private, no-cache" || a.header.Get("Vary") != "Authorization" {
		t.Errorf("%q, %v", a.body, a.header)
	}
	f.do("POST", "/jobs/"+first.ID+"/cancel", "").must(t, 200) // not an event of the job that is looked at
	a = f.do("GET", path, "", "If-None-Match", etag).must(t, 200)
	if a.into(t, &second); second.QueuePosition != 1 {
		t.Errorf("place %d", second.QueuePosition)
	}
	a = f.do("POST", path+"/cancel", "").must(t, 200)
	a = f.do("GET", path, "", "If-None-Match", a.header.Get("ETag")).must(t, 200)
	if a.header.Get("Retry-After") != "" {
		t.Errorf("Retry-After %s of a job that has ended", a.header.Get("Retry-After"))
	}
	f.do("GET", path, "", "If-None-Match", a.header.Get("ETag")).must(t, 304)
}

func TestAKeyGivesTheFirstAnswerAgain(t *testing.T) {
	f := newFixture(t)
	key := []string{"Idempotency-Key", `"first"`}
	a := f.do("POST", "/jobs", prompt, key...).must(t, 202)
	var j, again job
	a.into(t, &j)
	f.do("POST", "/jobs", ` { "max_length" : 50, "prompt": "The nature of light"}`, "Idempotency-Key", "first").must(t, 202).into(t, &again)
	if again.ID != j.ID {
		t.Errorf("the same request, written otherwise, made %s beside %s", again.ID, j.ID)
	}
	f.do("POST", "/jobs/"+j.ID+"/cancel", "").must(t, 200)
	b := f.do("POST", "/jobs", prompt, key...).must(t, 202)
	b.into(t, &again)
	if again.ID != j.ID || again.State != "cancelled" || b.header.Get("Location") != a.header.Get("Location") {
		t.Errorf("%s: %+v", b.header.Get("Location"), again)
	}
	f.do("POST", "/jobs", `{"prompt":"The nature of darkness"}`, key...).refused(t, 422, "idempotency_key_reused")
	f.do("POST", "/jobs", prompt, "Idempotency-Key", "first", "Cancel-After", "9").refused(t, 422, "idempotency_key_reused")
	f.do("POST", "/jobs", `{"prompt":"such violence"}`, "Idempotency-Key", "second").must(t, 422)
	f.do("POST", "/jobs", prompt, "Idempotency-Key", "second").must(t, 202).into(t, &again)
	if again.ID == j.ID {
		t.Error("another key gave the same job")
	}
	// A key belongs to a user and a route.
	f.do("POST", "/generate", prompt, "Idempotency-Key", "first", "Prefer", "wait=0").must(t, 202).into(t, &again)
	if again.ID == j.ID {
		t.Error("the key of another route gave the same job")
	}
	_, f.access = f.user("somebody-else")
	f.do("POST", "/jobs", prompt, key...).must(t, 202).into(t, &again)
	if again.ID == j.ID {
		t.Error("somebody else's key gave the same job")
	}
	for _, bad := range []string{"", `""`, `"half`, "two words", strings.Repeat("k", 256), "caf\xc3\xa9"} {
		f.do("POST", "/jobs", prompt, "Idempotency-Key", bad).refused(t, 400, "invalid_idempotency_key")
		f.do("POST", "/users", `{"username":"nobody","password":"a long sentence"}`, "Idempotency-Key", bad).refused(t, 400, "invalid_idempotency_key")
	}
}

// TestAKeyInFlight holds the transaction open in which the first request is accepted.
func TestAKeyInFlight(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{"/jobs", "/generate"} {
		k := events.IdempotencyKey{Scope: f.owner.String() + " POST " + path, Key: "k"}
		err := f.store.Write(t.Context(), func(tx *events.Tx) error {
			if err := tx.Claim(t.Context(), k, f.owner, events.JobStream(uuid.New())); err != nil {
				return err
			}
			a := f.do("POST", path, prompt, "Idempotency-Key", "k")
			a.refused(t, 409, "idempotency_key_in_flight")
			if a.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			return context.Canceled
		})
		if err != context.Canceled {
			t.Fatal(err)
		}
		f.do("POST", path, prompt, "Idempotency-Key", "k", "Prefer", "wait=0").must(t, 202)
	}
}

// TestASecondGenerateJoinsTheFirst sends the same request while it is being waited for.
func TestASecondGenerateJoinsTheFirst(t *testing.T) {
	f := newFixture(t)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			a, err := f.send(t.Context(), "POST", "/generate", prompt, "Idempotency-Key", "k")
			if err != nil || a.status != 409 || !strings.Contains(string(a.body), "job_cancelled") {
				t.Errorf("%d %s, %v", a.status, a.body, err)
			}
		})
	}
	j := f.newest(1)
	f.do("POST", "/jobs/"+j.ID.String()+"/cancel", "").must(t, 200)
	wg.Wait()
	f.newest(1)
}

func TestRegisteringTwiceUnderAKey(t *testing.T) {
	f := newFixture(t)
	f.access = ""
	const body = `{"username":"isaac","password":"hypotheses non fingo"}`
	first := f.do("POST", "/users", body, "Idempotency-Key", "k").must(t, 200)
	again := f.do("POST", "/users", body, "Idempotency-Key", `"k"`).must(t, 200)
	if !bytes.Equal(first.body, again.body) {
		t.Errorf("%s and then %s", first.body, again.body)
	}
	for _, other := range []string{`{"username":"isaac","password":"another password"}`, `{"username":"gottfried","password":"hypotheses non fingo"}`} {
		f.do("POST", "/users", other, "Idempotency-Key", "k").refused(t, 422, "idempotency_key_reused")
	}
	f.do("POST", "/users", body, "Idempotency-Key", "k2").refused(t, 409, "username_taken")
}

func TestCancelAfter(t *testing.T) {
	f := newFixture(t)
	for header, want := range map[string]time.Duration{"1": time.Second, "60": time.Minute, "86400": 10 * time.Minute} {
		var j job
		f.do("POST", "/jobs", prompt, "Cancel-After", header).must(t, 202).into(t, &j)
		if got := j.Deadline.Sub(j.CreatedAt); got > want || got < want-time.Minute {
			t.Errorf("Cancel-After %s: %v, want %v", header, got, want)
		}
	}
	var j job
	f.do("POST", "/jobs", prompt).must(t, 202).into(t, &j)
	if got := j.Deadline.Sub(j.CreatedAt); got > 10*time.Minute || got < 9*time.Minute {
		t.Errorf("without a header: %v", got)
	}
	for _, bad := range []string{"0", "-1", "86401", "soon", "1.5", "99999999999999999999"} {
		f.do("POST", "/jobs", prompt, "Cancel-After", bad).must(t, 422)
	}
	// Nobody works, and who waits is told.
	a := f.do("POST", "/generate", prompt, "Cancel-After", "1")
	a.refused(t, 409, "job_cancelled")
	if !strings.Contains(string(a.body), "deadline") {
		t.Errorf("%s", a.body)
	}
}
