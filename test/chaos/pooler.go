package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"colophon/test/program"
)

// poolerName is the name of the pooler as the target of faults.
const poolerName = "pooler"

// poolerLogin is the login of processes behind the pooler. No other process has it.
const poolerLogin = "colophon_service"

// behindPooler reports whether the API or the worker with a number uses the pooler. The
// numbers begin at 1. Four workers have both builds behind the pooler and without it.
func behindPooler(number int) bool { return number/2%2 == 1 }

// pooler is PgBouncer in transaction mode, in front of the primary. Its connections to
// Postgres lead through a proxy, which leads to the new primary after a promotion.
type pooler struct {
	path    string
	dir     string              // directory of the configuration and of the socket
	account *syscall.Credential // nil for the account of this process
	log     *os.File
	primary *Proxy
	process *program.Process
}

// findPooler returns the path of PgBouncer, or an error if PgBouncer is not installed.
func findPooler() (string, error) {
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		return exec.LookPath("/usr/sbin/pgbouncer") // often not in the path of ordinary users
	}
	return path, nil
}

// startPooler starts PgBouncer at path in front of the server with the given socket, and
// waits until it answers.
func startPooler(ctx context.Context, path, runDir, logs, socket string) (p *pooler, err error) {
	p = &pooler{path: path, dir: filepath.Join(runDir, poolerName)}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.primary, err = NewProxy(ctx); err != nil {
		return nil, err
	}
	p.primary.Serve("unix", socket)
	if p.log, err = os.Create(filepath.Join(logs, poolerName+".log")); err != nil {
		return nil, err
	}
	if err := p.configure(socket); err != nil {
		return nil, fmt.Errorf("configure the pooler: %w", err)
	}
	if err := p.start(); err != nil {
		return nil, err
	}
	at := url.URL{Scheme: "postgres", User: url.User(poolerLogin), Path: "/colophon"}
	at.RawQuery = url.Values{"host": {p.dir}, "port": {poolerPort}}.Encode()
	waiting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return p, untilAvailable(waiting, func() error {
		conn, err := pgx.Connect(waiting, at.String())
		if err != nil {
			return fmt.Errorf("connect to the pooler: %w", err)
		}
		return conn.Close(waiting)
	})
}

const poolerPort = "6432"

// configure writes the configuration. PgBouncer refuses to run as root, so it gets the
// account of Postgres, which owns the socket.
func (p *pooler) configure(socket string) error {
	host, port, _ := strings.Cut(p.primary.Addr(), ":")
	// After a failed connection to Postgres, PgBouncer tries again after
	// server_login_retry. The default is 15 s.
	config := fmt.Sprintf(`
[databases]
* = host=%s port=%s
[pgbouncer]
pool_mode = transaction
default_pool_size = 16
max_client_conn = 400
listen_addr =
listen_port = %s
unix_socket_dir = %s
auth_type = trust
auth_file = %s/users
server_login_retry = 0.5
server_connect_timeout = 3
query_wait_timeout = 10
`, host, port, poolerPort, p.dir, p.dir)
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return err
	}
	for name, content := range map[string]string{"config": config, "users": fmt.Sprintf("%q \"\"\n", poolerLogin)} {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	info, err := os.Stat(socket)
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		p.account = &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}
		return os.Chown(p.dir, int(owner.Uid), int(owner.Gid))
	}
	return nil
}

func (p *pooler) start() (err error) {
	p.process, err = program.StartAs(p.account, p.log, nil, p.path, filepath.Join(p.dir, "config"))
	return err
}

// socket returns the socket on which the pooler listens.
func (p *pooler) socket() string { return filepath.Join(p.dir, ".s.PGSQL."+poolerPort) }

// inject kills the pooler and starts it again. It calls the function injected once, when
// the pooler has ended.
func (p *pooler) inject(ctx context.Context, lasts time.Duration, injected func()) error {
	p.process.Kill()
	injected()
	if err := sleep(ctx, lasts); err != nil {
		return err
	}
	return p.start()
}

// close kills the pooler.
func (p *pooler) close() {
	if p.process != nil {
		p.process.Kill()
	}
	if p.primary != nil {
		p.primary.Close()
	}
	if p.log != nil {
		_ = p.log.Close()
	}
}

// createPoolerLogin creates the login of processes behind the pooler, as deploy/roles.sql
// does. These processes cannot set the settings themselves.
const createPoolerLogin = `
create role ` + poolerLogin + ` login in role colophon_app;
alter role ` + poolerLogin + ` set idle_in_transaction_session_timeout = '3s';
alter role ` + poolerLogin + ` set statement_timeout = '10s';
alter role ` + poolerLogin + ` set synchronous_commit = 'on';`

// addPooler starts the pooler if PgBouncer is installed.
func (r *run) addPooler(ctx context.Context) error {
	if max(r.APIs, r.Workers) < 2 {
		return nil // no process would use it
	}
	path, err := findPooler()
	if err != nil {
		r.note("no process is behind a pooler, because PgBouncer is not installed: %v", err)
		return nil
	}
	if _, err := r.postgres.pool.Exec(ctx, createPoolerLogin); err != nil {
		return fmt.Errorf("create the login behind the pooler: %w", err)
	}
	sockets, err := r.postgres.sockets()
	if err != nil {
		return err
	}
	if r.pooler, err = startPooler(ctx, path, r.dir, r.Logs, sockets[r.postgres.primary]); err != nil {
		return err
	}
	r.postgres.promoted = func() { r.pooler.primary.Serve("unix", sockets[r.postgres.primary]) }
	return nil
}

// checkPooler checks that PgBouncer carried writes. n is the number of events that were
// written by the login that only PgBouncer's clients have.
func checkPooler(n int) []Violation {
	if n > 0 {
		return nil
	}
	return []Violation{{Lost, "", "processes behind the pooler write events", "some", "none"}}
}
