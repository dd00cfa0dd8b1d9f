package main

import (
	"slices"
	"strings"
	"testing"

	"colophon/internal/pg/pgtest"
	"colophon/migrations"
)

// TestEraseDestroysTheKeyBeforeItReports erases accounts while no other process runs. The
// account's encryption key must be gone when the command reports success. If the key
// cannot be destroyed, the command must say so, and the next start of the service must
// destroy the key.
func TestEraseDestroysTheKeyBeforeItReports(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	database := []string{"--database-url", db.URL, "--data", t.TempDir()}
	user := func(stdin string, args ...string) error {
		t.Helper()
		_, _, err := command(t, stdin, slices.Concat([]string{"user"}, args, database)...)
		return err
	}
	keys := func() (n int) {
		t.Helper()
		err := db.Owner.QueryRow(t.Context(), `
			select count(*) from owner_keys join accounts on id = owner where wrapped is not null and username_key <> ''`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, name := range []string{"isaac", "edmond"} {
		if err := user(password+"\n", "create", name); err != nil {
			t.Fatal(err)
		}
	}
	if err := user("isaac\n", "erase", "isaac"); err != nil || keys() != 1 {
		t.Errorf("%d keys after an erasure, %v, want the other account's", keys(), err)
	}
	for _, sql := range []string{
		`create function stuck() returns trigger language plpgsql as $$ begin raise exception 'stuck'; end $$`,
		`create trigger stuck before update of wrapped on owner_keys for each row execute function stuck()`,
	} {
		if _, err := db.Owner.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	err := user("edmond\n", "erase", "edmond")
	if err == nil || status(err) != 3 || !strings.Contains(err.Error(), "not destroyed yet") || keys() != 1 {
		t.Errorf("erase that is stuck: %v, and %d keys, want status 3 and the key", err, keys())
	}
	if _, err := db.Owner.Exec(t.Context(), `drop trigger stuck on owner_keys`); err != nil {
		t.Fatal(err)
	}
	serve(t, "api", database...)
	eventually(t, "the key is destroyed", func() bool { return keys() == 0 })
}

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
