package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"colophon/internal/pg/pgtest"
	"colophon/migrations"
	"colophon/test/apitest"
)

// service is a running `colophon up` or `colophon api`.
type service struct {
	url  string
	data []string // flags that select the database and the data directory of the service
	log  *apitest.Log

	first string       // first line of the output
	stop  func() error // stops the service; its result is the command's error
}

// ownDatabase returns flags that select a database and a data directory for one test.
func ownDatabase(t *testing.T) []string {
	t.Helper()
	return []string{"--database-url", pgtest.New(t, migrations.Up).URL, "--data", t.TempDir()}
}

// up runs `colophon up` in this process until the test ends.
func up(t *testing.T, flags ...string) *service {
	t.Helper()
	return serve(t, "up", flags...)
}

// serve runs a command that serves HTTP in this process until the test ends. serve
// returns when the service is ready.
func serve(t *testing.T, command string, flags ...string) *service {
	t.Helper()
	return serveWith(t, ownDatabase(t), command, flags...)
}

// serveWith is serve with given flags for the data.
func serveWith(t *testing.T, data []string, command string, flags ...string) *service {
	t.Helper()
	s := &service{data: data, log: &apitest.Log{}}
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		args := append(append([]string{command, "--listen", "127.0.0.1:0"}, s.data...), flags...)
		err := run(ctx, args, noEnvironment, strings.NewReader(""), w, s.log)
		w.CloseWithError(io.EOF)
		ended <- err
	}()
	s.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", s.log)
		}
	})
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if s.first == "" {
			s.first = lines.Text()
		}
		if at, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			go io.Copy(io.Discard, r)
			s.url = at
			return s
		}
	}
	t.Fatalf("the service did not start: %v", s.stop())
	return nil
}

// noEnvironment hides all environment variables from a command, except the variables for
// Postgres.
func noEnvironment(name string) (string, bool) {
	if name == "DATABASE_URL" || name == "PGBIN" {
		return os.LookupEnv(name)
	}
	return "", false
}

const password = "securepassword"

// newUser registers a user at a service and signs in as that user.
func newUser(t *testing.T, url, name string) apitest.Client {
	t.Helper()
	apitest.Client{T: t, URL: url}.Register(name, password)
	return signIn(t, url, name)
}

func signIn(t *testing.T, url, name string) apitest.Client {
	t.Helper()
	c := apitest.Client{T: t, URL: url}
	return c.As(c.SignIn(name, password).Access)
}

// eventually fails the test unless ok returns true within a minute.
func eventually(t *testing.T, condition string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", condition)
		}
	}
}
