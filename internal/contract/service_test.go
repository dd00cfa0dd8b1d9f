package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/api"
	"colophon/events"
	"colophon/internal/auth"
	"colophon/internal/pg/pgtest"
	"colophon/internal/policy"
	"colophon/internal/vault"
	"colophon/jobs"
	"colophon/migrations"
)

// slots is how many jobs the worker runs at once.
const slots = 16

// service is the whole of it in this process: the real handler over a real
// Postgres, and a worker with an engine that takes no time.
type service struct {
	t       *testing.T
	db      *pgtest.DB
	store   *events.Store
	vault   *vault.Vault
	auth    *auth.Service
	options api.Options
	handler http.Handler
	url     string // for those who need a connection
	log     *logged
	engine  *engine
	victims int // accounts that others have been let loose on
}

// logged is what was logged.
type logged struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// newService starts a service that counts nothing and hashes cheaply.
func newService(t *testing.T) *service {
	t.Helper()
	s := &service{t: t, db: pgtest.New(t, migrations.Up), log: &logged{}, engine: &engine{}}
	log := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var err error
	if s.vault, err = vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize)); err != nil {
		t.Fatal(err)
	}
	s.store = events.NewStore(s.db.App, s.vault, log)
	m := jobs.Model{Name: s.engine.Info().Name, Context: s.engine.Info().Context, Encode: s.engine.Encode}
	queue, err := jobs.NewQueue(s.db.App, s.store, m, policy.Default, jobs.Limits{}, log)
	if err != nil {
		t.Fatal(err)
	}
	s.auth = s.accounts(64)
	stopping, stop := context.WithCancel(context.Background())
	s.options = api.Options{Stopping: stopping, Store: s.store, Queue: queue, Auth: s.auth, Ready: s.db.App.Ping, Log: log}
	worker, err := jobs.NewWorker(s.db.App, s.store, s.engine, policy.Default, slots, log)
	if err != nil {
		t.Fatal(err)
	}
	running, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.store.Run(running, nil) })
	wg.Go(func() { queue.Run(running) })
	wg.Go(func() { s.auth.Run(running, log) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	if err := worker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := worker.Stop(ctx); err != nil {
			t.Errorf("stop the worker: %v", err)
		}
	})
	t.Cleanup(stop)
	s.listen()
	return s
}

// accounts are those of the database, by hashes of so many KiB.
func (s *service) accounts(hashMemory uint32) *auth.Service {
	s.t.Helper()
	a, err := auth.New(s.t.Context(), s.db.App, s.store, s.vault, auth.Options{Issuer: "test", Audience: "test", HashMemory: hashMemory, Unthrottled: true})
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func (s *service) listen() {
	s.t.Helper()
	var err error
	if s.handler, err = api.New(s.options); err != nil {
		s.t.Fatal(err)
	}
	server := httptest.NewServer(s.handler)
	s.t.Cleanup(server.Close)
	s.url = server.URL
}

// another is the same service behind an API with other options.
func (s *service) another(change func(*api.Options)) *service {
	s.t.Helper()
	other := *s
	change(&other.options)
	other.listen()
	return &other
}

// answer is a response that has been read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// response is the answer as the validator wants it.
func (a answer) response() *http.Response {
	return &http.Response{StatusCode: a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(a.body))}
}

func (a answer) must(t *testing.T, status int) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %.500s", a.status, status, a.body)
	}
	return a
}

func (a answer) into(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("%v in %.500s", err, a.body)
	}
}

// code is what a problem says to programs.
func (a answer) code() string {
	var p struct{ Error struct{ Code string } }
	if json.Unmarshal(a.body, &p) != nil {
		return ""
	}
	return p.Error.Code
}

// writer keeps what a handler writes, and has the deadlines of a connection.
type writer struct{ *httptest.ResponseRecorder }

func (writer) SetReadDeadline(time.Time) error  { return nil }
func (writer) SetWriteDeadline(time.Time) error { return nil }

// serve hands a request to the handler without a connection in between.
func (s *service) serve(r *http.Request) answer {
	w := writer{httptest.NewRecorder()}
	s.handler.ServeHTTP(w, r)
	resp := w.Result()
	return answer{resp.StatusCode, resp.Header, w.Body.Bytes()}
}

// person is somebody with an account.
type person struct {
	name, password  string
	id              string
	access, refresh string
	role            auth.Role
}

// join registers somebody and signs in.
func (s *service) join(name string) *person {
	s.t.Helper()
	p := &person{name: name, password: "a long sentence of " + name[:3]}
	var account struct{ ID string }
	s.send(nil, "POST", "/users", fmt.Sprintf(`{"username":%q,"password":%q}`, p.name, p.password)).must(s.t, 200).into(s.t, &account)
	p.id = account.ID
	s.signIn(p)
	return p
}

func (s *service) signIn(p *person) {
	s.t.Helper()
	form := "username=" + p.name + "&password=" + strings.ReplaceAll(p.password, " ", "+")
	var tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	s.send(nil, "POST", "/token", form, "Content-Type", "application/x-www-form-urlencoded").must(s.t, 200).into(s.t, &tokens)
	p.access, p.refresh = tokens.Access, tokens.Refresh
}

// promote gives somebody a role, as the command line does.
func (s *service) promote(p *person, role auth.Role) *person {
	s.t.Helper()
	p.role = role
	if _, err := s.auth.SetRole(s.t.Context(), uuid.MustParse(p.id), role); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// send sends a request over a connection, as somebody or as nobody.
func (s *service) send(as *person, method, path, body string, headers ...string) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if as != nil {
		r.Header.Set("Authorization", "Bearer "+as.access)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, got}
}

// submit puts a job on record.
func (s *service) submit(as *person, body string) (id string) {
	s.t.Helper()
	var j struct{ ID string }
	s.send(as, "POST", "/jobs", body).must(s.t, 202).into(s.t, &j)
	if uuid.Validate(j.ID) != nil {
		s.t.Fatalf("the job's id is %q", j.ID)
	}
	return j.ID
}

// jobsOf returns the ids of somebody's jobs as soon as so many are in one of the
// states.
func (s *service) jobsOf(p *person, many int, states ...string) []string {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		rows, err := s.db.Owner.Query(s.t.Context(), `select job::text from history where owner = $1 and state = any($2)`, p.id, states)
		if err != nil {
			s.t.Fatal(err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			s.t.Fatal(err)
		}
		if len(ids) == many {
			return ids
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%d of %d jobs are %s", len(ids), many, strings.Join(states, " or "))
		}
	}
}

// quiet fails the test if anything went wrong on the service's side.
func (s *service) quiet() {
	s.t.Helper()
	if log := s.log.String(); strings.Contains(log, "panic") || strings.Contains(log, "level=ERROR") {
		s.t.Errorf("the log has\n%.5000s", log)
	}
}
