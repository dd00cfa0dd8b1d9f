package processes

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"colophon/internal/pg/pgtest"
	"colophon/test/program/programtest"
)

// pooled starts PgBouncer in transaction mode in front of a server. The function through
// turns a URL of the server into a URL of the same database behind PgBouncer. Without
// PgBouncer, the test is skipped.
func pooled(t *testing.T, server *pgtest.Server) (through func(databaseURL string) string) {
	t.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		if path = "/usr/sbin/pgbouncer"; exec.Command(path, "--version").Run() != nil {
			t.Skip("needs PgBouncer: apt-get install pgbouncer")
		}
	}
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	socket := u.Query().Get("host")
	info, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	// PgBouncer runs under the account of the Postgres server. No other account can open the
	// server's socket, and PgBouncer refuses to run as root.
	account := info.Sys().(*syscall.Stat_t)
	dir := pgtest.Dir(t)
	config := fmt.Sprintf(`
[databases]
* = host=%s port=%s
[pgbouncer]
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
listen_addr =
listen_port = 6432
unix_socket_dir = %s
auth_type = trust
auth_file = %s/users
`, socket, u.Query().Get("port"), dir, dir)
	for name, text := range map[string]string{"config": config, "users": "\"colophon\" \"\"\n\"colophon_service\" \"\"\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(dir, int(account.Uid), int(account.Gid)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, filepath.Join(dir, "config"))
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: account.Uid, Gid: account.Gid}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("log of PgBouncer:\n%.5000s", log.String())
		}
	})
	through = func(databaseURL string) string {
		return pgtest.With(pgtest.With(databaseURL, "host", dir), "port", "6432")
	}
	programtest.Eventually(t, "PgBouncer answers", func() bool {
		conn, err := pgx.Connect(t.Context(), through(server.URL()))
		return err == nil && conn.Close(t.Context()) == nil
	})
	return through
}

// TestServiceWorksBehindAPooler runs the service behind PgBouncer, with a direct URL for
// LISTEN. Without the direct URL the service must refuse to start. Afterwards the
// pooler's sessions must be as they were.
func TestServiceWorksBehindAPooler(t *testing.T) {
	t.Parallel()
	programtest.Path(t)
	server := pgtest.NewServer(t)
	through := pooled(t, server)
	direct := makeRoles(t, server.URL())
	key := masterKey()
	settings := func(databaseURL, directURL string) []string {
		return []string{"DATABASE_URL=" + databaseURL, "COLOPHON_DATABASE_DIRECT_URL=" + directURL, "COLOPHON_DATA=" + t.TempDir(), "COLOPHON_MASTER_KEY=" + key, "COLOPHON_LISTEN=127.0.0.1:0"}
	}
	for _, command := range [][]string{{"migrate"}, {"up"}} {
		for _, setting := range [][]string{settings(through(server.URL()), ""), settings(through(server.URL()), through(server.URL()))} {
			_, log, code := programtest.Run(t, setting, "", command...)
			if code != 2 || !strings.Contains(log, "--database-direct-url: the URL leads to a pooler") {
				t.Errorf("%v without a direct URL: exit status %d\n%s", command, code, log)
			}
		}
	}
	if _, log, code := programtest.Run(t, settings(through(server.URL()), server.URL()), "", "migrate"); code != 0 {
		t.Fatalf("migrate: exit status %d\n%s", code, log)
	}
	elsewhere, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere.Path = "/postgres"
	for name, c := range map[string]struct{ pooled, direct, want string }{
		"the owner's login":  {server.URL(), direct, `"colophon" is a superuser`},
		"the owner directly": {server.URL(), server.URL(), `"colophon" is a superuser`},
		"another database":   {elsewhere.String(), direct, "it leads to another database"},
	} {
		_, log, code := programtest.Run(t, settings(through(c.pooled), c.direct), "", "api")
		if code != 2 || !strings.Contains(log, c.want) {
			t.Errorf("%s: exit status %d\n%s", name, code, log)
		}
	}
	s := settings(through(direct), direct)
	worker := programtest.Start(t, s, "worker")
	api := programtest.Start(t, s, "api")
	c := newUser(t, api.URL, "isaac")
	for seed := range 5 {
		id := c.Submit(sized(seed, 20))
		next(t, c.watch(id), func(e event) bool { return e.Type == "job.completed" })
	}
	c.Do("GET", "/history", "").Must(t, 200)
	if _, log, code := programtest.Run(t, s, "", "history", "rebuild", "--check"); code != 0 {
		t.Errorf("check the history: exit status %d\n%s", code, log)
	}
	for _, p := range []*programtest.Process{api, worker} {
		if log := p.Log(); strings.Contains(log, "level=WARN") || strings.Contains(log, "level=ERROR") {
			t.Errorf("%s complains:\n%s", p, log)
		}
	}
	unchangedSessions(t, through(direct))
	api.Stop()
	worker.Stop()
}

// unchangedSessions fails the test if the service has changed a session of the pooler. It
// uses the sessions as another program would.
func unchangedSessions(t *testing.T, databaseURL string) {
	t.Helper()
	ctx := context.Background()
	for range 4 { // each transaction stays open and so gets a session of its own
		conn, err := pgx.Connect(ctx, pgtest.With(databaseURL, "default_query_exec_mode", "exec"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		tx, err := conn.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		rows, _ := tx.Query(ctx, `
			select name || '=' || setting from pg_settings where source = 'session' and name not in ('application_name', 'client_encoding')
			union all select 'current_user=' || current_user where current_user <> session_user
			union all select 'prepared ' || statement from pg_prepared_statements
			union all select 'listening to ' || pg_listening_channels()
			union all select 'advisory lock' from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()`)
		changed, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(changed) > 0 {
			t.Errorf("a session of the pooler has %q, %v", changed, err)
		}
	}
}
