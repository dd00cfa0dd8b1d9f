package contract

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/url"
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

// slots is how many jobs the worker runs at once.
const slots = 16

// workerConnections is the name of the worker's database connections, and what the
// names of its special connections begin with.
const workerConnections = "contract-worker"

// service is a service of the test's own: an api process, and a worker for the
// tests that need one, over one database.
type service struct {
	t      testing.TB
	db     *pgtest.DB
	env    []string
	api    *programtest.Process // receives the requests
	worker *programtest.Process // nil without work
	wire   *wire

	started *[]*programtest.Process // by this service and its copies

	// hashing is held while the service hashes a password for a test. Several
	// requests at a time could wait for each other longer than the service lets them.
	hashing *sync.Mutex
}

// newService starts a service that limits nothing and runs no jobs.
func newService(t *testing.T) *service {
	t.Helper()
	s := &service{t: t, db: programtest.Database(t), started: new([]*programtest.Process), hashing: new(sync.Mutex)}
	s.env = []string{"COLOPHON_DATA=" + t.TempDir(), "DATABASE_URL=" + s.db.URL}
	s.listen("--no-rate-limits")
	return s
}

// listen starts the api process. It has no quotas: a long run has more jobs than
// a user may have outstanding by default.
func (s *service) listen(flags ...string) {
	s.t.Helper()
	s.api = programtest.Start(s.t, s.env, append([]string{"api", "--listen", "127.0.0.1:0",
		"--max-outstanding-jobs", "0", "--max-queued-jobs", "0", "--max-streams", "0"}, flags...)...)
	s.wire = newWire(s.t, s.api.URL)
	*s.started = append(*s.started, s.api)
}

// limited returns the same service behind another api process, which has one rate
// for every limit.
func (s *service) limited(rate string) *service {
	s.t.Helper()
	other := *s
	flags := []string{"--rate-limits", "memory"}
	for _, limit := range []string{"users", "token", "jobs", "calls", "anonymous"} {
		flags = append(flags, "--limit-"+limit, rate)
	}
	other.listen(flags...)
	return &other
}

// in returns the service for a subtest, or for other goroutines of a test.
func (s *service) in(t testing.TB) *service {
	other := *s
	other.t = t
	return &other
}

// work starts the worker, unless it runs.
func (s *service) work() {
	s.t.Helper()
	if s.worker != nil {
		return
	}
	at, err := url.Parse(s.db.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	query := at.Query()
	query.Set("application_name", workerConnections)
	at.RawQuery = query.Encode()
	s.worker = programtest.Start(s.t, append(s.env[:1:1], "DATABASE_URL="+at.String()), "worker", "--slots", strconv.Itoa(slots))
	*s.started = append(*s.started, s.worker)
}

// kill kills the worker and waits until the database has done all that the worker
// asked for. From then on a running job stays as it is: no process continues it.
func (s *service) kill() {
	s.t.Helper()
	s.worker.Kill()
	s.worker = nil
	s.eventually("the worker has no connection", func() bool {
		var connections int
		s.query([]any{&connections}, `select count(*) from pg_stat_activity where datname = current_database() and application_name like $1 || '%'`, workerConnections)
		return connections == 0
	})
}

// serve sends a request as it is composed.
func (s *service) serve(r *request) apitest.Answer {
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

// eventually waits for a state that no event announces.
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
	role            string // "" is user
}

// join registers an account and signs in to it.
func (s *service) join(name string) *person {
	s.t.Helper()
	p := &person{name: name, password: "a long sentence of " + name[:3]}
	p.id = s.register(p.name, p.password)
	s.signIn(p).Must(s.t, 200)
	return p
}

// register makes an account and returns its id.
func (s *service) register(name, password string) string {
	s.t.Helper()
	s.hashing.Lock()
	defer s.hashing.Unlock()
	return s.as(nil).Register(name, password).String()
}

// signIn gives a person a new session, if the answer is 200.
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

// ended reports whether a person's session has ended, which the database has on
// record for an hour, or their access token has expired.
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

// promote gives an account a role by the command line, the only way to do so.
func (s *service) promote(p *person, role string) *person {
	s.t.Helper()
	if _, stderr, code := programtest.Run(s.t, s.env, "", "user", "role", p.name, role); code != 0 {
		s.t.Fatalf("user role %s %s: exit status %d: %s", p.name, role, code, stderr)
	}
	p.role = role
	return p
}

// as returns the client of a person, or of a caller without an account.
func (s *service) as(p *person) apitest.Client {
	c := apitest.Client{T: s.t, URL: s.api.URL}
	if p != nil {
		c.Access = p.access
	}
	return c
}

// jobs waits until a person has so many jobs in the states, and returns their
// ids.
func (s *service) jobs(p *person, many int, states ...string) (ids []string) {
	s.t.Helper()
	s.eventually("the jobs are "+strings.Join(states, " or "), func() bool {
		rows, err := s.db.Owner.Query(context.Background(), `select job::text from history where owner = $1 and state = any($2)`, p.id, states)
		if err != nil {
			s.t.Fatal(err)
		}
		if ids, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			s.t.Fatal(err)
		}
		return len(ids) == many
	})
	return ids
}

// count returns how many of the jobs are in a state.
func (s *service) count(ids []string, state string) (n int) {
	s.t.Helper()
	s.query([]any{&n}, `select count(*) from history where job = any($1::uuid[]) and state = $2`, ids, state)
	return n
}

// long is the body of a request for a text of 200 tokens that has the canary in
// it.
const long = `{"prompt":"` + canary + `","max_length":200,"seed":1}`

// running returns a job of a person that runs and makes no progress: its worker is
// killed.
func (s *service) running(p *person) (id string) {
	s.t.Helper()
	s.eventually("the worker is killed before the job ends", func() bool {
		s.work()
		id = s.as(p).Submit(long)
		s.eventually("the job is started", func() bool { return s.count([]string{id}, "queued") == 0 })
		s.kill()
		return s.count([]string{id}, "running") == 1
	})
	return id
}

// crowd is a user with requests that wait for texts, and the jobs that write them.
type crowd struct {
	*person
	jobs    []string
	answers chan answer // one for each request
}

// answer is what a request got.
type answer struct {
	apitest.Answer
	err error
}

// gather sends requests of a new user that wait for long texts, and returns when
// all their jobs are on record. The requests end with ctx.
func (s *service) gather(ctx context.Context, many int) crowd {
	s.t.Helper()
	c := crowd{person: s.join("crowd-" + uuid.NewString()), answers: make(chan answer, many)}
	for range many {
		go func() {
			a, err := s.as(c.person).Send(ctx, "POST", "/generate", long, "Prefer", "wait=30")
			c.answers <- answer{a, err}
		}()
	}
	c.jobs = s.jobs(c.person, many, "queued", "running", "completed")
	return c
}

// fill waits until the worker has a job of the crowd in each slot. It reports false
// if a job has ended before.
func (s *service) fill(c crowd) bool {
	s.t.Helper()
	ended := false
	s.eventually("each slot has a job", func() bool {
		ended = s.count(c.jobs, "completed") > 0
		return ended || s.count(c.jobs, "running") == slots
	})
	return !ended
}

// cancel cancels the jobs of a crowd.
func (s *service) cancel(c crowd) {
	s.t.Helper()
	for _, id := range c.jobs {
		s.as(c.person).Do("POST", "/jobs/"+id+"/cancel", "").Must(s.t, 200)
	}
}

// logged returns the lines of all logs that contain a text.
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

// quiet fails the test if a process has logged an error.
func (s *service) quiet() {
	s.t.Helper()
	for _, text := range []string{"panic", "level=ERROR"} {
		if lines := s.logged(text); lines != nil {
			s.t.Errorf("the log has\n%.5000s", strings.Join(lines, ""))
		}
	}
}
