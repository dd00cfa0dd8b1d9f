package main

import (
	"slices"
	"strings"
	"testing"
)

// TestAccountsChangeWhileTheServiceRuns creates the first administrator and then runs
// every other command for accounts. The running service must follow each change.
func TestAccountsChangeWhileTheServiceRuns(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits")
	user := func(stdin string, args ...string) (string, error) {
		t.Helper()
		out, log, err := command(t, stdin, slices.Concat([]string{"user"}, args, s.data)...)
		if strings.Contains(out+log, password) {
			t.Errorf("user %v shows the password", args)
		}
		return out, err
	}
	must := func(want string, stdin string, args ...string) {
		t.Helper()
		if out, err := user(stdin, args...); err != nil || !strings.Contains(out, want) {
			t.Errorf("user %v: %s, %v; want %s", args, out, err, want)
		}
	}
	refused := func(want string, stdin string, args ...string) {
		t.Helper()
		if out, err := user(stdin, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("user %v: %s, %v; want %s", args, out, err, want)
		}
	}
	refused("no password", "", "create", "edmond")
	refused("8 to 256", "short\n", "create", "edmond")
	refused("white space", password+"\n", "create", "edmond halley")
	refused("--role", password, "create", "edmond", "--role", "emperor")
	must("admin", password+"\r\n", "create", "edmond", "--role", "admin")
	refused("taken", password, "create", "EDMOND")
	c := newUser(t, s.url, "isaac")
	admin := signIn(t, s.url, "edmond")
	admin.Do("GET", "/users", "").Must(t, 200)
	c.Do("GET", "/users", "").Refused(t, 403, "forbidden")
	must("auditor", "", "role", "Isaac", "auditor")
	c.Do("GET", "/users", "").Must(t, 200)
	must("disabled", "", "disable", "isaac")
	c.Form("/token", "username", "isaac", "password", password).Refused(t, 401, "invalid_credentials")
	must("enabled", "", "enable", "isaac")
	signIn(t, s.url, "isaac")
	refused("no account", "", "disable", "leonhard")
	refused("auditor", "", "role", "isaac", "emperor")
	ended := func() bool { return c.Do("GET", "/users", "").Status == 401 } // becomes true a second or two after the session has ended
	must("isaac", "", "sign-out", "isaac")
	eventually(t, "the session ends", ended)
	c = signIn(t, s.url, "isaac")
	refused("8 to 256", "short", "password", "isaac")
	must("isaac", "another "+password, "password", "Isaac")
	eventually(t, "the session ends", ended)
	c.Form("/token", "username", "isaac", "password", password).Refused(t, 401, "invalid_credentials")
	c.Form("/token", "username", "isaac", "password", "another "+password).Must(t, 200)
	out, err := user("", "list")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err != nil || len(lines) != 2 || !strings.Contains(lines[0], "edmond") || !strings.Contains(lines[0], "admin") || !strings.Contains(lines[1], "isaac") {
		t.Errorf("%s, %v", out, err)
	}
	refused("not confirmed", "", "erase", "isaac")
	refused("not confirmed", "edmond\n", "erase", "isaac")
	c.Form("/token", "username", "isaac", "password", "another "+password).Must(t, 200)
	must("erased", "isaac\n", "erase", "isaac")
	refused("no account", "isaac", "erase", "isaac")
	c.Form("/token", "username", "isaac", "password", "another "+password).Refused(t, 401, "invalid_credentials")
	admin.Do("DELETE", "/users/me", `{"password":"`+password+`"}`).Must(t, 204)
	if out, err := user("", "list"); err != nil || strings.Contains(out, "edmond") || !strings.Contains(out, "erased") {
		t.Errorf("%s, %v", out, err)
	}
	refused("taken", password, "create", "edmond")
	if out, _, err := command(t, "", append([]string{"history", "rebuild", "--check"}, s.data...)...); err != nil {
		t.Errorf("%s, %v", out, err)
	}
}
