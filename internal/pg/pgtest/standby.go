package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Standby starts a standby of the server, which ends with the test. The server does not
// wait for the standby until WaitForStandby is called.
func (s *Server) Standby() *Server {
	s.t.Helper()
	dir := filepath.Join(Dir(s.t), "postgres")
	if err := CopyServer(s.t.Context(), s.URL(), dir); err != nil {
		s.t.Fatal(err)
	}
	standby := OpenServer(s.t, dir)
	s.until(`select exists (select from pg_stat_replication where state = 'streaming')`)
	return standby
}

// CopyServer copies the running server that url names, as its owner, into the new
// directory dir. A server that is started in dir is a standby of the first server.
func CopyServer(ctx context.Context, url, dir string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var programs, data string
	err = conn.QueryRow(ctx, `select setting, current_setting('data_directory') from pg_config where name = 'BINDIR'`).Scan(&programs, &data)
	if err != nil {
		return fmt.Errorf("find the files of the server: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(programs, "pg_basebackup"), "--dbname="+url, "--pgdata="+filepath.Join(dir, "data"),
		"--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--no-sync")
	cmd.Dir, cmd.Env = "/", []string{"LC_ALL=C"}
	if os.Geteuid() == 0 { // the server's account owns its files
		info, err := os.Stat(data)
		if err != nil {
			return err
		}
		owner := info.Sys().(*syscall.Stat_t)
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pg_basebackup: %w\n%s", err, out)
	}
	return nil
}

// WaitForStandby makes the commits of the server wait for its standby.
func (s *Server) WaitForStandby() {
	s.t.Helper()
	s.exec(`alter system set synchronous_standby_names = '*'`)
	s.exec(`select pg_reload_conf()`)
	s.until(`select exists (select from pg_stat_replication where sync_state = 'sync')`)
}

// Set changes a setting of the server in all sessions.
func (s *Server) Set(setting, value string) {
	s.t.Helper()
	s.exec(`alter system set ` + setting + ` = '` + value + `'`)
	s.exec(`select pg_reload_conf()`)
}

// Promote makes a standby a primary. It returns when the server accepts writes.
func (s *Server) Promote() {
	s.t.Helper()
	s.until(fmt.Sprintf(`select pg_promote(true, %d)`, int(patience.Seconds())))
}

// Query reads one row, as the owner of the server.
func (s *Server) Query(sql string, results ...any) {
	s.t.Helper()
	s.connected(func(ctx context.Context, conn *pgx.Conn) error { return conn.QueryRow(ctx, sql).Scan(results...) })
}

// exec runs a statement as the owner of the server.
func (s *Server) exec(sql string) {
	s.t.Helper()
	s.connected(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

// until repeats a query until its result is true.
func (s *Server) until(sql string) {
	s.t.Helper()
	s.connected(func(ctx context.Context, conn *pgx.Conn) error {
		for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
			var done bool
			if err := conn.QueryRow(ctx, sql).Scan(&done); err != nil || done {
				return err
			}
		}
	})
}

// patience is the limit of a statement or a wait. It only ends tests that hang: beside other
// tests with the race detector, a promotion can take more than a minute.
const patience = 5 * time.Minute

func (s *Server) connected(fn func(context.Context, *pgx.Conn) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL())
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := fn(ctx, conn); err != nil {
		s.t.Fatal(err)
	}
}

// AnyOf returns a connection URL that lists all the servers. A client of this URL
// connects to the server that accepts writes.
func AnyOf(servers ...*Server) string {
	var hosts, ports []string
	for _, s := range servers {
		config := s.config()
		hosts, ports = append(hosts, config.Host), append(ports, strconv.Itoa(int(config.Port)))
	}
	config := servers[0].config()
	query := url.Values{"host": {strings.Join(hosts, ",")}, "port": {strings.Join(ports, ",")}, "sslmode": {"disable"}, "target_session_attrs": {"read-write"}}
	u := url.URL{Scheme: "postgres", User: url.User(config.User), Path: "/" + config.Database, RawQuery: query.Encode()}
	return u.String()
}

func (s *Server) config() *pgx.ConnConfig {
	config, err := pgx.ParseConfig(s.URL())
	if err != nil {
		s.t.Fatal(err)
	}
	return config
}
