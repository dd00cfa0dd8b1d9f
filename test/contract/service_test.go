package contract

import (
	"bytes"
	"context"
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
	"colophon/test/apitest"
)

// slots is how many jobs the worker runs at once.
const slots = 16

// service is the whole of it in this process: the real handler over a real
// Postgres, and a worker with an engine that takes no time.
type service struct {
	t       testing.TB
	db      *pgtest.DB
	store   *events.Store
	vault   *vault.Vault
	auth    *auth.Service
	options api.Options
	handler http.Handler
	url     string // for those who need a connection
	log     *apitest.Log
	engine  *engine
	victims int // accounts that others have been let loose on
}

// newService starts a service that counts nothing and hashes cheaply.
func newService(t *testing.T) *service {
	t.Helper()
	s := &service{t: t, db: pgtest.New(t, migrations.Up), log: &apitest.Log{}, engine: &engine{}}
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

// writer keeps what a handler writes, and has the deadlines of a connection.
type writer struct{ *httptest.ResponseRecorder }

func (writer) SetReadDeadline(time.Time) error  { return nil }
func (writer) SetWriteDeadline(time.Time) error { return nil }

// serve hands a request to the handler without a connection in between.
func (s *service) serve(r *http.Request) apitest.Answer {
	w := writer{httptest.NewRecorder()}
	s.handler.ServeHTTP(w, r)
	resp := w.Result()
	return apitest.Answer{Status: resp.StatusCode, Header: resp.Header, Body: w.Body.Bytes()}
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
	p.id = s.as(nil).Register(p.name, p.password).String()
	tokens := s.as(nil).SignIn(p.name, p.password)
	p.access, p.refresh = tokens.Access, tokens.Refresh
	return p
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

// as is a client of somebody, or of nobody, over a connection.
func (s *service) as(p *person) apitest.Client {
	c := apitest.Client{T: s.t, URL: s.url}
	if p != nil {
		c.Access = p.access
	}
	return c
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
