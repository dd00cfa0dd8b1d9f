package processes

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/url"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"colophon/internal/pg/pgtest"
	"colophon/test/program/programtest"
)

// tool runs a PostgreSQL program, such as psql, in the version of the given database's
// server.
func tool(t *testing.T, databaseURL, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), pgtest.Program(t, databaseURL, name), args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// makeRoles runs the script of the runbook. It returns the URL of the service's login.
func makeRoles(t *testing.T, ownerURL string) (serviceURL string) {
	t.Helper()
	tool(t, ownerURL, "psql", ownerURL, "--set=ON_ERROR_STOP=1", "--set=password=a-long-'password'", "--file=../../deploy/roles.sql")
	u, err := url.Parse(ownerURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User("colophon_service") // the test's server asks for no password
	return u.String()
}

func masterKey() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	return base64.StdEncoding.EncodeToString(key)
}

// refusedSQL runs a statement that the login must have no right to run.
func refusedSQL(t *testing.T, databaseURL, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), sql)
	if refusal, ok := errors.AsType[*pgconn.PgError](err); !ok || refusal.Code != "42501" {
		t.Errorf("%s: %v, want insufficient_privilege", sql, err)
	}
}

// TestServiceNeedsNoRightsOfTheOwner follows the runbook. The owner migrates, and the
// service has a login of its own. With --production the service must refuse the owner's
// login.
//
// security: ASVS 13.2.2
func TestServiceNeedsNoRightsOfTheOwner(t *testing.T) {
	t.Parallel()
	programtest.Path(t)
	server := pgtest.NewServer(t)
	owner := server.URL()
	service := makeRoles(t, owner)
	key := masterKey()
	settings := func(databaseURL string) []string {
		return []string{"DATABASE_URL=" + databaseURL, "COLOPHON_DATA=" + t.TempDir(), "COLOPHON_MASTER_KEY=" + key, "COLOPHON_PRODUCTION=true", "COLOPHON_LISTEN=127.0.0.1:0"}
	}
	if _, log, code := programtest.Run(t, settings(owner), "", "migrate"); code != 0 {
		t.Fatalf("migrate: exit status %d\n%s", code, log)
	}
	makeRoles(t, owner) // the script may be run again
	for _, command := range []string{"api", "worker", "up"} {
		_, log, code := programtest.Run(t, settings(owner), "", command)
		if code != 2 || !strings.Contains(log, "--database-url: the login colophon is a superuser") {
			t.Errorf("%s as the owner: exit status %d\n%s", command, code, log)
		}
	}
	if _, log, code := programtest.Run(t, settings(service), "", "migrate"); code != 1 || !strings.Contains(log, `the tables belong to "colophon"`) {
		t.Errorf("migrate without the owner's rights: exit status %d\n%s", code, log)
	}
	p := programtest.Start(t, settings(service), "up")
	c := newUser(t, p.URL, "isaac")
	if job := c.end(c.Submit(`{"prompt":"The nature of light"}`)); job.State != "completed" {
		t.Errorf("the job ended as %s", job.State)
	}
	for _, sql := range []string{
		`reset role; update events set type = 'changed'`,
		`reset role; delete from events`,
		`reset role; alter table events disable trigger all`,
		`set role colophon`,
	} {
		refusedSQL(t, service, sql)
	}
	p.Stop()
}

// TestPrivatePostgresHasALoginForTheService reads the logins of the connections of `up`.
// All must use the login colophon_service and not the owner's.
func TestPrivatePostgresHasALoginForTheService(t *testing.T) {
	t.Parallel()
	data := pgtest.Dir(t)
	p := programtest.Start(t, nil, "up", "--listen", "127.0.0.1:0", "--data", data)
	server := pgtest.OpenServer(t, data+"/postgres") // OpenServer uses the server that already runs
	conn, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, _ := conn.Query(t.Context(), `select distinct usename::text from pg_stat_activity where application_name like 'colophon%'`)
	logins, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(logins) != 1 || logins[0] != "colophon_service" {
		t.Errorf("the service's logins are %v, %v", logins, err)
	}
	p.Stop()
}
