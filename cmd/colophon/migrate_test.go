package main

import (
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"colophon/internal/pg/pgtest"
)

// TestProcessBeforeMigrateSaysToMigrate runs commands on a database that has not been
// migrated. The error must say to migrate, whether or not another database of the server
// has been migrated.
func TestProcessBeforeMigrateSaysToMigrate(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	database := []string{"--database-url", server.URL(), "--data", t.TempDir()}
	refused := func(want string, database []string) {
		t.Helper()
		for _, command1 := range []string{"api", "worker", "user list", "history rebuild"} {
			_, _, err := command(t, "", append(strings.Fields(command1), database...)...)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", command1, err, want)
			}
		}
	}
	refused("run colophon migrate", database)
	conn, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `create role colophon_app; create role stranger login`); err != nil {
		t.Fatal(err)
	}
	refused("run colophon migrate", database)
	if out, _, err := command(t, "", append([]string{"migrate"}, database...)...); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User("stranger")
	refused(`grant colophon_app to "stranger"`, []string{"--database-url", u.String(), "--data", t.TempDir()})
}

// TestServiceRunsForAnOwnerWithFewRights gives the owner of the database few rights. The
// whole service must still run.
func TestServiceRunsForAnOwnerWithFewRights(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	conn, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `
		create role colophon_app nologin;
		create role owner login in role colophon_app;
		revoke all on schema public from public;
		alter default privileges for role owner revoke execute on functions from public;
		create schema app authorization owner;
		create schema river authorization owner;
		alter database colophon set search_path = app, public;`); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User("owner")
	s := up(t, "--no-rate-limits", "--database-url", u.String())
	c := newUser(t, s.url, "isaac")
	c.Do("POST", "/generate", `{"prompt":"The nature of light"}`).Must(t, 200)
	c.Do("DELETE", "/users/me", `{"password":"`+password+`"}`).Must(t, 204)
}
