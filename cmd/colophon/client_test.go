package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
	"colophon/test/apitest"
)

// service is a running `colophon up`.
type service struct {
	url  string
	data string
	stop func() error // as SIGTERM would
}

// up runs the command in this process until the test ends or stop is called.
func up(t *testing.T, data string, flags ...string) *service {
	t.Helper()
	return serving(t, "up", data, flags...)
}

// serving does the same with another command that serves.
func serving(t *testing.T, command, data string, flags ...string) *service {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	var log bytes.Buffer
	ended := make(chan error, 1)
	go func() {
		args := append([]string{command, "--listen", "127.0.0.1:0", "--data", data}, flags...)
		err := run(ctx, args, noEnvironment, strings.NewReader(""), w, &log)
		w.CloseWithError(io.EOF)
		ended <- err
	}()
	stop := sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", log.String())
		}
	})
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if at, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			go io.Copy(io.Discard, r)
			return &service{url: at, data: data, stop: stop}
		}
	}
	t.Fatalf("the service did not start: %v", stop())
	return nil
}

// noEnvironment hides the test's own environment, but for a database to use
// where there is no Postgres to start.
func noEnvironment(name string) (string, bool) {
	if name == "DATABASE_URL" || name == "PGBIN" {
		return os.LookupEnv(name)
	}
	return "", false
}

// client is one user's view of a service.
type client struct{ apitest.Client }

// anyone is nobody's view of one.
func anyone(t *testing.T, url string) client { return client{apitest.Client{T: t, URL: url}} }

// job is the job resource, as far as the tests look at it.
type job struct {
	ID, State, Prompt, Completion, Reason string
	GeneratedText                         string `json:"generated_text"`
	ModelName                             string `json:"model_name"`
	FinishReason                          string `json:"finish_reason"`
	CreatedAt                             string `json:"created_at"`
	Version                               int
	Usage                                 struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
		TotalTokens      int `json:"total_tokens"`
	}
	Params struct{ Seed uint64 }
}

const password = "securepassword"

// newUser registers a user and signs in.
func newUser(t *testing.T, s *service, name string) client {
	t.Helper()
	anyone(t, s.url).Register(name, password)
	return signIn(t, s, name)
}

func signIn(t *testing.T, s *service, name string) client {
	t.Helper()
	c := anyone(t, s.url)
	c.Access = c.SignIn(name, password).Access
	return c
}

// follow reads up to limit messages of a job's stream after a version, all of
// them if limit is 0.
func (c client) follow(id, last string, limit int) []apitest.Message {
	c.T.Helper()
	ctx, cut := context.WithTimeout(c.T.Context(), time.Minute)
	defer cut()
	var headers []string
	if last != "" {
		headers = []string{"Last-Event-ID", last}
	}
	messages := []apitest.Message{}
	for m, err := range c.Stream(ctx, "/jobs/"+id+"/events", headers...) {
		if err != nil {
			c.T.Fatalf("stream: %v", err)
		}
		if m == (apitest.Message{}) {
			continue
		}
		if messages = append(messages, m); len(messages) == limit {
			break
		}
	}
	return messages
}

// openDatabase connects to the private Postgres of a data directory, as its owner.
func openDatabase(t *testing.T, data string) *pgx.Conn {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	cluster, err := pg.Start(ctx, filepath.Join(data, "postgres"), pg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cluster.Stop(ctx) })
	conn, err := pgx.Connect(ctx, cluster.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(ctx) })
	return conn
}

// dataDir returns a data directory that a test may run the service over.
func dataDir(t *testing.T) string {
	t.Helper()
	return pgtest.Dir(t)
}
