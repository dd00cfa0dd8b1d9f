package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"colophon/events/receipt"
	"colophon/internal/pg/pgtest"
	"colophon/migrations"
	"colophon/test/apitest"
)

// logOf returns the latest checkpoint of a service and its keys. It reports false if there is
// no checkpoint yet.
func logOf(t *testing.T, c apitest.Client) (checkpoint receipt.SignedCheckpoint, keys string, ok bool) {
	t.Helper()
	keys = string(c.Do("GET", "/log/key", "").Must(t, 200).Body)
	a := c.Do("GET", "/log/checkpoint", "")
	if a.Status == http.StatusNotFound {
		return checkpoint, keys, false
	}
	var verifiers receipt.Keys
	for vkey := range strings.Lines(keys) {
		key, err := receipt.ParseKey(strings.TrimSpace(vkey))
		if err != nil {
			t.Fatal(err)
		}
		verifiers = append(verifiers, key)
	}
	checkpoint, err := receipt.OpenCheckpoint(string(a.Must(t, 200).Body), verifiers...)
	if err != nil {
		t.Fatal(err)
	}
	return checkpoint, keys, true
}

// TestLogIsSignedThroughRestarts runs a service, starts it again with a witness, rotates the
// key, loses events and begins a new log.
func TestLogIsSignedThroughRestarts(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	dir := t.TempDir()
	data := []string{"--data", dir, "--database-url", db.URL}
	file := func(name, content string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	must := func(want string, args ...string) {
		t.Helper()
		if out, _, err := command(t, "", slices.Concat(args, data)...); err != nil || !strings.Contains(out, want) {
			t.Fatalf("%v: %q, %v, want %q", args, out, err, want)
		}
	}
	verify := func(want int, says string, args ...string) {
		t.Helper()
		out, _, err := command(t, "", slices.Concat([]string{"log", "verify"}, args, data)...)
		got := 0
		if err != nil {
			got, out = status(err), err.Error()
		}
		if got != want || !strings.Contains(out, says) {
			t.Errorf("log verify %q: status %d, %q, want %d, %q", args, got, out, want, says)
		}
	}
	verify(2, "no process has signed the log")
	s := serveWith(t, data, "up", "--log-origin", "log.example/test")
	c := newUser(t, s.url, "isaac")
	var first receipt.SignedCheckpoint
	var keys string
	eventually(t, "the registration is in a checkpoint", func() (ok bool) { first, keys, ok = logOf(t, c); return ok })
	kept := file("checkpoint", string(c.Do("GET", "/log/checkpoint", "").Must(t, 200).Body))
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := command(t, "", slices.Concat([]string{"up", "--listen", "127.0.0.1:0", "--log-origin", "other.example"}, data)...); status(err) != 2 || !strings.Contains(err.Error(), "log.example/test") {
		t.Errorf("another name: %v", err)
	}

	w := serveWith(t, nil, "witness", "--log", file("log.key", keys), "--key", filepath.Join(dir, "witness.key"), "--name", "witness.example", "--state", filepath.Join(dir, "witness.state"))
	policy := file("policy", fmt.Sprintf("witness w %s %s\nquorum w\n", w.first, w.url))
	s = serveWith(t, data, "up", "--log-witnesses", policy)
	c.URL = s.url
	c.Do("POST", "/generate", `{"prompt":"Light","max_length":20}`).Must(t, 200)
	p, err := receipt.ParsePolicy(string(mustRead(t, policy)))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the witness has cosigned a larger log", func() bool {
		now, _, _ := logOf(t, c)
		return now.Size > first.Size && len(p.Cosigned(now)) == 1
	})

	verify(0, "of the log log.example/test are those that were signed", "--since", kept)
	verify(2, "open the checkpoint", "--since", kept, "--key", file("other.key", otherKey))
	verify(64, "--since", "--since", file("nothing", "")+"-missing")
	verify(64, "does not exist", "--log-state", file("nothing", "")+"-missing")
	if _, _, err := command(t, "", "log", "verify", "--data", dir, "--database-url", "::"); err == nil || status(err) != 2 && status(err) != 64 {
		t.Errorf("a database that cannot be reached: %v", err)
	}

	must("signs the log from now on", "keys", "rotate", "--log")
	eventually(t, "both keys sign", func() bool { now, _, _ := logOf(t, c); return len(now.ByLog) == 2 })

	// A restored backup lacks the last events.
	last, _, _ := logOf(t, c)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		`delete from events where position = (select position from log_entries where idx = $1)`,
		`delete from log_entries where idx >= $1`, `delete from log_checkpoints where size > $1`,
	} {
		db.Damage(t, sql, last.Size-1)
	}
	verify(1, "a signed checkpoint has", "--since", kept)
	s = serveWith(t, data, "up", "--log-witnesses", policy)
	c.URL = s.url
	eventually(t, "the signer refuses", func() bool { return strings.Contains(s.log.String(), "colophon log begin") })
	must("continues log.example/test after "+fmt.Sprint(last.Size)+" events", "log", "begin", "log.example/second")
	eventually(t, "the new log names the last checkpoint of the old one", func() bool {
		now, _, ok := logOf(t, c)
		if !ok || now.Origin != "log.example/second" {
			return false
		}
		previous, ok := now.Previous()
		if !ok || previous.Text() != last.Text() {
			t.Fatalf("%q continues %q, want %q", now.Text(), previous.Text(), last.Text())
		}
		return true
	})
}

// otherKey is the key of no log.
const otherKey = "log.example/test+d4d8643a+AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n"

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// TestWrongFlagsOfTheLogEndWithStatus2 starts commands with flags that make no sense.
func TestWrongFlagsOfTheLogEndWithStatus2(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte("quorum everybody\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"worker", "--log-origin", "log.example"},
		{"worker", "--log-witnesses", broken},
		{"worker", "--log-state", broken + "-state", "--log-witnesses", broken},
		{"worker", "--log-state", broken + "-state", "--log-witnesses", dir},
		{"worker", "--log-state", broken + "-state", "--log-origin", "two words"},
		{"keys", "rotate", "--log", "--leaked"},
		{"keys", "rotate", "--log", "--overlap", "-1s"},
		{"witness", "--log", broken, "--key", broken, "--state", broken},
		{"witness", "--log", filepath.Join(dir, "missing"), "--key", broken, "--state", broken},
	} {
		if args[0] != "witness" {
			args = append(args, "--data", dir)
		}
		if _, _, err := command(t, "", args...); err == nil || status(err) != 2 {
			t.Errorf("%v: %v", args, err)
		}
	}
}
