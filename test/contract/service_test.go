package contract

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/internal/pg/pgtest"
	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

func TestMain(m *testing.M) { programtest.Main(m) }

// slots is the number of jobs that the worker runs at once.
const slots = 16

// workerConnections is the application_name of the worker's database connections, or the
// first part of that name.
const workerConnections = "contract-worker"

// service is a running service that belongs to one test. It has a database and an `api`
// or `up` process. It also has a worker process if the test needs one.
type service struct {
	t      testing.TB
	db     *pgtest.DB
	env    []string
	api    *programtest.Process
	worker *programtest.Process // nil unless the worker runs
	wire   *wire

	started *[]*programtest.Process // processes of this service and its copies

	// hashing is locked during each request that hashes a password. Several such requests
	// at once could wait for each other longer than the service allows.
	hashing *sync.Mutex
}

// newService starts a service that has no rate limits, no quotas and no worker.
func newService(t *testing.T) *service {
	t.Helper()
	s := &service{t: t, db: programtest.Database(t), started: new([]*programtest.Process), hashing: new(sync.Mutex)}
	s.env = []string{"COLOPHON_DATA=" + t.TempDir(), "DATABASE_URL=" + s.db.URL}
	s.listen("api", append(noQuotas(), "--no-rate-limits")...)
	return s
}

// noQuotas returns the flags of a service without quotas. A long run has more jobs than
// the default quota of a user.
func noQuotas() []string {
	return []string{"--max-outstanding-jobs", "0", "--max-queued-jobs", "0", "--max-streams", "0"}
}

// listen starts the process that serves requests. The command is api or up.
func (s *service) listen(command string, flags ...string) {
	s.t.Helper()
	s.api = programtest.Start(s.t, s.env, append([]string{command, "--listen", "127.0.0.1:0"}, flags...)...)
	s.wire = newWire(s.t, s.api.URL)
	*s.started = append(*s.started, s.api)
}

// rateLimited starts another api process over the same database, with the given rate for
// every limit. It returns a service that uses this process.
func (s *service) rateLimited(rate string) *service {
	s.t.Helper()
	other := *s
	flags := append(noQuotas(), "--rate-limits", "memory")
	for _, limit := range []string{"users", "token", "jobs", "keys", "calls", "anonymous"} {
		flags = append(flags, "--limit-"+limit, rate)
	}
	other.listen("api", flags...)
	return &other
}

// withT returns a copy of the service for a subtest, or for another goroutine.
func (s *service) withT(t testing.TB) *service {
	other := *s
	other.t = t
	return &other
}

// startWorker starts the worker unless the worker already runs.
func (s *service) startWorker() {
	s.t.Helper()
	if s.worker != nil {
		return
	}
	databaseURL, err := url.Parse(s.db.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	query := databaseURL.Query()
	query.Set("application_name", workerConnections)
	databaseURL.RawQuery = query.Encode()
	s.worker = programtest.Start(s.t, append(s.env[:1:1], "DATABASE_URL="+databaseURL.String()), "worker", "--slots", strconv.Itoa(slots), "--log-state", filepath.Join(s.t.TempDir(), "log-state"))
	*s.started = append(*s.started, s.worker)
}

// killWorker kills the worker and waits until the database has ended the worker's
// connections. From then on no process continues a running job, so the job stays as it
// is.
func (s *service) killWorker() {
	s.t.Helper()
	s.worker.Kill()
	s.worker = nil
	s.eventually("the worker has no connection", func() bool {
		var connections int
		s.query([]any{&connections}, `select count(*) from pg_stat_activity where datname = current_database() and application_name like $1 || '%'`, workerConnections)
		return connections == 0
	})
}

// roundTrip sends a request byte for byte and returns the answer.
func (s *service) roundTrip(r *request) apitest.Answer {
	s.t.Helper()
	out := r.http()
	if out == nil {
		s.t.Fatalf("no client can send %s", r)
	}
	a, err := s.wire.send(r, out)
	if err != nil {
		s.t.Fatalf("%s: %v", r, err)
	}
	return a
}

// query reads one row as the database's owner.
func (s *service) query(results []any, sql string, args ...any) {
	s.t.Helper()
	if err := s.db.Owner.QueryRow(context.Background(), sql, args...).Scan(results...); err != nil {
		s.t.Fatal(err)
	}
}

// eventually polls until ok returns true. Use eventually for a state that no event
// announces.
func (s *service) eventually(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(programtest.Patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("still not true: %s", what)
		}
	}
}

// person is a user with an account and a session.
type person struct {
	name, password  string
	id              string
	access, refresh string
	role            string // "" means the role user

	keys map[string]string // API keys, by their scopes
}

// key returns an API key of a person with the given scopes. It creates each key once.
func (s *service) key(p *person, scopes ...string) string {
	s.t.Helper()
	name := strings.Join(scopes, " ")
	if p.keys[name] == "" {
		body, err := json.Marshal(map[string]any{"name": name, "scopes": scopes})
		if err != nil {
			s.t.Fatal(err)
		}
		var created struct{ Key string }
		s.as(p).Do("POST", "/keys", string(body)).Must(s.t, 201).Into(s.t, &created)
		if p.keys == nil {
			p.keys = map[string]string{}
		}
		p.keys[name] = created.Key
	}
	return p.keys[name]
}

// signUp registers an account and signs in to it.
func (s *service) signUp(name string) *person {
	s.t.Helper()
	p := &person{name: name, password: "a long sentence of " + name[:3]}
	p.id = s.register(p.name, p.password)
	s.signIn(p).Must(s.t, 200)
	return p
}

// register creates an account and returns its id.
func (s *service) register(name, password string) string {
	s.t.Helper()
	s.hashing.Lock()
	defer s.hashing.Unlock()
	return s.as(nil).Register(name, password).String()
}

// signIn signs a person in. It replaces the person's tokens only if the status is 200.
func (s *service) signIn(p *person) apitest.Answer {
	s.t.Helper()
	s.hashing.Lock()
	defer s.hashing.Unlock()
	a := s.as(nil).Form("/token", "username", p.name, "password", p.password)
	if a.Status == 200 {
		var tokens apitest.Tokens
		a.Into(s.t, &tokens)
		p.access, p.refresh = tokens.Access, tokens.Refresh
	}
	return a
}

// ended reports whether a person's session has ended or their access token has expired.
// The database keeps ended sessions for an hour.
func (s *service) ended(p *person) bool {
	s.t.Helper()
	var claims struct {
		Session string `json:"sid"`
		Expires int64  `json:"exp"`
	}
	p.claims(s.t, &claims)
	var ended bool
	s.query([]any{&ended}, `select exists (select from ended_sessions where session = $1)`, claims.Session)
	return ended || time.Now().Unix() >= claims.Expires
}

// claims decodes the claims of a person's access token.
func (p *person) claims(t testing.TB, v any) {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(p.access, ".")[1])
	if err == nil {
		err = json.Unmarshal(payload, v)
	}
	if err != nil {
		t.Fatalf("the access token %q: %v", p.access, err)
	}
}

// setRole gives an account a role through the command line, because no other way exists.
func (s *service) setRole(p *person, role string) *person {
	s.t.Helper()
	if _, stderr, code := programtest.Run(s.t, s.env, "", "user", "role", p.name, role); code != 0 {
		s.t.Fatalf("user role %s %s: exit status %d: %s", p.name, role, code, stderr)
	}
	p.role = role
	return p
}

// as returns a client for the person. If the person is nil, the client has no account.
func (s *service) as(p *person) apitest.Client {
	c := apitest.Client{T: s.t, URL: s.api.URL}
	if p != nil {
		c.Access = p.access
	}
	return c
}

// awaitJobs waits until exactly n jobs of a person are in one of the states, and returns
// their ids.
func (s *service) awaitJobs(p *person, n int, states ...string) (ids []string) {
	s.t.Helper()
	s.eventually("the jobs are "+strings.Join(states, " or "), func() bool {
		rows, err := s.db.Owner.Query(context.Background(), `select job::text from history where owner = $1 and state = any($2)`, p.id, states)
		if err != nil {
			s.t.Fatal(err)
		}
		if ids, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			s.t.Fatal(err)
		}
		return len(ids) == n
	})
	return ids
}

// count returns the number of the jobs that are in a state.
func (s *service) count(ids []string, state string) (n int) {
	s.t.Helper()
	s.query([]any{&n}, `select count(*) from history where job = any($1::uuid[]) and state = $2`, ids, state)
	return n
}

// longJob is the body of a request for a text of 200 tokens. Its prompt contains the
// canary.
const longJob = `{"prompt":"` + canary + `","max_length":200,"seed":1}`

// runningJob returns the id of a person's job. The job stays in the state running,
// because its worker is killed.
func (s *service) runningJob(p *person) (id string) {
	s.t.Helper()
	s.eventually("the worker is killed before the job ends", func() bool {
		s.startWorker()
		id = s.as(p).Submit(longJob)
		s.eventually("the job is started", func() bool { return s.count([]string{id}, "queued") == 0 })
		s.killWorker()
		return s.count([]string{id}, "running") == 1
	})
	return id
}

// burst is a set of concurrent requests of one user. Each request waits for the text of
// its job.
type burst struct {
	*person
	jobs    []string
	results chan result // has one result for each request
}

// result is the answer to a request, or its error.
type result struct {
	apitest.Answer
	err error
}

// sendBurst sends n requests of a new user that wait for long texts. It returns when the
// jobs of all these requests are stored. The requests end when ctx ends.
func (s *service) sendBurst(ctx context.Context, n int) burst {
	s.t.Helper()
	c := burst{person: s.signUp("burst-" + uuid.NewString()), results: make(chan result, n)}
	for range n {
		go func() {
			a, err := s.as(c.person).Send(ctx, "POST", "/generate", longJob, "Prefer", "wait=60")
			c.results <- result{a, err}
		}()
	}
	c.jobs = s.awaitJobs(c.person, n, "queued", "running", "completed")
	return c
}

// awaitFullSlots waits until each slot of the worker has a job of the burst. It returns
// false if a job of the burst completes before that.
func (s *service) awaitFullSlots(c burst) bool {
	s.t.Helper()
	ended := false
	s.eventually("each slot has a job", func() bool {
		ended = s.count(c.jobs, "completed") > 0
		return ended || s.count(c.jobs, "running") == slots
	})
	return !ended
}

// cancelBurst cancels the jobs of a burst.
func (s *service) cancelBurst(c burst) {
	s.t.Helper()
	for _, id := range c.jobs {
		s.as(c.person).Do("POST", "/jobs/"+id+"/cancel", "").Must(s.t, 200)
	}
}

// logged returns the log lines that contain a text, from all processes of the service.
func (s *service) logged(text string) (lines []string) {
	for _, p := range *s.started {
		for line := range strings.Lines(p.Log()) {
			if strings.Contains(line, text) {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// checkLogs fails the test if a process has logged a panic or an error.
func (s *service) checkLogs() {
	s.t.Helper()
	for _, text := range []string{"panic", "level=ERROR"} {
		if lines := s.logged(text); lines != nil {
			s.t.Errorf("the log has\n%.5000s", strings.Join(lines, ""))
		}
	}
}
