package migrations_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
	"colophon/migrations"
)

// rights lists the rights of AppRole and of PUBLIC on every relation, schema and function
// of the program.
func rights(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, _ := pool.Query(t.Context(), `
		with objects (name, acl) as (
			select oid::regclass::text, relacl from pg_class where relnamespace in ('public'::regnamespace, 'river'::regnamespace) and relkind in ('r', 'S')
			union all select nspname, nspacl from pg_namespace where nspname in ('public', 'river')
			union all select oid::regprocedure::text, proacl from pg_proc where pronamespace in ('public'::regnamespace, 'river'::regnamespace)
		)
		select name || ': ' || privilege_type || ' to ' || case grantee when 0 then 'public' else pg_get_userbyid(grantee)::text end
		from objects, aclexplode(acl) where grantee = 0 or pg_get_userbyid(grantee) = 'colophon_app' order by 1`)
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestMigratingMendsRolesAndRights damages the role and its rights, as a restore into
// another server and as administrators do. Up must give the role exactly the rights of
// a new database.
func TestMigratingMendsRolesAndRights(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	pool, err := pg.Connect(t.Context(), server.URL(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := migrations.Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	want := rights(t, pool)
	if !slices.Contains(want, "events: INSERT to colophon_app") || slices.Contains(want, "events: UPDATE to colophon_app") {
		t.Fatalf("rights %q", want)
	}
	for _, damage := range []string{
		`drop owned by colophon_app; drop role colophon_app`, // no role, as in a new server
		`drop owned by colophon_app`,                         // a role without rights, as after pg_restore --no-acl
		`grant all on all tables in schema public to colophon_app`,
		`grant update (payload) on events to colophon_app`,
		`grant all on events, owner_keys to public`,
		`alter role colophon_app login superuser`,
		`revoke colophon_app from colophon`,
	} {
		if _, err := pool.Exec(t.Context(), damage); err != nil {
			t.Fatalf("%s: %v", damage, err)
		}
		if err := migrations.Up(t.Context(), pool); err != nil {
			t.Fatalf("after %s: %v", damage, err)
		}
		if got := rights(t, pool); !cmp.Equal(got, want) {
			t.Errorf("after %s: %s", damage, cmp.Diff(want, got))
		}
		app, err := pg.Connect(t.Context(), server.URL(), migrations.AppRole)
		if err != nil {
			t.Fatalf("after %s: %v", damage, err)
		}
		if err := migrations.Check(t.Context(), app); err != nil {
			t.Errorf("after %s: %v", damage, err)
		}
		app.Close()
		var weak bool
		err = pool.QueryRow(t.Context(), `
			select rolcanlogin or rolsuper or has_column_privilege('colophon_app', 'events', 'payload', 'update') from pg_roles where rolname = 'colophon_app'`).Scan(&weak)
		if err != nil || weak {
			t.Errorf("after %s the role is too strong (%v)", damage, err)
		}
	}
}

// TestLoginOfTellsWhoCanRewriteTheLog connects with logins of different rights. LoginOf
// must report the right power, membership and settings of each login.
func TestLoginOfTellsWhoCanRewriteTheLog(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	super, err := pg.Connect(t.Context(), server.URL(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer super.Close()
	exec := func(sql string) {
		t.Helper()
		if _, err := super.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec(`create role colophon_app nologin; create role owner login in role colophon_app`)
	exec(`create database service owner owner`)
	as := func(login, database string) *pgxpool.Pool {
		t.Helper()
		u, err := url.Parse(server.URL())
		if err != nil {
			t.Fatal(err)
		}
		u.User, u.Path = url.User(login), "/"+database
		pool, err := pg.ConnectPooled(t.Context(), u.String()) // ConnectPooled leaves the settings of the login as they are
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		return pool
	}
	if err := migrations.Up(t.Context(), as("owner", "service")); err != nil {
		t.Fatal(err)
	}
	if err := migrations.AddLogin(t.Context(), super, "service"); err != nil {
		t.Fatal(err)
	}
	if err := migrations.AddLogin(t.Context(), super, "service"); err != nil { // the login exists already
		t.Fatal(err)
	}
	exec(`create role restorer login; alter role restorer set idle_in_transaction_session_timeout = '3s';
		alter role restorer set statement_timeout = '5s'; alter role restorer set synchronous_commit = off`)
	exec(`create role deputy login noinherit in role owner, colophon_app; create role creator login createrole in role colophon_app;
		create role boss superuser; create role heir login noinherit in role boss, colophon_app;
		create role porter login in role pg_write_server_files, colophon_app`)
	for name, want := range map[string]migrations.Login{
		"colophon": {Power: "is a superuser", Member: true},
		"owner":    {Power: "can act as the owner of the database", Member: true},
		"deputy":   {Power: "can act as the owner of the database"},
		"creator":  {Power: "may create roles", Member: true},
		"heir":     {Power: "can act as a role that has power over the server"},
		"porter":   {Power: "can act as a role that has power over the server", Member: true},
		"service":  {Member: true},
		"restorer": {},
	} {
		want.Name = name
		want.Settings = "alter role " + name + " set idle_in_transaction_session_timeout = '3s'; alter role " + name + " set statement_timeout = '10s'"
		if name == "restorer" {
			want.Settings = "alter role restorer set synchronous_commit = 'on'"
		}
		got, err := migrations.LoginOf(t.Context(), as(name, "service"))
		if err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
		lacks := "settings of sessions"
		switch {
		case want.Power != "":
			lacks = want.Power
		case !want.Member:
			lacks = "grant colophon_app to"
		}
		if err := got.WithoutSet(); err == nil || !strings.Contains(err.Error(), lacks) {
			t.Errorf("%s lacks %q: %v", name, lacks, err)
		}
		exec(got.Settings)
		if got, err := migrations.LoginOf(t.Context(), as(name, "service")); err != nil || got.Settings != "" {
			t.Errorf("%+v, %v, after its settings were made", got, err)
		}
	}
	if got, err := migrations.LoginOf(t.Context(), as("service", "service")); err != nil || got.WithoutSet() != nil {
		t.Errorf("%+v, %v", got, err)
	}
	exec(`alter database service owner to colophon`)
	if got, err := migrations.LoginOf(t.Context(), as("owner", "service")); err != nil || got.Power != "can act as the owner of the schema" {
		t.Errorf("%+v, %v", got, err)
	}
	// SET ROLE does not hide the login.
	u, _ := url.Parse(server.URL())
	u.User, u.Path = url.User("owner"), "/service"
	app, err := pg.Connect(t.Context(), u.String(), migrations.AppRole)
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	if got, err := migrations.LoginOf(t.Context(), app); err != nil || got.Name != "owner" || got.Power == "" {
		t.Errorf("%+v, %v", got, err)
	}
	if err := migrations.Up(t.Context(), as("restorer", "service")); err == nil || !strings.Contains(err.Error(), "needs the role") {
		t.Errorf("a login without rights migrates: %v", err)
	}
	if err := migrations.Up(t.Context(), as("service", "service")); err == nil || !strings.Contains(err.Error(), `the tables belong to "owner"`) {
		t.Errorf("a login without the owner's rights migrates: %v", err)
	}
}
