package migrations_test

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
	"colophon/migrations"
)

// schema returns every column of every table, with its type.
func schema(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, _ := pool.Query(t.Context(), `
		select table_schema || '.' || table_name || '.' || column_name || ' ' || data_type from information_schema.columns
		where table_schema not in ('pg_catalog', 'information_schema') order by 1`)
	columns, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return columns
}

// TestShiftedClockMovesNoTable migrates a database whose clock a test has shifted. Its tables
// must be where they are in other databases.
func TestShiftedClockMovesNoTable(t *testing.T) {
	want := schema(t, pgtest.New(t, migrations.Up).Owner)
	db := pgtest.New(t, func(context.Context, *pgxpool.Pool) error { return nil })
	db.ShiftClock(t, time.Hour)
	for range 2 { // the second time, nothing is left to do
		if err := migrations.Up(t.Context(), db.Owner); err != nil {
			t.Fatal(err)
		}
		got := slices.DeleteFunc(schema(t, db.Owner), func(column string) bool { return strings.HasPrefix(column, "shifted.") })
		if !slices.Equal(got, want) {
			t.Errorf("the columns are %v, want %v", got, want)
		}
	}
}

func TestManyProcessesMigrateAtOnce(t *testing.T) {
	url := pgtest.Empty(t)
	pool, err := pg.Connect(t.Context(), url, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := migrations.Check(t.Context(), pool); err == nil {
		t.Error("an empty database passes for one that is up to date")
	}
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() {
			own, err := pg.Connect(t.Context(), url, "")
			if err == nil {
				defer own.Close()
				err = migrations.Up(t.Context(), own)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	once := schema(t, pool)
	if err := migrations.Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if again := schema(t, pool); len(once) < 40 || len(again) != len(once) {
		t.Errorf("%d columns, and after migrating again %d", len(once), len(again))
	}
	app, err := pg.Connect(t.Context(), url, migrations.AppRole)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(app.Close)
	if err := migrations.Check(t.Context(), app); err != nil {
		t.Errorf("the application's role: %v", err)
	}
	for _, behind := range []struct{ undo, redo string }{
		{`delete from ` + migrations.RiverSchema + `.river_migration where version = 6`, `insert into ` + migrations.RiverSchema + `.river_migration (line, version) values ('main', 6)`},
		{`delete from goose_db_version where version_id > 1`, ``},
	} {
		if _, err := pool.Exec(t.Context(), behind.undo); err != nil {
			t.Fatal(err)
		}
		if err := migrations.Check(t.Context(), app); !errors.Is(err, migrations.ErrBehind) {
			t.Errorf("%s: %v, want ErrBehind", behind.undo, err)
		}
		if _, err := pool.Exec(t.Context(), behind.redo); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMigratingStopsWithItsContext(t *testing.T) {
	db := pgtest.New(t, migrations.Up)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := migrations.Up(ctx, db.Owner); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := migrations.Up(t.Context(), db.Owner); err != nil { // succeeds only if the failed migration has released the lock
		t.Error(err)
	}
}

// TestMigratingWorksWithOneConnection migrates with a pool that has only one
// connection. Up must succeed.
func TestMigratingWorksWithOneConnection(t *testing.T) {
	config, err := pgxpool.ParseConfig(pgtest.Empty(t))
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := migrations.Up(ctx, pool); err != nil {
		t.Error(err)
	}
	if err := migrations.Check(ctx, pool); err != nil {
		t.Error(err)
	}
}

// TestOwnerWithFewRightsMigrates migrates as an owner who has few rights, on a server
// that has revoked default rights. Up must succeed. If rights are missing, the error
// must name the statements to run.
func TestOwnerWithFewRightsMigrates(t *testing.T) {
	server := pgtest.NewServer(t)
	super, err := pg.Connect(t.Context(), server.URL(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer super.Close()
	exec := func(pool *pgxpool.Pool, sql string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec(super, `alter system set fsync = off`) // makes the creation of databases several times faster
	exec(super, `select pg_reload_conf()`)
	for _, c := range []struct{ name, rights, setup, want string }{
		{"no_role", "", "", `create role colophon_app nologin; grant colophon_app to "owner_no_role"`},
		{"may_create_roles", "createrole", "", ""},
		{"no_member", "", "", `grant colophon_app to "owner_no_member"`},
		{"member", "in role colophon_app", "", ""},
		{"public_closed", "in role colophon_app", `revoke all on schema public from public`, ""},
		{"search_path", "in role colophon_app", `create schema app authorization owner_search_path; alter database search_path set search_path = app, public`, ""},
		{"functions_closed", "in role colophon_app", `alter default privileges for role owner_functions_closed revoke execute on functions from public`, ""},
		{"no_create", "in role colophon_app", `alter database no_create owner to colophon; create schema river authorization owner_no_create`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			owner := "owner_" + c.name
			exec(super, `create role `+owner+` login `+c.rights)
			exec(super, `create database `+c.name+` owner `+owner)
			u, err := url.Parse(server.URL())
			if err != nil {
				t.Fatal(err)
			}
			u.Path = "/" + c.name
			inside, err := pg.Connect(t.Context(), u.String(), "")
			if err != nil {
				t.Fatal(err)
			}
			defer inside.Close()
			exec(inside, `alter schema public owner to `+owner+`; `+c.setup)
			u.User = url.User(owner)
			pool, err := pg.Connect(t.Context(), u.String(), "")
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			for range 2 {
				switch err := migrations.Up(t.Context(), pool); {
				case c.want == "" && err != nil:
					t.Fatal(err)
				case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
					t.Fatalf("got %v, want %s", err, c.want)
				}
			}
			if c.want != "" {
				return
			}
			app, err := pg.Connect(t.Context(), u.String(), migrations.AppRole)
			if err != nil {
				t.Fatal(err)
			}
			defer app.Close()
			if err := migrations.Check(t.Context(), app); err != nil {
				t.Fatal(err)
			}
			exec(app, `insert into owner_keys (owner, wrapped) values (gen_random_uuid(), ''); select admit(owner) from owner_keys;
				select sign_in_wait(1, 1, '1s', '1s'); select from `+migrations.RiverJobs)
		})
	}
}

// The runbook must say what each migration locks.
func TestRunbookHasTheLocksOfEachMigration(t *testing.T) {
	t.Parallel()
	runbook, err := os.ReadFile("../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(runbook), "## Migrations and their locks")
	named := map[string]bool{}
	for line := range strings.Lines(section) {
		if numbers, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " |"); ok && strings.HasPrefix(line, "| ") {
			for number := range strings.SplitSeq(numbers, ", ") {
				named[number] = true
			}
		}
	}
	files, err := filepath.Glob("0*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d migrations, %v", len(files), err)
	}
	for _, file := range files {
		number, _, _ := strings.Cut(strings.TrimLeft(file, "0"), "_")
		if !named[number] {
			t.Errorf("docs/runbook.md does not say what %s locks, and for how long", file)
		}
	}
}
