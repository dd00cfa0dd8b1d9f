package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
)

// postgres has the two private servers of a run: a primary, and a synchronous standby.
// Its methods are not safe for concurrent use, but the pool is.
type postgres struct {
	dir  string
	bin  string
	logs string        // directory for the servers' logs
	pool *pgxpool.Pool // connects to the primary as the owner of the database, without a proxy

	clusters [2]*pg.Cluster
	primary  int // index in clusters

	promoted func() // called after each promotion, or nil
}

// startPostgres starts the servers and opens a pool that observes the primary.
func startPostgres(ctx context.Context, dir, bin, logs string) (_ *postgres, err error) {
	p := &postgres{dir: dir, bin: bin, logs: logs}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if err := p.start(ctx, p.primary); err != nil {
		return nil, err
	}
	// After a crash of the primary, its standby tries to connect at this interval. Commits
	// wait for the standby. The default is 5 s.
	if err := p.set(ctx, "wal_retrieve_retry_interval", "200ms"); err != nil {
		return nil, err
	}
	if err := p.addStandby(ctx); err != nil {
		return nil, err
	}
	both, err := p.both()
	if err != nil {
		return nil, err
	}
	p.pool, err = pg.Connect(ctx, both, "")
	return p, err
}

// both returns a database URL with the addresses of both servers. A client that connects
// with this URL finds the primary.
func (p *postgres) both() (string, error) {
	var hosts, ports []string
	var at *url.URL
	for _, c := range p.clusters {
		var err error
		if at, err = url.Parse(c.URL()); err != nil {
			return "", err
		}
		hosts, ports = append(hosts, at.Query().Get("host")), append(ports, at.Query().Get("port"))
	}
	query := at.Query()
	query.Set("host", strings.Join(hosts, ","))
	query.Set("port", strings.Join(ports, ","))
	at.RawQuery = query.Encode()
	return at.String(), nil
}

// sockets returns the sockets of the servers, which stay the same after each start.
func (p *postgres) sockets() (sockets [2]string, err error) {
	for i, c := range p.clusters {
		at, err := url.Parse(c.URL())
		if err != nil {
			return sockets, err
		}
		sockets[i] = filepath.Join(at.Query().Get("host"), ".s.PGSQL."+at.Query().Get("port"))
	}
	return sockets, nil
}

func (p *postgres) serverDir(i int) string {
	return filepath.Join(p.dir, fmt.Sprintf("postgres-%d", i+1))
}

// start starts a server that is down.
func (p *postgres) start(ctx context.Context, i int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cluster, err := pg.Start(ctx, p.serverDir(i), pg.Options{Bin: p.bin})
	if err == nil {
		p.clusters[i] = cluster
	}
	return err
}

// addStandby makes a new standby of the primary, in place of the other server, which must
// be down. When addStandby returns, the commits of the primary wait for the standby.
func (p *postgres) addStandby(ctx context.Context) error {
	other := 1 - p.primary
	if err := errors.Join(p.keepLogs(other), os.RemoveAll(p.serverDir(other))); err != nil {
		return err
	}
	if err := pgtest.CopyServer(ctx, p.clusters[p.primary].URL(), p.serverDir(other)); err != nil {
		return err
	}
	if err := p.start(ctx, other); err != nil {
		return err
	}
	if err := p.set(ctx, "synchronous_standby_names", "*"); err != nil {
		return err
	}
	return p.awaitStandby(ctx)
}

// awaitStandby waits until the standby has everything that the primary has committed, and
// all commits of the primary wait for the standby.
func (p *postgres) awaitStandby(ctx context.Context) error {
	return p.until(ctx, p.primary, `select exists (select from pg_stat_replication where state = 'streaming' and sync_state = 'sync')`)
}

// set changes a setting of the primary in all sessions. It works on a server that is
// read-only.
func (p *postgres) set(ctx context.Context, setting, value string) error {
	conn, err := pgx.Connect(ctx, p.clusters[p.primary].URL())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err = conn.Exec(ctx, `alter system set `+setting+` = '`+value+`'`); err == nil {
		_, err = conn.Exec(ctx, `select pg_reload_conf()`)
	}
	if err != nil {
		return fmt.Errorf("set %s: %w", setting, err)
	}
	return nil
}

// until repeats a query on a server until its result is true.
func (p *postgres) until(ctx context.Context, i int, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.clusters[i].URL())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for {
		var done bool
		if err := conn.QueryRow(ctx, sql).Scan(&done); err != nil || done {
			return err
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("wait for %q: %w", sql, err)
		}
	}
}

// close stops the servers and keeps their logs.
func (p *postgres) close() error {
	if p.pool != nil {
		p.pool.Close()
	}
	var errs []error
	for i, c := range p.clusters {
		if c == nil {
			continue
		}
		p.stop(i, 0)
		select {
		case <-c.Exited():
		default:
			errs = append(errs, errors.New("postgres is still running after its stop"))
		}
		errs = append(errs, p.keepLogs(i))
	}
	return errors.Join(errs...)
}

// stop shuts a server down. If the server still runs after the given time, stop ends it
// at once. A recovering server may ignore an ordinary shutdown.
func (p *postgres) stop(i int, within time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	_ = p.clusters[i].Stop(ctx) // an error means that the server recovers at its next start
}

// kill ends all processes of a server at once.
func (p *postgres) kill(i int) error {
	pids, err := pgtest.Processes(p.clusters[i].PID())
	if err != nil {
		return fmt.Errorf("list the processes of postgres: %w", err)
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // the process may have ended
	}
	<-p.clusters[i].Exited()
	return nil
}

// keepLogs appends the logs of a server to those of the run. Each start of Postgres begins
// a new log and keeps the log of the previous start.
func (p *postgres) keepLogs(i int) error {
	kept, err := os.OpenFile(filepath.Join(p.logs, filepath.Base(p.serverDir(i))+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	for _, name := range []string{"log.1", "log"} {
		text, _ := os.ReadFile(filepath.Join(p.serverDir(i), name)) // the error is ignored, because one of the two logs may be missing
		_, writeErr := kept.Write(text)
		err = errors.Join(err, writeErr)
	}
	return errors.Join(err, kept.Close())
}
