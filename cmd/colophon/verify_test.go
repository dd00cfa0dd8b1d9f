package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVerifyTellsByItsStatus verifies receipts with right and wrong files.
func TestVerifyTellsByItsStatus(t *testing.T) {
	t.Parallel()
	const golden, key = "../../events/receipt/testdata/receipt.json", "../../events/receipt/testdata/log.key"
	const erased, marked = "../../events/receipt/testdata/erased.json", "../../events/receipt/testdata/marked.json"
	dir := t.TempDir()
	file := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	text := string(mustRead(t, golden))
	// The beginning of the payload of event 2, with another time.
	changed := strings.Replace(text, "MuMDAyMDAwWi", "MuMDAzMDAwWi", 1)
	if changed == text {
		t.Fatal("nothing was changed")
	}
	trusted := file("policy", "log "+strings.TrimSpace(string(mustRead(t, key)))+"\nquorum none\n")
	other := file("other.key", "log.example/test+67bb8c97+AdxLgv2C1m0BQRpIkDfoYbxnQWqDLJ7P7HvDZIWmV6/x\n")
	for _, c := range []struct {
		stdin  string
		args   []string
		status int
		out    string
		err    string
	}{
		{"", []string{golden, "--key", key}, 0, "Proven: the service that signs the log log.example/test", ""},
		{text, []string{"-", "--key", key}, 0, `"In a very dark <Chamber>"`, ""},
		{"", []string{golden, "--policy", trusted}, 0, "completed at", ""},
		{"", []string{erased, "--key", key}, 0, "erased      at ", ""},
		{"", []string{marked, "--key", key}, 0, "marked with the key 020ca29fff479ebe (gumbel-h3-s8/1)", ""},
		{"", []string{golden}, 2, "not proven", "no key that you trust"},
		{"", []string{golden, "--key", file("damaged.key", "x")}, 64, "", "--key"},
		{"", []string{golden, "--key", other}, 64, "", "--key"},
		{"", []string{golden, "--key", filepath.Join(dir, "missing")}, 64, "", "--key"},
		{"", []string{golden, "--policy", key}, 64, "", "--policy"},
		{"", []string{filepath.Join(dir, "missing"), "--key", key}, 64, "", "missing"},
		{"", []string{"--key", key}, 64, "", "<file>"},
		{"", []string{golden, "--unknown"}, 64, "", "unknown"},
		{changed, []string{"-", "--key", key}, 1, "", "refuted: event"},
		{"{}", []string{"-", "--key", key}, 2, "", "cannot tell: not a receipt"},
		{"", []string{"-", "--key", key}, 2, "", "cannot tell: not a receipt"},
	} {
		out, _, err := command(t, c.stdin, append([]string{"verify"}, c.args...)...)
		got, message := 0, ""
		if err != nil {
			got, message = status(err), err.Error()
		}
		if got != c.status || !strings.Contains(out, c.out) || c.out == "" && out != "" || !strings.Contains(message, c.err) {
			t.Errorf("%q: status %d, %q, %q, want %d, %q, %q", c.args, got, out, message, c.status, c.out, c.err)
		}
	}
	if _, _, err := command(t, "", "model", "verify", "--unknown"); status(err) != 2 {
		t.Errorf("wrong usage of another command: %v", err)
	}
}

// TestTextPolicyIsNoPolicyOfWitnesses verifies a receipt in the environment of a service, whose
// variable COLOPHON_POLICY names a file of another kind.
func TestTextPolicyIsNoPolicyOfWitnesses(t *testing.T) {
	t.Parallel()
	env := func(name string) (string, bool) {
		return "../../go.mod", name == "COLOPHON_POLICY" || name == "COLOPHON_URL"
	}
	args := []string{"verify", "../../events/receipt/testdata/receipt.json", "--key", "../../events/receipt/testdata/log.key"}
	if err := run(t.Context(), args, env, strings.NewReader(""), io.Discard, io.Discard); err != nil {
		t.Error(err)
	}
	err := run(t.Context(), []string{"log", "verify", "--data", t.TempDir(), "--database-url", "::"}, env, strings.NewReader(""), io.Discard, io.Discard)
	if err == nil || strings.Contains(err.Error(), "--policy") || strings.Contains(err.Error(), "--url") {
		t.Errorf("%v, want an error of the database", err)
	}
}

// TestVerifyPrintsNoControlCharacters prints texts with which a receipt could control a
// terminal.
func TestVerifyPrintsNoControlCharacters(t *testing.T) {
	t.Parallel()
	err := &verdictError{errors.New("refuted: event 1 is \x1b]0;title\a"), statusRefuted}
	if strings.ContainsAny(err.Error(), "\x1b\a") || !strings.HasPrefix(err.Error(), "refuted: event 1 is") {
		t.Errorf("%q", err)
	}
	if got := printable("a\x1b[2Jb\u009bc\td\u202ee"); strings.ContainsAny(got, "\x1b\u009b\t\u202e") || !strings.HasPrefix(got, "a") {
		t.Errorf("%q", got)
	}
}
