package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestKeysChangeWhileTheServiceRuns creates, lists and revokes API keys by command. The
// running service must follow each change.
func TestKeysChangeWhileTheServiceRuns(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits")
	c := newUser(t, s.url, "isaac")
	key := func(args ...string) (stdout, stderr string, err error) {
		t.Helper()
		return command(t, "", slices.Concat([]string{"key"}, args, s.data)...)
	}
	refused := func(want string, args ...string) {
		t.Helper()
		if out, _, err := key(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("key %v: %s, %v; want %s", args, out, err, want)
		}
	}
	refused("no account", "create", "edmond")
	refused("--scope", "create", "isaac", "--scope", "everything")
	refused("auditors and administrators", "create", "isaac", "--scope", "admin")
	refused("--expires-in", "create", "isaac", "--expires-in", "-1h")
	refused("--generations", "create", "isaac", "--generations", "1000001")
	refused("--tokens", "create", "isaac", "--tokens", "1000000001")
	refused("printable", "create", "isaac", "--name", "a\nb")
	if out, _, err := key("list", "isaac"); err != nil || out != "" {
		t.Errorf("list: %q, %v", out, err)
	}

	out, log, err := key("create", "Isaac", "--name", "night shift", "--expires-in", "1h", "--generations", "5", "--tokens", "900")
	secret := strings.TrimSpace(out)
	id := regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`).FindString(log)
	if err != nil || !regexp.MustCompile(`^sk-colophon-[0-9A-Za-z]{38}\n$`).MatchString(out) || id == "" || strings.Contains(log, secret) {
		t.Fatalf("create: %q, %q, %v", out, log, err)
	}
	holder := c.As(secret)
	job := holder.Submit(`{"prompt":"The nature of light"}`)
	c.Do("GET", "/jobs/"+job, "").Must(t, 200)
	out, _, err = key("list", "isaac")
	if err != nil || !strings.Contains(out, id) || !strings.Contains(out, secret[:16]+"…") || strings.Contains(out, secret[16:]) ||
		!strings.Contains(out, "generate,read") || !strings.Contains(out, "night shift") || strings.Count(out, "\n") != 1 {
		t.Errorf("list: %s, %v", out, err)
	}

	refused("by its id", "revoke", "isaac", secret)
	refused("give the ids", "revoke", "isaac")
	refused("give the ids", "revoke", "isaac", id, "--all")
	refused("has no key", "revoke", "isaac", "00000000-0000-7000-8000-000000000000")
	if out, _, err := key("revoke", "isaac", id); err != nil || out != id+" revoked\n" {
		t.Errorf("revoke: %q, %v", out, err)
	}
	ended := func() bool { return holder.Do("GET", "/history", "").Code() == "invalid_api_key" }
	eventually(t, "the key is refused", ended)
	refused("has no key", "revoke", "isaac", id)

	for range 2 {
		if _, _, err := key("create", "isaac", "--scope", "read"); err != nil {
			t.Fatal(err)
		}
	}
	if out, _, err := key("revoke", "isaac", "--all"); err != nil || strings.Count(out, " revoked\n") != 2 {
		t.Errorf("revoke --all: %q, %v", out, err)
	}
	if out, _, err := key("list", "isaac"); err != nil || out != "" {
		t.Errorf("list: %q, %v", out, err)
	}
	if _, _, err := command(t, "", append([]string{"user", "disable", "isaac"}, s.data...)...); err != nil {
		t.Fatal(err)
	}
	refused("disabled", "create", "isaac")
}
