package api_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/api"
	"colophon/events"
	"colophon/events/ledger"
	"colophon/internal/auth"
	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
	"colophon/internal/policy"
	"colophon/internal/vault"
	"colophon/jobs"
	"colophon/migrations"
	"colophon/model"
	"colophon/test/apitest"
)

// fixture is an API with one user. It has no worker, so jobs stay queued.
type fixture struct {
	apitest.Client // the client of the user
	db             *pgtest.DB
	store          *events.Store
	vault          *vault.Vault
	queue          *jobs.Queue
	engine         model.Engine // the engine of work; nil without withOpticks
	owner          uuid.UUID
	api            api.Options // the options of the API
	log            apitest.Log
	served         chan struct{}      // has one value for each request that has been served
	stop           context.CancelFunc // tells the API that the service stops
}

func newFixture(t *testing.T, with ...func(*fixture)) *fixture {
	t.Helper()
	f := &fixture{served: make(chan struct{}, 1000)}
	f.Client = apitest.Client{T: t, Transport: untilServed{&http.Transport{DisableKeepAlives: true}, f.served}}
	log := slog.New(slog.NewTextHandler(&f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	db := pgtest.New(t, migrations.Up)
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	f.db, f.vault, f.store = db, v, events.NewStore(db.App, v, log)
	encode := func(text string) []int { return make([]int, len(text)) }
	decode := func(tokens []int) (text []byte) {
		for _, token := range tokens {
			text = append(text, byte(token))
		}
		return text
	}
	m := jobs.Model{Name: "fake", Context: 1000, Vocab: 300, Encode: encode, Decode: decode}
	f.queue, err = jobs.NewQueue(db.App, f.store, m, policy.Default, jobs.Limits{}, log)
	if err != nil {
		t.Fatal(err)
	}
	accounts := f.accounts()
	stopping, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	f.stop = stop
	f.api = api.Options{Stopping: stopping, Store: f.store, Queue: f.queue, Detector: jobs.NewDetector(f.store, encode), Model: m, ChatTemplate: jobs.TemplatePlain, Auth: accounts, Log: log, Ledger: ledger.NewLog(db.App)}
	f.api.Ready = func(ctx context.Context) ([]string, error) { return nil, pg.CheckWritable(ctx, db.App) }
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

// accounts returns another account service over the same database, as another process
// would have.
func (f *fixture) accounts() *auth.Service {
	f.T.Helper()
	accounts, err := auth.New(f.T.Context(), f.db.App, f.store, f.vault, auth.Options{Issuer: "test", Audience: "test", HashMemory: 64})
	if err != nil {
		f.T.Fatal(err)
	}
	return accounts
}

// user registers a user and signs the user in.
func (f *fixture) user(name string) (id uuid.UUID, access string) {
	f.T.Helper()
	return f.Register(name, "a long sentence"), f.SignIn(name, "a long sentence").Access
}

// untilServed is a transport. Close of a response body waits until the handler has
// returned.
type untilServed struct {
	*http.Transport
	served chan struct{}
}

func (p untilServed) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.Transport.RoundTrip(r)
	if err == nil {
		resp.Body = servedBody{resp.Body, p.served}
	}
	return resp, err
}

type servedBody struct {
	io.ReadCloser
	served chan struct{}
}

func (b servedBody) Close() error {
	defer func() { <-b.served }()
	return b.ReadCloser.Close()
}

// newest waits until the database has n jobs, and returns the latest job.
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

// another starts a second server for the same accounts and jobs, with changed options. It
// returns a client of the same user.
func (f *fixture) another(t *testing.T, change func(*api.Options)) apitest.Client {
	t.Helper()
	o := f.api
	change(&o)
	return serve(t, o, true).As(f.Access)
}

// serve starts a server of an API, over TLS with HTTP/2 or over plain HTTP.
func serve(t *testing.T, o api.Options, overTLS bool) apitest.Client {
	t.Helper()
	handler, err := api.New(o)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(handler)
	srv.EnableHTTP2 = true
	if overTLS {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return apitest.Client{T: t, URL: srv.URL, Transport: srv.Client().Transport}
}
