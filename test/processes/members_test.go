package processes

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"colophon/client"
	"colophon/internal/pg/pgtest"
	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

func TestMain(m *testing.M) { programtest.Main(m) }

// slow marks a test that takes five seconds or more. With -short it skips the test.
func slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes longer than five seconds")
	}
}

// members are the processes of one service over one database.
type members struct {
	t        *testing.T
	url      string // URL of the database, for the owner of the database
	settings []string
}

// newMembers prepares a service with a model whose texts take seconds. Each process uses
// one processor, so that the threads of a process do not wait for each other.
func newMembers(t *testing.T) *members {
	t.Helper()
	return membersOver(t, programtest.Database(t).URL)
}

// membersOver prepares the same service on the given database, whose schema must be up to
// date.
func membersOver(t *testing.T, url string) *members {
	t.Helper()
	settings := []string{"DATABASE_URL=" + url, "COLOPHON_DATA=" + t.TempDir(), "COLOPHON_MODEL=" + deepModel(t), "GOMAXPROCS=1"}
	return &members{t, url, settings}
}

// newServer starts a Postgres server whose database has the current schema. The test may
// stop this server.
func newServer(t *testing.T) *pgtest.Server {
	t.Helper()
	server := pgtest.NewServer(t)
	if _, log, code := programtest.Run(t, []string{"DATABASE_URL=" + server.URL()}, "", "migrate"); code != 0 {
		t.Fatalf("migrate: exit status %d\n%s", code, log)
	}
	return server
}

// query reads one row, as the owner of the database.
func (m *members) query(sql string, results ...any) {
	m.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, m.url)
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, sql).Scan(results...); err != nil {
		m.t.Fatalf("%s: %v", sql, err)
	}
}

func (m *members) api(flags ...string) *programtest.Process {
	return programtest.Start(m.t, m.settings, append([]string{"api", "--listen", "127.0.0.1:0"}, flags...)...)
}

func (m *members) worker(flags ...string) *programtest.Process {
	return programtest.Start(m.t, m.settings, append([]string{"worker"}, flags...)...)
}

// long returns the request for a text that takes at least a second.
func long(seed int) string { return sized(seed, 500) }

// sized returns the request for a text with the given number of tokens.
func sized(seed, tokens int) string {
	return fmt.Sprintf(`{"prompt":"The nature of light","max_new_tokens":%d,"temperature":1.5,"top_k":0,"seed":%d}`, tokens, seed)
}

// marked returns a request with a watermark.
func marked(body string) string { return `{"watermark":true,` + body[1:] }

// user is a client that follows jobs across failures.
type user struct{ apitest.Client }

// newUser registers an account and signs in to it.
func newUser(t *testing.T, url, name string) user { return user{apitest.NewUser(t, url, name)} }

// undisturbed runs jobs without a failure. The result maps the body of each request to
// its text.
func undisturbed(c user, bodies ...string) map[string]string {
	c.T.Helper()
	texts := map[string]string{}
	ids := map[string]string{}
	for _, body := range bodies {
		ids[body] = c.Submit(body)
	}
	for body, id := range ids {
		texts[body] = c.end(id).Completion
	}
	return texts
}

// end polls a job until the job has ended, and returns the job. The service may be
// unavailable meanwhile.
func (c user) end(id string) client.Job {
	c.T.Helper()
	var j client.Job
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		a := c.Do("GET", "/jobs/"+id, "")
		if a.Status == 503 {
			continue
		}
		a.Must(c.T, 200).Into(c.T, &j)
		if j.State.Final() {
			return j
		}
	}
	c.T.Fatalf("job %s is still %s", id, j.State)
	return j
}

// event is the part of a job's event that the tests read.
type event struct {
	Version   int
	Type      string
	Worker    string
	FromToken int `json:"from_token"`
	Attempt   int
	Tokens    []int
	at        time.Time // time at which the test received the event
}

// watch follows a job to its end. The channel receives the events of the job and is then
// closed.
func (c user) watch(id string) <-chan event {
	events := make(chan event, 1000)
	stream := c.Stream(c.T.Context(), "/jobs/"+id+"/events")
	go func() {
		defer close(events)
		for m, err := range stream {
			if err != nil || m.Data == "" {
				continue // the error is ignored, because a test that waits for the lost event fails in the function next
			}
			e := event{at: time.Now()}
			if err := json.Unmarshal([]byte(m.Data), &e); err != nil {
				c.T.Errorf("event %q: %v", m.Data, err)
			}
			events <- e
		}
	}()
	return events
}

// next returns the next event that wanted accepts.
func next(t *testing.T, events <-chan event, wanted func(event) bool) event {
	t.Helper()
	timeout := time.After(programtest.Patience)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatal("the stream ended before the event")
			}
			if wanted(e) {
				return e
			}
		case <-timeout:
			t.Fatal("the event never came")
		}
	}
}

func started(e event) bool { return e.Type == "job.started" }

func advanced(e event) bool { return e.Type == "job.advanced" }
