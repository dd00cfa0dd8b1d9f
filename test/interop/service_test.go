package interop

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"colophon/internal/pg/pgtest"
	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

func TestMain(m *testing.M) {
	// The program is built from the module of the working directory.
	if err := os.Chdir(filepath.Join("..", "..")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programtest.Main(m)
}

// origin is the name of the tests' logs.
const origin = "log.example/interop"

// events is the number of events of a large log.
const events = 100_000

// service is a running `colophon up` without limits on requests.
type service struct {
	*programtest.Process
	db       *pgtest.DB
	settings []string
}

// start starts the service. It signs the log with the given flags.
func start(t *testing.T, flags ...string) *service {
	t.Helper()
	db := programtest.Database(t)
	s := &service{db: db, settings: []string{"DATABASE_URL=" + db.URL, "COLOPHON_DATA=" + t.TempDir(), "COLOPHON_LOG_ORIGIN=" + origin}}
	s.restart(t, flags...)
	return s
}

// restart starts the service again, after its process has ended.
func (s *service) restart(t *testing.T, flags ...string) {
	t.Helper()
	s.Process = programtest.Start(t, s.settings, append([]string{"up", "--listen", "127.0.0.1:0", "--no-rate-limits"}, flags...)...)
}

// get returns the answer to a request, whose status must be 200.
func (s *service) get(t *testing.T, path string) string {
	t.Helper()
	return string(apitest.Client{T: t, URL: s.URL}.Do("GET", path, "").Must(t, 200).Body)
}

// log returns the URL of the log.
func (s *service) log(t *testing.T) *url.URL {
	t.Helper()
	u, err := url.Parse(s.URL + "/log/")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// key returns the key of the log.
func (s *service) key(t *testing.T) (vkey string, verifier note.Verifier) {
	t.Helper()
	var answer apitest.Answer
	programtest.Eventually(t, "the log has a key", func() bool {
		answer = apitest.Client{T: t, URL: s.URL}.Do("GET", "/log/key", "")
		return answer.Status == 200
	})
	vkey = strings.TrimSpace(string(answer.Body))
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return vkey, verifier
}

// fill adds events until the log has n of them, and waits for a checkpoint of all.
func (s *service) fill(t *testing.T, n int) {
	t.Helper()
	var stored int
	if err := s.db.Owner.QueryRow(t.Context(), `select count(*) from events`).Scan(&stored); err != nil {
		t.Fatal(err)
	}
	for stored < n {
		stored = min(stored+25_000, n)
		s.add(t, stored)
	}
}

// add is fill in one step.
func (s *service) add(t *testing.T, n int) {
	t.Helper()
	_, err := s.db.Owner.Exec(t.Context(), `
		insert into events (stream, version, owner, type, at, schema, payload)
		select 'account/' || gen_random_uuid(), 1, gen_random_uuid(), 'test', now(), 2, convert_to(gen_random_uuid()::text, 'UTF8')
		from generate_series(1, $1 - (select count(*) from events))`, n)
	if err != nil {
		t.Fatal(err)
	}
	programtest.Eventually(t, fmt.Sprintf("a checkpoint has %d events", n), func() bool {
		var signed bool
		err := s.db.Owner.QueryRow(t.Context(), `select coalesce(max(size), 0) = $1 from log_checkpoints`, n).Scan(&signed)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	})
}

// file writes a file for a command.
func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
