package api_test

import (
	"bytes"
	"context"
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
	"colophon/test/apitest"
)

// fixture is an API with one user and no worker, so that jobs wait.
type fixture struct {
	apitest.Client // of the user
	db             *pgtest.DB
	store          *events.Store
	vault          *vault.Vault
	queue          *jobs.Queue
	owner          uuid.UUID
	api            api.Options // what the API was made from
	log            apitest.Log
	served         chan struct{}      // holds one value for each request that has been served
	stop           context.CancelFunc // tells the API that the service stops
}

func newFixture(t *testing.T, with ...func(*fixture)) *fixture {
	t.Helper()
	f := &fixture{served: make(chan struct{}, 1000)}
	f.Client = apitest.Client{T: t, Transport: patient{&http.Transport{DisableKeepAlives: true}, f.served}}
	log := slog.New(slog.NewTextHandler(&f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	db := pgtest.New(t, migrations.Up)
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	f.db, f.vault, f.store = db, v, events.NewStore(db.App, v, log)
	encode := func(text string) []int { return make([]int, len(text)) }
	f.queue, err = jobs.NewQueue(db.App, f.store, jobs.Model{Name: "fake", Context: 1000, Encode: encode}, policy.Default, jobs.Limits{}, log)
	if err != nil {
		t.Fatal(err)
	}
	accounts := f.accounts()
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
	f.URL = server.URL
	f.owner, f.Access = f.user("somebody")
	return f
}

// accounts returns the accounts as another process has them.
func (f *fixture) accounts() *auth.Service {
	f.T.Helper()
	accounts, err := auth.New(f.T.Context(), f.db.App, f.store, f.vault, auth.Options{Issuer: "test", Audience: "test"})
	if err != nil {
		f.T.Fatal(err)
	}
	return accounts
}

// user registers a user and signs in.
func (f *fixture) user(name string) (id uuid.UUID, access string) {
	f.T.Helper()
	return f.Register(name, "a long sentence"), f.SignIn(name, "a long sentence").Access
}

// patient has requests end only when they have been served to the end.
type patient struct {
	*http.Transport
	served chan struct{}
}

func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.Transport.RoundTrip(r)
	if err == nil {
		resp.Body = patientBody{resp.Body, p.served}
	}
	return resp, err
}

type patientBody struct {
	io.ReadCloser
	served chan struct{}
}

func (b patientBody) Close() error {
	defer func() { <-b.served }()
	return b.ReadCloser.Close()
}

// newest returns the job that was accepted last, once there are n of them.
func (f *fixture) newest(n int) events.Job {
	f.T.Helper()
	for look := time.NewTicker(5 * time.Millisecond); ; {
		var count int
		var id *uuid.UUID
		if err := f.db.Owner.QueryRow(f.T.Context(), `select count(*), max(job::text)::uuid from history`).Scan(&count, &id); err != nil {
			f.T.Fatal(err)
		}
		if count == n {
			job, err := f.store.Job(f.T.Context(), *id)
			if err != nil {
				f.T.Fatal(err)
			}
			return job
		}
		select {
		case <-look.C:
		case <-f.T.Context().Done():
			f.T.Fatalf("%d jobs, want %d", count, n)
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
			_, err := f.Send(ctx, "POST", c.path, prompt, c.headers...)
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
		a := f.Do("POST", c.path, prompt, "Prefer", c.prefer).Must(t, 202)
		j := f.newest(i + 1)
		if j.State != events.Queued || a.Header.Get("Location") != "/jobs/"+j.ID.String() {
			t.Errorf("%s %q: the job is %s, at %q", c.path, c.prefer, j.State, a.Header.Get("Location"))
		}
		if got := a.Header.Get("Preference-Applied"); got != c.applied {
			t.Errorf("%s %q: Preference-Applied %q, want %q", c.path, c.prefer, got, c.applied)
		}
		if after, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || after < 1 || after > 60 {
			t.Errorf("%s %q: Retry-After %q", c.path, c.prefer, a.Header.Get("Retry-After"))
		}
		if a.Header.Get("Vary") != "Prefer" || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %q: headers %v", c.path, c.prefer, a.Header)
		}
	}
}

func TestAServerThatStopsEndsNoJob(t *testing.T) {
	f := newFixture(t)
	answered := make(chan apitest.Answer)
	go func() {
		a, err := f.Send(t.Context(), "POST", "/generate", prompt)
		if err != nil {
			t.Errorf("not answered: %v", err)
		}
		answered <- a
	}()
	j := f.newest(1)
	f.stop()
	a := (<-answered).Must(t, 202)
	if now, err := f.store.Job(t.Context(), j.ID); err != nil || now.State != events.Queued || a.Header.Get("Location") != "/jobs/"+j.ID.String() {
		t.Errorf("%s at %q, %v", now.State, a.Header.Get("Location"), err)
	}
}

func TestPollingForWhatHasNotChanged(t *testing.T) {
	f := newFixture(t)
	first := f.Submit(prompt)
	var second job
	f.Do("POST", "/jobs", prompt).Must(t, 202).Into(t, &second)
	path := "/jobs/" + second.ID
	a := f.Do("GET", path, "").Must(t, 200)
	a.Into(t, &second)
	etag := a.Header.Get("ETag")
	if second.QueuePosition != 2 || etag == "" || a.Header.Get("Retry-After") != "1" || a.Header.Get("Cache-Control") != "private, no-cache" || a.Header.Get("Vary") != "Authorization" {
		t.Fatalf("%+v, %v", second, a.Header)
	}
	a = f.Do("GET", path, "", "If-None-Match", `"other", W/`+etag).Must(t, 304)
	if len(a.Body) != 0 || a.Header.Get("ETag") != etag || a.Header.Get("Retry-After") == "" || a.Header.Get("Cache-Control") != "private, no-cache" || a.Header.Get("Vary") != "Authorization" {
		t.Errorf("%q, %v", a.Body, a.Header)
	}
	f.Do("POST", "/jobs/"+first+"/cancel", "").Must(t, 200) // not an event of the job that is looked at
	a = f.Do("GET", path, "", "If-None-Match", etag).Must(t, 200)
	if a.Into(t, &second); second.QueuePosition != 1 {
		t.Errorf("place %d", second.QueuePosition)
	}
	a = f.Do("POST", path+"/cancel", "").Must(t, 200)
	a = f.Do("GET", path, "", "If-None-Match", a.Header.Get("ETag")).Must(t, 200)
	if a.Header.Get("Retry-After") != "" {
		t.Errorf("Retry-After %s of a job that has ended", a.Header.Get("Retry-After"))
	}
	f.Do("GET", path, "", "If-None-Match", a.Header.Get("ETag")).Must(t, 304)
}

func TestAKeyGivesTheFirstAnswerAgain(t *testing.T) {
	f := newFixture(t)
	key := []string{"Idempotency-Key", `"first"`}
	a := f.Do("POST", "/jobs", prompt, key...).Must(t, 202)
	var j, again job
	a.Into(t, &j)
	f.Do("POST", "/jobs", ` { "max_length" : 50, "prompt": "The nature of light"}`, "Idempotency-Key", "first").Must(t, 202).Into(t, &again)
	if again.ID != j.ID {
		t.Errorf("the same request, written otherwise, made %s beside %s", again.ID, j.ID)
	}
	f.Do("POST", "/jobs/"+j.ID+"/cancel", "").Must(t, 200)
	b := f.Do("POST", "/jobs", prompt, key...).Must(t, 202)
	b.Into(t, &again)
	if again.ID != j.ID || again.State != "cancelled" || b.Header.Get("Location") != a.Header.Get("Location") {
		t.Errorf("%s: %+v", b.Header.Get("Location"), again)
	}
	f.Do("POST", "/jobs", `{"prompt":"The nature of darkness"}`, key...).Refused(t, 422, "idempotency_key_reused")
	f.Do("POST", "/jobs", prompt, "Idempotency-Key", "first", "Cancel-After", "9").Refused(t, 422, "idempotency_key_reused")
	f.Do("POST", "/jobs", `{"prompt":"such violence"}`, "Idempotency-Key", "second").Must(t, 422)
	f.Do("POST", "/jobs", prompt, "Idempotency-Key", "second").Must(t, 202).Into(t, &again)
	if again.ID == j.ID {
		t.Error("another key gave the same job")
	}
	// A key belongs to a user and a route.
	f.Do("POST", "/generate", prompt, "Idempotency-Key", "first", "Prefer", "wait=0").Must(t, 202).Into(t, &again)
	if again.ID == j.ID {
		t.Error("the key of another route gave the same job")
	}
	_, f.Access = f.user("somebody-else")
	f.Do("POST", "/jobs", prompt, key...).Must(t, 202).Into(t, &again)
	if again.ID == j.ID {
		t.Error("somebody else's key gave the same job")
	}
	for _, bad := range []string{"", `""`, `"half`, "two words", strings.Repeat("k", 256), "caf\xc3\xa9"} {
		f.Do("POST", "/jobs", prompt, "Idempotency-Key", bad).Refused(t, 400, "invalid_idempotency_key")
		f.Do("POST", "/users", `{"username":"nobody","password":"a long sentence"}`, "Idempotency-Key", bad).Refused(t, 400, "invalid_idempotency_key")
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
			a := f.Do("POST", path, prompt, "Idempotency-Key", "k")
			a.Refused(t, 409, "idempotency_key_in_flight")
			if a.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			return context.Canceled
		})
		if err != context.Canceled {
			t.Fatal(err)
		}
		f.Do("POST", path, prompt, "Idempotency-Key", "k", "Prefer", "wait=0").Must(t, 202)
	}
}

// TestASecondGenerateJoinsTheFirst sends the same request while it is being waited for.
func TestASecondGenerateJoinsTheFirst(t *testing.T) {
	f := newFixture(t)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			a, err := f.Send(t.Context(), "POST", "/generate", prompt, "Idempotency-Key", "k")
			if err != nil || a.Status != 409 || !strings.Contains(string(a.Body), "job_cancelled") {
				t.Errorf("%d %s, %v", a.Status, a.Body, err)
			}
		})
	}
	j := f.newest(1)
	f.Do("POST", "/jobs/"+j.ID.String()+"/cancel", "").Must(t, 200)
	wg.Wait()
	f.newest(1)
}

func TestRegisteringTwiceUnderAKey(t *testing.T) {
	f := newFixture(t)
	f.Access = ""
	const body = `{"username":"isaac","password":"hypotheses non fingo"}`
	first := f.Do("POST", "/users", body, "Idempotency-Key", "k").Must(t, 200)
	again := f.Do("POST", "/users", body, "Idempotency-Key", `"k"`).Must(t, 200)
	if !bytes.Equal(first.Body, again.Body) {
		t.Errorf("%s and then %s", first.Body, again.Body)
	}
	for _, other := range []string{`{"username":"isaac","password":"another password"}`, `{"username":"gottfried","password":"hypotheses non fingo"}`} {
		f.Do("POST", "/users", other, "Idempotency-Key", "k").Refused(t, 422, "idempotency_key_reused")
	}
	f.Do("POST", "/users", body, "Idempotency-Key", "k2").Refused(t, 409, "username_taken")
}

func TestCancelAfter(t *testing.T) {
	f := newFixture(t)
	for header, want := range map[string]time.Duration{"1": time.Second, "60": time.Minute, "86400": 10 * time.Minute} {
		var j job
		f.Do("POST", "/jobs", prompt, "Cancel-After", header).Must(t, 202).Into(t, &j)
		if got := j.Deadline.Sub(j.CreatedAt); got > want || got < want-time.Minute {
			t.Errorf("Cancel-After %s: %v, want %v", header, got, want)
		}
	}
	var j job
	f.Do("POST", "/jobs", prompt).Must(t, 202).Into(t, &j)
	if got := j.Deadline.Sub(j.CreatedAt); got > 10*time.Minute || got < 9*time.Minute {
		t.Errorf("without a header: %v", got)
	}
	for _, bad := range []string{"0", "-1", "86401", "soon", "1.5", "99999999999999999999"} {
		f.Do("POST", "/jobs", prompt, "Cancel-After", bad).Must(t, 422)
	}
	// Nobody works, and who waits is told.
	a := f.Do("POST", "/generate", prompt, "Cancel-After", "1")
	a.Refused(t, 409, "job_cancelled")
	if !strings.Contains(string(a.Body), "deadline") {
		t.Errorf("%s", a.Body)
	}
}
