package api_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"colophon/api"
	"colophon/events"
	"colophon/internal/auth"
	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
	"colophon/internal/policy"
	"colophon/jobs"
)

// TestStatesOfTheDatabaseAreTemporary makes the database refuse the events of a job with
// several SQLSTATEs. If the SQLSTATE is a temporary state of the database, the answer
// must say when to try again. The readiness probe must fail only if the database lacks
// resources.
func TestStatesOfTheDatabaseAreTemporary(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	fail := func(code string) {
		t.Helper()
		for _, sql := range []string{
			`create or replace function fail() returns trigger language plpgsql as $$ begin raise exception 'canary' using errcode = '` + code + `'; end $$`,
			`create or replace trigger fail before insert on events for each row execute function fail()`,
		} {
			if _, err := f.db.Owner.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		sqlstate   string
		status     int
		code, wait string
		ready      int
	}{
		{"23514", 500, "internal", "", 200},
		{"42501", 500, "internal", "", 200},
		{"XX001", 500, "internal", "", 200},
		{"08006", 503, "unavailable", "2", 200},
		{"25006", 503, "database_read_only", "2", 200}, // the service stays ready, because only this connection is read-only
		{"40001", 503, "database_contended", "1", 200},
		{"55P03", 503, "database_contended", "1", 200},
		{"57014", 503, "database_contended", "1", 200},
		{"57P01", 503, "unavailable", "2", 200},
		{"57P03", 503, "unavailable", "2", 200},
		{"53300", 503, "database_exhausted", "5", 503},
		{"53100", 503, "database_exhausted", "5", 503},
	} {
		fail(c.sqlstate)
		a := f.Do("POST", "/jobs", prompt)
		a.Refused(t, c.status, c.code)
		if wait := a.Header.Get("Retry-After"); wait != c.wait || strings.Contains(string(a.Body), "canary") {
			t.Errorf("%s: Retry-After %q, %s", c.sqlstate, wait, a.Body)
		}
		ready := f.Do("GET", "/readyz", "")
		if ready.Status != c.ready || c.ready == 503 && !strings.Contains(string(ready.Body), pg.ErrExhausted.Error()) {
			t.Errorf("%s: readiness %d: %s", c.sqlstate, ready.Status, ready.Body)
		}
	}
	if _, err := f.db.Owner.Exec(t.Context(), `drop trigger fail on events`); err != nil {
		t.Fatal(err)
	}
	f.Do("POST", "/jobs", prompt).Must(t, 202)
}

// TestReadOnlyConnectionsAreReplaced makes the sessions of all connections read-only. The
// first write must be answered 503. The next write must succeed, because it gets a new
// connection.
func TestReadOnlyConnectionsAreReplaced(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	idle := f.db.App.AcquireAllIdle(t.Context())
	if len(idle) == 0 {
		t.Fatal("the service has no connection")
	}
	for _, conn := range idle {
		if _, err := conn.Exec(t.Context(), `set default_transaction_read_only = on`); err != nil {
			t.Fatal(err)
		}
		conn.Release()
	}
	// If background work uses a read-only connection first, this request gets a new
	// connection and succeeds.
	if a := f.Do("POST", "/jobs", prompt); a.Status != 202 {
		a.Refused(t, 503, "database_read_only")
	}
	f.Do("POST", "/jobs", prompt).Must(t, 202)
	f.Do("GET", "/readyz", "").Must(t, 200)
}

// silencer forwards connections to a database. Once armed, it waits for a connection on
// which a client sends a given text. It then forwards nothing more on this connection,
// which stays open.
type silencer struct {
	listener net.Listener
	server   [2]string // network and address
	ended    sync.WaitGroup
	done     chan struct{}

	mu       sync.Mutex
	text     []byte        // nil unless armed
	silenced chan struct{} // closed when a connection has been silenced
}

func newSilencer(t *testing.T, config *pgconn.Config) *silencer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &silencer{listener: l, done: make(chan struct{})}
	s.server[0], s.server[1] = pgconn.NetworkAddress(config.Host, config.Port)
	s.ended.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.ended.Go(func() { s.forward(c) })
		}
	})
	return s
}

// stop ends all connections.
func (s *silencer) stop() { s.listener.Close(); close(s.done); s.ended.Wait() }

func (s *silencer) forward(client net.Conn) {
	server, err := net.Dial(s.server[0], s.server[1])
	if err != nil {
		client.Close()
		return
	}
	var ended sync.WaitGroup
	defer ended.Wait()
	ended.Go(func() { <-s.done; client.Close(); server.Close() })
	defer client.Close()
	defer server.Close()
	ended.Go(func() { _, _ = io.Copy(client, server); client.Close() })
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if s.hit(buf[:n]) {
			<-s.done
			return
		}
		if n > 0 {
			_, _ = server.Write(buf[:n]) // an error ends the other direction too
		}
		if err != nil {
			return
		}
	}
}

func (s *silencer) hit(sent []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.text == nil || !bytes.Contains(sent, s.text) {
		return false
	}
	s.text = nil
	close(s.silenced)
	return true
}

// arm silences the next connection on which a client sends the text. The channel is
// closed when this has happened.
func (s *silencer) arm(text string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text, s.silenced = []byte(text), make(chan struct{})
	return s.silenced
}

// TestSilentConnectionDelaysOneRequest silences the connection of one statement at a time.
// Only the request that runs the statement may wait. It must return when its client leaves.
func TestSilentConnectionDelaysOneRequest(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	direct := f.db.App.Config().ConnConfig
	proxy := newSilencer(t, &direct.Config)
	// With the mode exec, pgx sends the text of a statement each time. The silencer can
	// then find the text.
	url := "postgres://" + direct.User + ":" + direct.Password + "@" + proxy.listener.Addr().String() + "/" + direct.Database +
		"?sslmode=disable&default_query_exec_mode=exec"
	pool, err := pg.Connect(t.Context(), url, pgtest.AppRole)
	if err != nil {
		t.Fatal(err)
	}
	log := f.api.Log
	store := events.NewStore(pool, f.vault, log)
	queue, err := jobs.NewQueue(pool, store, jobs.Model{Name: "fake", Context: 1000, Vocab: 300, Encode: func(text string) []int { return make([]int, len(text)) }},
		policy.Default, jobs.Limits{Queued: 1000}, log)
	if err != nil {
		t.Fatal(err)
	}
	accounts, err := auth.New(t.Context(), pool, store, f.vault, auth.Options{Issuer: "test", Audience: "test", HashMemory: 64})
	if err != nil {
		t.Fatal(err)
	}
	running, cancel := context.WithCancel(context.Background())
	var background sync.WaitGroup
	background.Go(func() { store.Run(running, nil) })
	background.Go(func() { queue.Run(running) })
	t.Cleanup(func() { proxy.stop(); cancel(); background.Wait(); pool.Close() })
	c := f.another(t, func(o *api.Options) {
		o.Store, o.Queue, o.Auth = store, queue, accounts
		o.Ready = func(ctx context.Context) ([]string, error) { return nil, pg.CheckWritable(ctx, pool) }
	})
	one, two := c.Submit(prompt), c.Submit(prompt)
	others := func() {
		t.Helper()
		c.Do("GET", "/jobs/"+two, "").Must(t, 200)
		c.Do("GET", "/history", "").Must(t, 200)
		c.Do("GET", "/readyz", "").Must(t, 200)
		c.Submit(prompt)
	}

	<-proxy.arm(") as queued") // the service counts the queue for all requests
	others()
	c.Do("GET", "/jobs/"+one, "").Must(t, 200)

	for what, send := range map[string]struct{ text, method, path, body string }{
		"the events of a job":  {"job/" + one, "GET", "/jobs/" + one, ""},
		"the place in a queue": {"(priority, job) <", "GET", "/jobs/" + one, ""},
		"the history":          {"state = 'completed' and job <", "GET", "/history", ""},
	} {
		silenced := proxy.arm(send.text)
		ctx, leave := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			_, err := c.Send(ctx, send.method, send.path, send.body)
			gone <- err
		}()
		<-silenced
		others()
		c.Do("GET", "/jobs/"+one, "").Must(t, 200)
		select {
		case err := <-gone:
			t.Errorf("%s: the request did not wait: %v", what, err)
		default:
		}
		leave()
		if err := <-gone; err == nil {
			t.Errorf("%s: answered", what)
		}
	}
}
